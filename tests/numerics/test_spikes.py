"""Laws of spike trains and of the bit-sparsity loss, Eq. (11) and (12)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitsnn_jax.numerics.qcfs import codes, qcfs
from bitsnn_jax.numerics.spikes import (
    check_steps,
    pack,
    spike_count,
    spike_planes,
    weights,
)


def some_codes(steps):
    """Every code of up to 12 bits; of longer ones the ends and some between."""
    if steps <= 12:
        return np.arange(2**steps)
    drawn = np.random.default_rng(steps).integers(0, 2**steps, 3000)
    return np.r_[0, 1, 2 ** (steps - 1), 2**steps - 2, 2**steps - 1, drawn]


all_steps = pytest.mark.parametrize("steps", [*range(1, 13), 16, 17, 24, 30])


@all_steps
def test_packing_inverts_the_planes(steps):
    code = jnp.asarray(some_codes(steps), jnp.int32)
    spikes = spike_planes(code, steps=steps)
    assert spikes.shape == (steps, len(code)) and spikes.dtype == bool
    packed = pack(spikes)
    assert jnp.array_equal(packed, code)
    assert packed.dtype == f"uint{8 if steps <= 8 else 16 if steps <= 16 else 32}"


@all_steps
def test_the_weighted_planes_add_up_to_the_code(steps):
    code = some_codes(steps)
    spikes = np.asarray(spike_planes(jnp.asarray(code, jnp.int32), steps=steps))
    assert np.array_equal(np.tensordot(weights(steps), spikes, 1), code)


@pytest.mark.parametrize("steps", [1, 4, 12, 30])
def test_the_first_spike_is_the_most_significant(steps):
    spikes = spike_planes(jnp.array([2 ** (steps - 1), 1]), steps=steps)
    ends = np.zeros((steps, 2), bool)
    ends[0, 0] = ends[-1, 1] = True
    assert jnp.array_equal(spikes, ends)


@pytest.mark.parametrize("steps", [1, 3, 8, 30])
def test_codes_of_too_many_bits_saturate_and_negative_ones_are_silent(steps):
    top = 2**steps - 1
    spikes = spike_planes(
        jnp.array([top, top + 1, 2**31 - 1, -1, -(2**31)]), steps=steps
    )
    assert jnp.all(spikes[:, :3]) and not jnp.any(spikes[:, 3:])


def test_planes_keep_the_axes_behind_time():
    code = jnp.arange(24).reshape(2, 3, 4)
    spikes = spike_planes(code, steps=5)
    assert spikes.shape == (5, 2, 3, 4)
    assert jnp.array_equal(pack(spikes), code)
    mapped = jax.vmap(lambda k: spike_planes(k, steps=5), out_axes=1)(code)
    assert jnp.array_equal(mapped, spikes)


@pytest.mark.parametrize("levels", [1, 3, 7, 15, 31, 255, 2**16 - 1])
@settings(max_examples=15)
@given(theta=st.floats(0.015625, 64, width=32).map(jnp.float32))
def test_the_count_is_the_number_of_ones_of_every_code(levels, theta):
    code = jnp.arange(levels + 1)
    a = qcfs(theta / levels * code, theta, levels=levels)
    count = spike_count(a, theta, levels=levels)
    assert count.dtype == a.dtype
    assert np.array_equal(count, np.bitwise_count(np.arange(levels + 1)))


def test_counts_are_those_of_the_planes_for_any_input():
    z = jax.random.uniform(jax.random.key(0), (200, 3), minval=-1.0, maxval=6.0)
    theta = jnp.array([0.7, 2.3, 5.1])
    count = spike_count(qcfs(z, theta), theta)
    assert jnp.array_equal(count, spike_planes(codes(z, theta), steps=4).sum(0))


def test_counts_are_right_where_truncating_the_quotient_would_miscount():
    theta = np.linspace(0.1, 9, 200, dtype=np.float32)[:, None]
    code = np.arange(16)
    a = theta / np.float32(15) * code.astype(np.float32)
    # Rounding leaves the quotient just below the whole now and then.
    assert np.any(np.trunc(a / theta * 15) != code)
    count = spike_count(jnp.asarray(a), jnp.asarray(theta))
    assert np.array_equal(count, np.broadcast_to(np.bitwise_count(code), a.shape))


@pytest.mark.parametrize("levels, bits", [(1, 1), (3, 2), (15, 4), (16, 5), (255, 8)])
@pytest.mark.parametrize("shape", [(), (6,)])
def test_gradient_of_the_count_is_the_bits_strictly_inside(levels, bits, shape):
    theta = jnp.full(shape, 0.75)
    a = jnp.array([-1.0, 0.0, 0.75 / levels / 2, 0.749, 0.75, 9.0])

    def total(a, theta):
        return spike_count(a, theta, levels=levels).sum()

    to_a, to_theta = jax.grad(total, (0, 1))(a, theta)
    assert to_a.tolist() == [0, 0, bits, bits, 0, 0]
    assert jnp.array_equal(to_theta, jnp.zeros(shape))


def test_gradient_of_the_loss_reaches_what_comes_before_the_activation():
    # 4 bits inside, times the activation's own gradient, 1 inside; times g = 1/2.
    def loss(z, theta):
        return spike_count(qcfs(z, theta), theta).sum() / 2

    z = jnp.array([-1.0, 0.2, 0.6, 3.0])
    to_z, to_theta = jax.grad(loss, (0, 1))(z, jnp.array(1.0))
    assert to_z.tolist() == [0, 2, 2, 0]
    # theta is reached through the activation: 2 sum (a - z) / theta over the two
    # inside, codes 3 and 9. The top value has no gradient, being at its edge.
    expected = 2 * ((3 / 15 - 0.2) + (9 / 15 - 0.6))
    # A few roundings of 1 are left.
    np.testing.assert_allclose(to_theta, expected, atol=1e-6)


@pytest.mark.parametrize("theta", [0.75, [0.75, 3.0, 11.0]])
@pytest.mark.parametrize("levels", [1, 3, 15, 16, 255])
def test_authors_gradient_is_that_of_the_code_itself(theta, levels):
    # The code without its floor, of the clipped z: what their graph differentiates.
    def code(z, theta):
        return (jnp.clip(z / theta, 0, 1) * levels).sum()

    def loss(z, theta):
        a = qcfs(z, theta, levels=levels)
        return spike_count(a, theta, levels=levels, surrogate="authors").sum()

    theta = jnp.array(theta)
    z = jnp.linspace(-0.5, 1.5, 42)[:, None] * theta  # no edge is met
    # Where a = 0 the gradients differ by choice.
    z = z[(codes(z, theta, levels=levels) > 0).all(-1) if z.ndim > 1 else z > 0]
    got = jax.grad(loss, (0, 1))(z, theta)
    want = jax.grad(code, (0, 1))(z, theta)
    inside = z < theta
    # float32: some tens of terms
    np.testing.assert_allclose(got[0][inside], want[0][inside], rtol=1e-6)
    np.testing.assert_allclose(got[1], want[1], rtol=2e-5)


@pytest.mark.parametrize("levels", [1, 3, 7, 15, 255])
def test_envelope_is_concave_and_meets_the_count_from_above(levels):
    theta = jnp.array(2.5)
    a = qcfs(theta / levels * jnp.arange(levels + 1), theta, levels=levels)

    def total(a):
        return spike_count(a, theta, levels=levels, surrogate="envelope").sum()

    slope = np.asarray(jax.grad(total)(a)) * (2.5 / levels)
    envelope = np.cumsum(slope)
    count = np.bitwise_count(np.arange(levels + 1))
    assert slope[0] == 0 and np.all(np.diff(slope[1:]) <= 0)
    # Sums of powers of two, but delta = theta / levels is rounded.
    assert np.all(envelope >= count - 1e-4)
    ones = 2 ** np.arange(1, levels.bit_length() + 1) - 1
    np.testing.assert_allclose(envelope[ones], count[ones], atol=1e-4)


@pytest.mark.parametrize("levels", [7, 15, 16, 100])
def test_difference_is_the_gradient_of_the_expected_count(levels):
    """Of z with a smooth density, shifted: the derivative by finite differences."""
    delta = 0.25
    theta = jnp.float32(levels * delta)
    z = jnp.linspace(-1, float(theta) + 1, 1_000_001)
    density = jnp.exp(-3 * ((z - 0.3 * theta) / theta) ** 2)
    density /= density.sum()

    def expected(shift):
        code = np.clip(np.floor((np.asarray(z) + shift) / delta + 0.5), 0, levels)
        return np.sum(np.asarray(density) * np.bitwise_count(code.astype(int)))

    def surrogate(shift):
        a = qcfs(z + shift, theta, levels=levels)
        count = spike_count(a, theta, levels=levels, surrogate="difference")
        return jnp.sum(density * count)

    truth = (expected(1e-2) - expected(-1e-2)) / 2e-2
    # Within a code the density is taken as flat: off by its curvature, delta**2 / 24
    # of it, which is 1 % for the coarsest grid here.
    np.testing.assert_allclose(jax.grad(surrogate)(0.0), truth, rtol=0.02)


@pytest.mark.parametrize("surrogate", ["authors", "envelope", "difference"])
def test_gradient_of_a_count_of_a_over_theta_has_no_part_along_both(surrogate):
    def total(a, theta):
        return spike_count(a, theta, surrogate=surrogate).sum()

    theta = jnp.array([0.75, 3.0, 11.0])
    a = qcfs(jnp.linspace(0, 1, 40)[:, None] * theta, theta)
    to_a, to_theta = jax.grad(total, (0, 1))(a, theta)
    # Scaling a and theta together changes no code: a float32 sum that cancels.
    np.testing.assert_allclose((a * to_a).sum(0) + theta * to_theta, 0, atol=1e-3)
    assert jnp.all(to_theta < 0)


@pytest.mark.parametrize("steps", [0, -1, 31, True])
def test_steps_out_of_range_are_an_error(steps):
    with pytest.raises(ValueError, match="^steps must be .*got"):
        check_steps(steps)


@pytest.mark.parametrize(
    "dtype, limit", [("bfloat16", 8), ("float16", 11), ("float32", 24), ("float64", 30)]
)
def test_steps_are_limited_by_the_bits_of_the_type(dtype, limit):
    with jax.enable_x64(True):
        assert check_steps(limit, jnp.dtype(dtype)) == limit
        with pytest.raises(ValueError, match=f"at most {limit} for .*got {limit + 1}"):
            check_steps(limit + 1, jnp.dtype(dtype))


def test_errors_of_the_public_functions():
    with pytest.raises(ValueError, match="^steps must be at most 30 .*got 31"):
        spike_planes(jnp.arange(3), steps=31)
    with pytest.raises(ValueError, match="^levels must be at least 1, got 0$"):
        spike_count(jnp.ones(3), 1.0, levels=0)
    with pytest.raises(ValueError, match="one of paper, .*, difference; got 'x'"):
        spike_count(jnp.ones(3), 1.0, surrogate="x")
    with pytest.raises(ValueError, match=r"theta of shape \(2,\) .* \(4, 3\)"):
        spike_count(jnp.ones((4, 3)), jnp.ones(2))
