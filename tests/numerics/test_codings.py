"""Codings: the same codes, in bits and in signed digits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitsnn_jax.numerics.codings import CODINGS, coding_of
from bitsnn_jax.numerics.neurons import fire_digits
from bitsnn_jax.numerics.spikes import check_steps

DIGITS = CODINGS["signed_digits"]


def all_codes(steps):
    return np.arange(2**steps, dtype=np.uint32)


def train(coding, codes, steps):
    """What is sent, [time, ...], as integers."""
    places = reversed(range(coding.times(steps)))
    return np.stack([np.asarray(coding.digit(codes, p)).astype(int) for p in places])


def fewest(steps):
    """The least number of digits for each code, found by adding one digit at a time."""
    worth = [sign * 2**place for place in range(steps + 1) for sign in (-1, 1)]
    found, reached, count = {0: 0}, {0}, 0
    while any(code not in found for code in range(2**steps)):
        count += 1
        reached = {code + w for code in reached for w in worth}
        for code in reached:
            found.setdefault(code, count)
    return np.array([found[code] for code in range(2**steps)])


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
@pytest.mark.parametrize("coding", CODINGS.values(), ids=CODINGS)
def test_what_is_sent_adds_up_to_the_code(coding, steps):
    codes = all_codes(steps)
    sent = train(coding, jnp.asarray(codes), steps)
    worth = 2 ** np.arange(coding.times(steps))[::-1]
    np.testing.assert_array_equal(worth @ sent, codes)
    assert sent.min() >= coding.least and sent.max() == 1
    counts = coding.counts(jnp.asarray(codes), steps=steps)
    np.testing.assert_array_equal(counts, np.abs(sent).sum(1))


@pytest.mark.parametrize("steps", [1, 2, 5, 7])
def test_no_neighbours_are_sent_and_no_digits_are_fewer(steps):
    sent = train(DIGITS, jnp.asarray(all_codes(steps)), steps)
    assert not (sent[1:] * sent[:-1]).any()
    np.testing.assert_array_equal(np.abs(sent).sum(0), fewest(steps))


@pytest.mark.parametrize("unroll", [True, False])
@pytest.mark.parametrize("steps", [1, 3, 4, 9])
def test_a_neuron_fires_the_digits_of_its_rounded_charge(steps, unroll):
    delta, top = 0.3, 2**steps - 1
    u = (np.arange(-3, 2 * top + 8) / 2 + 0.25) * delta
    with jax.enable_x64(True):
        fired, codes = jax.jit(
            lambda u: fire_digits(u, jnp.array(delta), steps=steps, unroll=unroll)
        )(u)
    expected = np.clip(np.floor(u / delta), 0, top).astype(np.uint32)
    np.testing.assert_array_equal(codes, expected)
    np.testing.assert_array_equal(fired, train(DIGITS, jnp.asarray(expected), steps))


@pytest.mark.parametrize("delta", [1.0, 0.3, 0.7])
@pytest.mark.parametrize("coding", CODINGS.values(), ids=CODINGS)
def test_a_membrane_saturates_at_the_highest_code_of_float32(coding, delta):
    steps = 24 - coding.before
    check_steps(steps, jnp.float32, before=coding.before)
    u = jnp.array([2.0**steps, 2.0**26], jnp.float32) * delta
    codes = coding.fire(u, jnp.float32(delta), steps=steps)
    assert codes.tolist() == [2**steps - 1] * 2
    with pytest.raises(ValueError, match=f"at most {steps} for float32"):
        check_steps(steps + 1, jnp.float32, before=coding.before)


@pytest.mark.parametrize("kind", [np.int32, np.float32])
@pytest.mark.parametrize("coding", CODINGS.values(), ids=CODINGS)
def test_integers_fire_by_integer_thresholds(coding, kind):
    fraction, steps = 3, 4
    u = np.arange(-20, 2 ** (steps + fraction) + 20).astype(kind)
    delta = jnp.asarray(2**fraction, kind)
    expected = np.clip(np.floor(u / 2**fraction), 0, 2**steps - 1)
    for unroll in (True, False):
        codes = coding.fire(jnp.asarray(u), delta, steps=steps, unroll=unroll)
        assert jnp.issubdtype(codes.dtype, jnp.unsignedinteger)
        np.testing.assert_array_equal(codes, expected)


def test_long_codes_have_their_place():
    codes = jnp.array([0, 1, 2**30 - 1, 2**29 + 1], jnp.uint32)
    sent = train(DIGITS, codes, 30).astype(np.int64)
    np.testing.assert_array_equal(2 ** np.arange(31)[::-1] @ sent, codes)
    np.testing.assert_array_equal(np.abs(sent).sum(0), [0, 1, 2, 2])


def test_an_unknown_coding_is_named():
    message = "coding must be one of bits, signed_digits, got 'ternary'"
    with pytest.raises(ValueError, match=message):
        coding_of("ternary")
