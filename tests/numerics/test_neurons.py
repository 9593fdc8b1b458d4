"""Laws of the integrate-and-fire neurons, Eq. (9) and (10)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bitsnn_jax.numerics.neurons import bit_serial_if, rate_if
from bitsnn_jax.numerics.qcfs import codes
from bitsnn_jax.numerics.spikes import pack, weights

STEPS = (1, 2, 3, 4, 6, 8, 12)
NEURONS = 8
any_steps = pytest.mark.parametrize("steps", STEPS)

# Compiled once for each T, however often a law is tried.
fire = jax.jit(bit_serial_if, static_argnames=("steps", "levels"))
fire_rate = jax.jit(rate_if)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def charges(steps, elements, dtype=np.float64):
    """Currents [T, n] of one shape, so that each T is compiled once."""
    return hnp.arrays(dtype, (steps, NEURONS), elements=elements)


def loop(currents, theta, steps, levels=None):
    """Eq. (9) and (10) in Python: the spikes, and the rest of the membrane."""
    delta = theta / (levels or 2**steps - 1)
    u = np.zeros(currents.shape[1:]) + delta / 2
    for t in range(steps):
        u = u + currents[t]
    spikes = []
    for t in range(1, steps + 1):
        spikes.append(u >= delta * 2 ** (steps - t))
        u = u - spikes[-1] * delta * 2 ** (steps - t)
    return np.stack(spikes), u


@any_steps
@settings(max_examples=20)
@given(data=st.data())
def test_bit_serial_if_emits_the_bits_of_the_code(steps, data):
    theta = data.draw(st.floats(0.01, 100))
    currents = data.draw(charges(steps, st.floats(-100, 100)))
    z = jnp.asarray(currents.sum(0))
    levels = 2**steps - 1
    delta = theta / levels
    # The two sides add in different orders; only where z + delta/2 is within the
    # roundings of 13 sums from a threshold may that decide.
    distance = np.abs((z / delta + 0.5) - np.round(z / delta + 0.5)) * delta
    clear = distance > 26 * np.finfo(float).eps * np.abs(currents).sum(0).max()
    spikes = fire(jnp.asarray(currents), theta, steps=steps)
    code = codes(z, theta, levels=levels)
    assert jnp.array_equal(pack(spikes)[clear], code[clear])


@any_steps
@settings(max_examples=20)
@given(data=st.data())
def test_in_exact_arithmetic_every_neuron_agrees_ties_included(steps, data):
    # Whole eighths of delta = 1/4: every sum and threshold is exact.
    levels = 2**steps - 1
    eighths = data.draw(charges(steps, st.integers(-8 * levels, 16 * levels), np.int64))
    currents, theta = jnp.asarray(eighths / 32), levels / 4
    spikes = fire(currents, theta, steps=steps)
    expected = np.clip((eighths.sum(0) + 4) // 8, 0, levels)
    assert np.array_equal(pack(spikes), expected)
    assert np.array_equal(codes(currents.sum(0), theta, levels=levels), expected)


@any_steps
def test_the_scan_is_the_loop(steps):
    rng = np.random.default_rng(steps)
    currents = rng.normal(size=(steps, 20, 3))
    theta = np.array([0.3, 1.1, 2.7])
    for levels in (None, 2**steps):
        spikes, _ = loop(currents, theta, steps, levels)
        args = jnp.asarray(currents), jnp.asarray(theta)
        assert np.array_equal(fire(*args, steps=steps, levels=levels), spikes)
        assert np.array_equal(bit_serial_if(*args, steps=steps, levels=levels), spikes)


@any_steps
@settings(max_examples=20)
@given(data=st.data())
def test_bit_serial_if_conserves_charge(steps, data):
    # In eighths of a delta, whole numbers: charge + 1/2 = sent + rest.
    levels = 2**steps - 1
    eighths = data.draw(charges(steps, st.integers(-8 * levels, 16 * levels), np.int64))
    spikes = fire(jnp.asarray(eighths / 8), float(levels), steps=steps)
    sent = np.tensordot(weights(steps), np.asarray(spikes), 1)
    charge = eighths.sum(0) + 4
    rest = charge - 8 * sent
    able = (charge >= 0) & (charge < 8 * 2**steps)
    assert np.all((rest[able] >= 0) & (rest[able] < 8))
    assert np.all(sent[charge < 0] == 0)
    assert np.all(sent[charge >= 8 * 2**steps] == levels)


@any_steps
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_membrane_at_the_threshold_fires(steps, dtype):
    # delta = 1: u(1) = 2**(T-t) exactly, then the float below it.
    at = np.array(weights(steps), dtype)
    below = np.nextafter(at, np.array(0, dtype))
    charge = np.zeros((steps, 2, steps), dtype)
    charge[0] = np.stack([at, below]) - np.array(0.5, dtype)
    spikes = bit_serial_if(jnp.asarray(charge), 2.0**steps - 1, steps=steps)
    assert np.array_equal(spikes[:, 0], np.eye(steps))
    assert np.array_equal(pack(spikes[:, 1]), at - 1)


def test_when_charge_comes_does_not_matter():
    charge = np.zeros((4, 4))
    np.fill_diagonal(charge, 6.0)
    spikes = bit_serial_if(jnp.asarray(charge), 15.0, steps=4)
    assert pack(spikes).tolist() == [6, 6, 6, 6]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_the_type_of_the_currents_is_that_of_the_membrane(dtype):
    currents = jnp.ones((4, 3), dtype)
    assert bit_serial_if(currents, 15.0, steps=4).dtype == bool
    assert pack(bit_serial_if(currents, 15.0, steps=4)).tolist() == [4, 4, 4]
    assert rate_if(currents, 2.0, v_init=1.0).sum(0).tolist() == [2, 2, 2]


@pytest.mark.parametrize("shape", [(3, 5), (5, 4)])
def test_currents_without_time_in_front_are_an_error(shape):
    with pytest.raises(ValueError, match="time as axis 0: 4 steps expected, got") as e:
        bit_serial_if(jnp.zeros(shape), 1.0, steps=4)
    assert str(shape) in str(e.value)


def test_thresholds_of_another_shape_are_an_error():
    currents, theta = jnp.zeros((4, 2, 3)), jnp.ones(2)
    message = r"theta of shape \(2,\) does not broadcast .* \(2, 3\)"
    with pytest.raises(ValueError, match=message):
        bit_serial_if(currents, theta, steps=4)
    with pytest.raises(ValueError, match=message):
        rate_if(currents, theta, v_init=0.0)


def test_no_steps_or_more_than_a_type_has_bits_are_an_error():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        bit_serial_if(jnp.zeros((0, 5)), 1.0, steps=0)
    with pytest.raises(ValueError, match="at most 24 for float32, got 25"):
        bit_serial_if(jnp.zeros((25, 1), jnp.float32), 1.0, steps=25)


def rate_loop(currents, theta, v_init):
    v, spikes = np.zeros(currents.shape[1:]) + v_init, []
    for current in currents:
        v = v + current
        spikes.append(v >= theta)
        v = v - spikes[-1] * theta
    return np.stack(spikes)


@any_steps
def test_rate_if_is_the_loop(steps):
    rng = np.random.default_rng(steps)
    currents, theta = rng.normal(0.4, 1, (steps, 20, 3)), np.array([0.3, 1.1, 2.7])
    for v_init in (0.0, theta / 2, rng.uniform(size=(20, 3))):
        args = jnp.asarray(currents), jnp.asarray(theta)
        v_init_jax = jnp.asarray(v_init)
        spikes = rate_if(*args, v_init=v_init_jax)
        assert np.array_equal(spikes, rate_loop(currents, theta, v_init))
        assert np.array_equal(fire_rate(*args, v_init=v_init_jax), spikes)


@any_steps
@settings(max_examples=20)
@given(data=st.data())
def test_rate_if_conserves_charge_at_every_step(steps, data):
    # In whole eighths, theta = 1. A neuron that is charged by 0..theta a step is never
    # left with a theta or more.
    eighths = data.draw(charges(steps, st.integers(0, 8), np.int64))
    v_init = data.draw(st.integers(0, 7))
    spikes = fire_rate(jnp.asarray(eighths / 8), 1.0, v_init=v_init / 8)
    rest = v_init + np.cumsum(eighths, 0) - 8 * np.cumsum(spikes, 0)
    assert np.all((rest >= 0) & (rest < 8))


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 15, 32])
@pytest.mark.parametrize("theta", [1.0, 3.5])
def test_rate_if_at_constant_input_counts_the_code_with_as_many_levels_as_steps(
    steps, theta
):
    """Bu et al., 2022, from half a threshold: floor(T x / theta + 1/2), clipped."""
    # 64ths of theta are exact in every sum, halves among them.
    sixtyfourths = np.arange(-64, 129)
    x = theta * sixtyfourths / 64
    count = rate_if(
        jnp.asarray(np.broadcast_to(x, (steps, len(x)))), theta, v_init=theta / 2
    ).sum(0)
    expected = np.clip((steps * sixtyfourths + 32) // 64, 0, steps)
    assert np.array_equal(count, expected)
    assert np.array_equal(
        codes(jnp.asarray(steps * x), steps * theta, levels=steps), count
    )


def test_rate_if_fires_at_equality_and_keeps_what_is_left():
    # v: 0 + 1 = 1 fires -> 0; 2.5 fires -> 1.5; 1.5 fires -> 0.5; 0.25; 1 fires
    currents = jnp.array([1.0, 2.5, 0.0, -0.25, 0.75])[:, None]
    assert rate_if(currents, 1.0, v_init=0.0)[:, 0].tolist() == [1, 1, 1, 0, 1]


@pytest.mark.parametrize("neuron", ["bit_serial_if", "rate_if"])
def test_per_channel_thresholds_are_one_neuron_each(neuron):
    currents = jax.random.uniform(jax.random.key(0), (4, 20, 3), maxval=2.0)
    theta = jnp.array([0.7, 2.0, 5.3])
    fns = {
        "bit_serial_if": lambda i, theta: bit_serial_if(i, theta, steps=4),
        "rate_if": lambda i, theta: rate_if(i, theta, v_init=theta / 2),
    }
    together = fns[neuron](currents, theta)
    for c in range(3):
        alone = fns[neuron](currents[..., c], theta[c])
        assert jnp.array_equal(together[..., c], alone)
    mapped = jax.vmap(fns[neuron], (-1, 0), -1)(currents, theta)
    assert jnp.array_equal(mapped, together)
