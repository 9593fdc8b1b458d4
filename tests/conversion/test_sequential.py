"""Thresholds in the order of firing, and offsets that make means right."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitsnn_jax import QCFS, qcfs, quantise, verify
from bitsnn_jax.conversion.calibration import calibrate, calibrate_network
from bitsnn_jax.conversion.segments import Walk, cut

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 6)).astype(np.float32)
W = [RNG.normal(size=shape).astype(np.float32) for shape in ((6, 8), (8, 8), (8, 3))]
LEVELS = 3


def network(w, x):
    h = jax.nn.relu(x @ w[0])
    return jax.nn.relu(h @ w[1] + 0.3) @ w[2]


def found_by(apply_fn=network, batches=(X,), **options):
    return quantise(apply_fn, W, batches, levels=LEVELS, **options)


def names(quantised):
    return list(quantised.variables["theta"])


def single(w, x):
    return jax.nn.relu(x @ w[0]) @ w[1]


@pytest.mark.parametrize("apply_fn, per_channel", [(single, True), (network, False)])
def test_the_first_layer_and_a_single_one_are_found_as_at_once(apply_fn, per_channel):
    thetas = [
        found_by(apply_fn, per_channel=per_channel, sequential=s).variables["theta"]
        for s in (False, True)
    ]
    np.testing.assert_array_equal(thetas[0]["neuron"], thetas[1]["neuron"])


def test_theta_is_that_of_what_the_quantised_layers_before_send():
    first, second = found_by(method="mse", sequential=True).variables["theta"].values()
    z = qcfs(X @ W[0], first, levels=LEVELS) @ W[1] + 0.3
    assert second == calibrate(z, levels=LEVELS, method="mse")
    plain = list(found_by(method="mse").variables["theta"].values())
    assert second != plain[1]


def test_output_is_least_in_what_the_next_layer_is_fed():
    w = [W[0], W[1] * np.where(np.arange(8)[:, None] < 2, 9, 1).astype("f4"), W[2]]
    z = np.float64(X) @ w[0]

    def error_behind(theta):
        delta = np.float64(theta) / LEVELS
        a = delta * np.clip(np.floor(z / delta + 0.5), 0, LEVELS)
        return np.sum(((a - np.maximum(z, 0)) @ w[1]) ** 2)

    by_activation, by_output = (
        quantise(network, w, [X], levels=LEVELS, method=method).variables["theta"]
        for method in ("mse", "output")
    )
    theta = by_activation["neuron"]
    errors = [error_behind(theta * 2 ** (i / 8)) for i in range(-8, 5)]
    least = error_behind(by_output["neuron"])
    assert least == pytest.approx(min(errors), rel=1e-5) and least < errors[8]


def test_an_offset_makes_the_mean_of_a_linear_layer_right():
    def positive(w, x):  # the second layer is never negative
        return jax.nn.relu(jax.nn.relu(x @ w[0]) @ jnp.abs(w[1])) @ w[2]

    quantised = found_by(positive, correct_biases=True)
    first, second = names(quantised)
    theta, offset = quantised.variables["theta"], quantised.variables["offset"]
    assert not offset[first].any()  # nothing in front of it is quantised
    h = X @ W[0]
    error = (qcfs(h, theta[first], levels=LEVELS) - np.maximum(h, 0)) @ abs(W[1])
    assert np.abs(error.mean(0)).min() > 1e-3
    # Sums of 60 float32 of order 10.
    np.testing.assert_allclose(error.mean(0) + offset[second], 0, atol=1e-5)


def test_a_generator_of_ragged_batches_gives_what_one_batch_gives():
    options = {"method": "output", "correct_biases": True}
    whole = found_by(**options).variables
    parts = found_by(batches=(X[i : i + 25] for i in (0, 25, 50)), **options).variables
    for name in ("theta", "offset"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
            whole[name],
            parts[name],
        )


def test_offsets_convert_exactly():
    def no_bias(w, x):  # channels in front, and nothing that could be corrected
        h = jax.nn.relu(jnp.einsum("nd,dc->nc", x, w[0]))[:, :, None] * jnp.ones(4)
        return jax.nn.relu(jnp.einsum("nct,cd->ndt", h, w[1])).sum(-1) @ w[2]

    quantised = found_by(no_bias, correct_biases=True, channel_axis=1)
    assert [v.shape for v in quantised.variables["offset"].values()] == [(8,), (8,)]
    with jax.enable_x64(True):
        assert verify(*quantised, X[:5], steps=2).exact


class Twice(nn.Module):
    """One module in two places, and one behind."""

    @nn.compact
    def __call__(self, x):
        shared = QCFS(levels=LEVELS, name="shared")
        return 2 * QCFS(levels=LEVELS, name="own")(shared(3 - 2 * shared(x)) - 0.2)


def test_modules_have_their_offset_beside_theta_and_shared_ones_have_none():
    def apply_fn(variables, x):
        return Twice().apply(variables, x)

    at_once, in_order = (
        calibrate_network(
            apply_fn, {"params": {}}, [X], sequential=s, correct_biases=s
        )["params"]
        for s in (False, True)
    )
    assert set(in_order["shared"]) == {"theta"}
    assert set(in_order["own"]) == {"theta", "offset"}
    assert in_order["shared"]["theta"] == at_once["shared"]["theta"]
    own = in_order["own"] | {"offset": jnp.arange(6.0)}
    sent = QCFS(levels=LEVELS).apply({"params": own}, X)
    np.testing.assert_array_equal(
        sent, qcfs(X + np.arange(6.0, dtype="f4"), own["theta"], levels=LEVELS)
    )


def test_a_cut_program_gives_what_the_whole_gives():
    def program(stop, w, x):
        h = x @ w[0]
        a = stop("first", h)
        b = stop("second", x)  # fed what is there already
        return a @ w[1] + h, b + 1, jnp.ones(2)

    parts = cut(program, W, X)
    walk = Walk(parts, W, X)
    for _ in parts.stops:
        z = walk.arrive()
        ahead = walk.look_ahead(2 * z)
        walk.leave(2 * z)
    assert ahead is not None
    whole = program(lambda _, z: 2 * z, W, X)
    for results in (walk.finish(), ahead):
        # The parts are compiled, the whole is not.
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
            tuple(results),
            whole,
        )


def test_what_cannot_be_done_in_order_is_said():
    def silent(w, x):
        return jax.nn.relu(x - 100) @ w[0]

    with pytest.raises(ValueError, match="neuron must have finite values and a posit"):
        found_by(silent, sequential=True)
    with pytest.raises(ValueError, match="maximum, mse, output, percentile; got 'med"):
        found_by(method="median")

    def hidden(variables, x):
        return jax.jit(lambda x: QCFS(name="act").apply(variables, x))(x)

    with pytest.raises(ValueError, match="expected activations in the open"):
        calibrate_network(hidden, {"params": {}}, [X], sequential=True)
