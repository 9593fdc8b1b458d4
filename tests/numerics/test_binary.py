"""Signs and binary weights against loops in NumPy, and their gradients at the edges."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitsnn_jax.numerics.binary import (
    POKE_CLIP,
    SLOPES,
    Signs,
    clipped,
    masked,
    scaled_by_max,
    scaled_by_mean,
    sign,
    unscaled,
)

ABOVE = np.nextafter(np.float32(1), np.float32(2))
# Exact in float32: bounds, both sides of them, zero of both signs.
EDGES = np.array([-2, -ABOVE, -1, -0.5, -0.0, 0.0, 0.5, 1, ABOVE, 1.3, 2.9765625, 3])
RNG = np.random.default_rng(0)


def by_hand(name, x):
    """The derivative of the sign, one number at a time."""
    match name:
        case "clipped":
            return 1.0 if abs(x) <= 1 else 0.0
        case "meliusnet":
            return 1.0 if abs(x) <= np.float32(1.3) else 0.0
        case "bireal":
            if -1 <= x < 0:
                return 2 + 2 * x
            return 2 - 2 * x if 0 <= x < 1 else 0.0
        case "poke":  # of y = 3 (floor(clip(x / 3)) + 1/2), over the value of a sign
            return 1 / 1.5 if abs(x) <= 3 * (1 - 2**-7) else 0.0


def grad_of(fn, *args, upstream):
    """Gradients by all arguments of the sum of fn, weighted."""
    over = tuple(range(len(args)))
    total = jax.grad(lambda *a: (upstream * fn(*a)).sum(), argnums=over)
    return jax.jit(total)(*args)


def weights_of(signs: Signs):
    return signs.signs * signs.scale


def test_the_sign_of_zero_is_one():
    x = jnp.asarray(EDGES, jnp.float32)
    assert sign(x).tolist() == [-1.0 if v < 0 else 1.0 for v in EDGES]


@pytest.mark.parametrize("name", SLOPES)
def test_a_sign_has_the_gradient_of_its_equation_edges_included(name):
    x = jnp.asarray(np.r_[EDGES, RNG.normal(size=50) * 2], jnp.float32)
    g = jnp.asarray(RNG.normal(size=x.shape), jnp.float32)
    (found,) = grad_of(lambda v: sign(v, SLOPES[name](v)), x, upstream=g)
    expected = [float(a) * by_hand(name, float(v)) for a, v in zip(g, x, strict=True)]
    # One product, rounded once more than in float64.
    np.testing.assert_allclose(found, expected, rtol=3e-7)


def test_poke_is_the_clip_and_the_floor_of_its_equation():
    x = np.asarray(np.r_[EDGES, RNG.normal(size=50) * 3], np.float32)
    clip = np.clip(x / 3, -POKE_CLIP, POKE_CLIP)
    expected = 3 * (np.floor(clip) + 0.5)
    expected[np.signbit(x) & (x == 0)] = 1.5
    np.testing.assert_array_equal(1.5 * sign(jnp.asarray(x)), expected)


def test_mean_scales_are_those_of_each_output_channel():
    shape = (3, 3, 2, 4)
    w = RNG.normal(size=shape).astype("f4")
    found = scaled_by_mean(jnp.asarray(w))
    for c in range(shape[-1]):
        channel = w[..., c].ravel().tolist()
        # The mean of at most 18 numbers, added in another order.
        assert found.scale[c] == pytest.approx(
            sum(map(abs, channel)) / len(channel), rel=1e-6
        )
        signs = [1.0 if v >= 0 else -1.0 for v in channel]
        assert found.signs[..., c].ravel().tolist() == signs


def test_mean_scales_have_the_gradient_of_both_factors():
    """d(alpha s_j)/dw_i = s_j sign(w_i) / n + alpha [i = j] [|w_i| <= 1]."""
    w = np.array([[0.5, -1.0], [-2.0, 0.25], [ABOVE, -0.75]], np.float32)
    g = RNG.normal(size=w.shape).astype("f4")
    (found,) = grad_of(
        lambda v: weights_of(scaled_by_mean(v)), jnp.asarray(w), upstream=g
    )
    expected = np.zeros(w.shape)
    for c in range(2):
        alpha, signs = np.abs(w[:, c]).mean(), np.sign(w[:, c])
        for i in range(3):
            for j in range(3):
                expected[i, c] += g[j, c] * signs[j] * signs[i] / 3
            expected[i, c] += g[i, c] * alpha * (abs(w[i, c]) <= 1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_max_scales_are_half_the_bound_and_pass_no_gradient_at_it():
    w = np.array([[0.5, -1.0], [-2.0, 0.25], [-1.984375, -0.9921875]], np.float32)
    found = scaled_by_max(jnp.asarray(w))
    assert found.scale.tolist() == [1.0, 0.5]
    g = RNG.normal(size=w.shape).astype("f4")
    (grads,) = grad_of(
        lambda v: weights_of(scaled_by_max(v)), jnp.asarray(w), upstream=g
    )
    # (1 - 2^-7) of the bounds 2 and 1 are the last row: still inside.
    inside = np.array([[1, 0], [0, 1], [1, 1]])
    np.testing.assert_allclose(grads, g * inside, rtol=1e-6)


def test_weights_of_zero_have_scales_and_gradients_that_are_finite():
    w = jnp.zeros((4, 2))
    for binarised in (scaled_by_mean, scaled_by_max, unscaled):
        (grads,) = grad_of(lambda v, f=binarised: weights_of(f(v)), w, upstream=1.0)
        assert jnp.isfinite(grads).all() and (binarised(w).signs == 1).all()


def test_unscaled_weights_are_signs_clipped_at_a_bound():
    w = jnp.asarray(EDGES, jnp.float32)
    found = unscaled(w, bound=1.3)
    assert found.scale == 1
    (grads,) = grad_of(
        lambda v: weights_of(unscaled(v, bound=1.3)), w, upstream=jnp.ones(w.shape)
    )
    assert jnp.array_equal(grads, clipped(w, 1.3))


@pytest.mark.parametrize("keep", [0.01, 0.25, 1.0])
def test_masked_weights_are_the_signs_with_the_largest_scores(keep):
    w, scores = (RNG.normal(size=(3, 3, 2, 4)).astype("f4") for _ in range(2))
    found = jax.jit(partial(masked, keep=keep))(w, scores)
    best = sorted(range(w.size), key=lambda i: -abs(scores.flat[i]))
    best = best[: max(1, round(keep * w.size))]
    expected = np.zeros(w.size)
    expected[best] = np.sign(w.ravel()[best])
    assert np.array_equal(np.ravel(found.signs), expected)
    # The mean of at most 72 numbers, added in another order.
    assert float(found.scale) == pytest.approx(np.abs(w.ravel()[best]).mean(), rel=1e-6)


def test_scores_get_the_gradient_of_multi_prize_tickets_and_weights_none():
    """dS = sign(S) |w| sign(w) g, whether the mask keeps the weight or not."""
    w, scores, g = (RNG.normal(size=(5, 4)).astype("f4") for _ in range(3))
    to_w, to_scores = grad_of(
        lambda v, s: weights_of(masked(v, s, keep=0.5)),
        *map(jnp.asarray, (w, scores)),
        upstream=g,
    )
    assert not to_w.any()
    np.testing.assert_allclose(to_scores, np.sign(scores) * w * g, rtol=1e-5)


@pytest.mark.parametrize("keep", [0, -0.5, 1.5])
def test_a_share_outside_of_one_is_an_error(keep):
    with pytest.raises(ValueError, match=f"keep must be .*{keep}"):
        masked(jnp.ones(3), jnp.ones(3), keep=keep)


def test_scores_of_another_shape_are_an_error():
    with pytest.raises(ValueError, match=r"\(3,\), got \(4,\)"):
        masked(jnp.ones(3), jnp.ones(4), keep=0.5)
