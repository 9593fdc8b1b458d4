"""Layers of binary networks against loops in NumPy."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitsnn_jax.binary import BinaryConv, MaskedConv, NormSign, Sign, by_popcount
from bitsnn_jax.binary.meliusnet import MeliusBlock
from bitsnn_jax.binary.pokebnn import DPReLU, PokeConv, SqueezeExcite
from bitsnn_jax.binary.sakr import ClipStep
from bitsnn_jax.numerics.binary import scaled_by_max, unscaled

RNG = np.random.default_rng(0)
norm = partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5)


def normal(*shape):
    return RNG.normal(size=shape).astype("f4")


def signs(*shape):
    return np.where(normal(*shape) >= 0, 1, -1).astype("f4")


def convolved(x, w):
    """A padded 3x3 convolution of one image, place by place."""
    height, width, _ = x.shape
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    y = np.zeros((height, width, w.shape[-1]))
    for row, column in np.ndindex(height, width):
        window = padded[row : row + 3, column : column + 3]
        y[row, column] = np.tensordot(window, w, axes=3)
    return y


def normed(x, variables):
    """Batch norm in inference."""
    own, stats = variables["params"], variables["batch_stats"]
    std = np.sqrt(np.asarray(stats["var"]) + 1e-5)
    return (x - stats["mean"]) / std * own["scale"] + own["bias"]


def drawn(module, x, **options):
    """Variables of a module, all of them random."""
    shapes = jax.eval_shape(partial(module.init, **options), jax.random.key(0), x)

    def value(path, leaf):
        noise = normal(*leaf.shape)
        return 0.5 + abs(noise) if path[-1].key in ("var", "scale") else noise

    return jax.tree_util.tree_map_with_path(value, shapes)


@pytest.mark.parametrize(
    ("weights", "scale"),
    [
        (None, lambda w: np.abs(w).mean((0, 1, 2))),
        (scaled_by_max, lambda w: np.abs(w).max((0, 1, 2)) / 2),
        (unscaled, lambda w: 1.0),
    ],
)
def test_a_binary_convolution_is_one_of_signs_times_a_scale(weights, scale):
    layer = BinaryConv(3, **({"weights": weights} if weights else {}))
    x, w = signs(1, 4, 5, 2), normal(3, 3, 2, 3)
    found = jax.jit(layer.apply)({"params": {"kernel": w}}, x)
    expected = convolved(x[0], np.where(w >= 0, 1, -1)) * scale(w)
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)


def test_a_masked_convolution_is_one_of_some_signs_times_one_scale():
    layer, x = MaskedConv(3, keep=0.25), signs(1, 4, 5, 2)
    w, scores = normal(3, 3, 2, 3), normal(3, 3, 2, 3)
    found = jax.jit(layer.apply)({"params": {"frozen": w, "scores": scores}}, x)
    kept = np.abs(scores) >= np.sort(np.abs(scores).ravel())[-14]  # round(54 / 4)
    expected = convolved(x[0], np.sign(w) * kept) * np.abs(w[kept]).mean()
    # The scale is a mean of 14 numbers, added in another order.
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)


@pytest.mark.parametrize("layer", [BinaryConv(3), MaskedConv(3, keep=0.5)])
def test_a_layer_gives_the_same_bits_by_popcount(layer):
    x = signs(2, 5, 4, 40)
    variables = layer.init(jax.random.key(0), x)
    found = by_popcount(layer.apply)(variables, x)
    assert jnp.array_equal(found, layer.apply(variables, x))
    assert "population_count" in str(
        jax.make_jaxpr(by_popcount(layer.apply))(variables, x)
    )


def test_a_layer_that_sees_numbers_is_left_as_it_is():
    layer, x = MaskedConv(3, analog=True), normal(1, 4, 4, 2)
    variables = drawn(layer, x)
    jaxpr = jax.make_jaxpr(by_popcount(layer.apply))(variables, x)
    assert "population_count" not in str(jaxpr)


def test_a_norm_and_its_sign_are_a_threshold():
    module, x = NormSign(norm), normal(2, 3, 3, 4)
    variables = drawn(module, x, train=False)
    found = jax.jit(partial(module.apply, train=False))(variables, x)
    inner = {key: tree["norm"] for key, tree in variables.items()}
    assert jnp.array_equal(found, np.where(normed(x, inner) >= 0, 1.0, -1.0))


def test_a_sign_has_no_parameters():
    assert not Sign().init(jax.random.key(0), jnp.ones(3))


def test_dprelu_has_two_slopes_around_its_knee():
    params = {"above": 1.5, "below": 0.25, "knee": 0.5, "shift": 0.125}
    params = {name: np.full(2, value, np.float32) for name, value in params.items()}
    x = np.array([[0.5, 2.5], [0.25, -1.5]], np.float32)
    # 1.5 (2.5 - 0.5) - 0.125; 0.25 (-0.25) - 0.125; 0.25 (-2) - 0.125
    expected = [[-0.125, 2.875], [-0.1875, -0.625]]
    np.testing.assert_allclose(DPReLU().apply({"params": params}, x), expected)


def test_squeeze_and_excite_is_a_factor_of_the_mean_image():
    module, x = SqueezeExcite(16), normal(2, 3, 3, 16)
    variables = drawn(module, x)
    params = variables["params"]
    mean = x.mean((1, 2))
    hidden = mean @ params["squeeze"]["kernel"] + params["squeeze"]["bias"]
    raised = np.maximum(hidden, 0) @ params["excite"]["kernel"]
    raised = raised + params["excite"]["bias"] + 3
    expected = np.minimum(np.maximum(raised, 0), 6) / 6
    assert hidden.shape == (2, 2)
    np.testing.assert_allclose(
        module.apply(variables, x)[:, 0, 0], expected, rtol=1e-4, atol=1e-6
    )


def test_a_poke_convolution_is_that_of_its_equations():
    features = 5
    module, x = PokeConv(features, norm), normal(1, 4, 4, 3)
    variables = drawn(module, x, train=False)
    params, stats = variables["params"], variables["batch_stats"]

    def part(name):
        return {"params": params[name], "batch_stats": stats.get(name, {})}

    w = params["conv"]["kernel"]
    weights = np.sign(w) * np.abs(w).max((0, 1, 2)) / 2
    y = normed(convolved(np.where(x[0] >= 0, 1.5, -1.5), weights), part("norm"))
    residual = np.zeros(y.shape)
    residual[..., :3] = x[0]
    y = np.asarray(DPReLU().apply(part("act"), jnp.asarray(y + residual, jnp.float32)))
    y = y * np.asarray(SqueezeExcite(features).apply(part("se"), x))[0]
    expected = normed(y, part("norm_2"))
    found = jax.jit(partial(module.apply, train=False))(variables, x)
    # Some dozen roundings of numbers up to about 100.
    np.testing.assert_allclose(found[0], expected, rtol=2e-6, atol=2e-5)


def test_a_melius_block_adds_channels_and_improves_the_newest():
    module, x = MeliusBlock(2, norm), normal(1, 4, 4, 3)
    variables = drawn(module, x, train=False)
    params, stats = variables["params"], variables["batch_stats"]

    def branch(name, act, x):
        inner = {
            "params": params[act]["norm"],
            "batch_stats": stats[act]["norm"],
        }
        w = params[name]["kernel"]
        bits = np.where(normed(x, inner) >= 0, 1, -1)
        return convolved(bits, np.where(w >= 0, 1, -1))

    new = branch("dense", "act_1", x[0])
    wide = np.concatenate([x[0], new], axis=-1)
    better = branch("improvement", "act_2", wide)
    expected = np.concatenate([x[0], new + better], axis=-1)
    found = jax.jit(partial(module.apply, train=False))(variables, x)
    # Whole numbers beside the input.
    assert np.array_equal(found[0], expected.astype("f4"))


@pytest.mark.parametrize(
    ("progress", "expected"),
    [(0.0, [0.0, 0.3, 0.5, 0.9, 1.0]), (0.5, [0.0, 0.0, 0.0, 1.0, 1.0])],
)
def test_a_clip_becomes_a_step(progress, expected):
    act = ClipStep(until=0.5)
    x = jnp.array([-0.3, -0.1, 0.0, 0.2, 0.4])
    found = act.apply({"params": {"m": jnp.array(0.5)}}, x, progress=progress)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_gradient_of_a_clip_is_true_and_a_step_has_none():
    act, m = ClipStep(until=0.5), jnp.array(0.5)
    x = jnp.array([-0.3, -0.1, 0.2, 0.4])

    def total(x, m, progress):
        return act.apply({"params": {"m": m}}, x, progress=progress).sum()

    to_x, to_m = jax.grad(total, argnums=(0, 1))(x, m, 0.0)
    # x / m + 1/2 inside: 1 / m, and the sum of -x / m^2
    np.testing.assert_allclose(to_x, [0, 2, 2, 0])
    np.testing.assert_allclose(to_m, (0.1 - 0.2) / 0.25, rtol=1e-6)
    to_x, to_m = jax.grad(total, argnums=(0, 1))(x, m, 0.5)
    assert not to_x.any() and not to_m
