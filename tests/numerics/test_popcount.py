"""XNOR and popcount against the products of floats: equal bit for bit."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from bitsnn_jax.numerics.popcount import WORD, pack, popcount_conv, popcount_dot

RNG = np.random.default_rng(0)
# Compiled once for each shape that is drawn: few of them, on both sides of a word.
sizes = st.sampled_from([1, 31, 32, 33, 70])
seeds = st.integers(0, 2**32 - 1)


jitted = jax.jit(pack)
dot = jax.jit(lambda x, w: popcount_dot(pack(x), pack(w)))
padded = jax.jit(partial(popcount_conv, padding=1))


def drawn(rng, shape, *, zeros):
    return rng.choice([-1.0, 0.0, 1.0] if zeros else [-1.0, 1.0], shape).astype("f4")


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=80))
@settings(max_examples=30)
def test_bits_are_signs_in_the_order_of_the_values(values):
    values += [0.0] * (-len(values) % 40)
    packed = jitted(np.array(values, np.float32))
    assert packed.signs.shape == (-(-len(values) // WORD),)
    for words, holds in (
        (packed.signs, lambda v: v > 0),
        (packed.mask, lambda v: v != 0),
    ):
        number = sum(int(word) << (WORD * i) for i, word in enumerate(words))
        assert number == sum(holds(v) << i for i, v in enumerate(values))


@given(sizes, st.booleans(), seeds)
@settings(max_examples=30)
def test_dense_products_equal_those_of_floats(size, zeros, seed):
    rng = np.random.default_rng(seed)
    x, w = (drawn(rng, (n, size), zeros=zeros) for n in (3, 4))
    found = dot(x, w)
    assert found.dtype == jnp.int32
    assert np.array_equal(found, np.int32(x.astype(int) @ w.T.astype(int)))


CONVOLUTIONS = [  # image, kernel, channels, features, strides, padding
    ((5, 5), (3, 3), 1, 2, 1, 1),
    ((6, 4), (3, 3), 33, 3, 1, 1),
    ((7, 5), (3, 3), 32, 2, 2, 1),
    ((4, 4), (1, 1), 40, 5, 1, 0),
    ((6, 6), (1, 1), 8, 3, 2, 0),
    ((5, 7), (5, 3), 4, 2, 3, 2),
    ((1, 1), (3, 3), 31, 2, 1, 1),
    ((3, 3), (3, 3), 64, 1, 1, 0),
]


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions_equal_those_of_floats_borders_included(case):
    image, kernel, channels, features, strides, padding = case
    x = drawn(RNG, (2, *image, channels), zeros=False)

    @jax.jit
    def both(x, w):
        floats = lax.conv_general_dilated(
            x,
            w,
            (strides, strides),
            [(padding, padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return popcount_conv(x, w, strides=strides, padding=padding), floats

    for zeros in (False, True):
        w = drawn(RNG, (*kernel, channels, features), zeros=zeros)
        found, expected = both(x, w)
        assert found.dtype == jnp.int32 and np.array_equal(found, expected)


def test_a_convolution_adds_what_each_window_sees():
    """The definition, one product at a time."""
    x = drawn(RNG, (1, 3, 4, 2), zeros=False)
    w = drawn(RNG, (3, 3, 2, 2), zeros=True)
    found = np.asarray(
        jax.jit(popcount_conv, static_argnames="padding")(x, w, padding=1)
    )
    for row, column, feature in np.ndindex(3, 4, 2):
        total = 0
        for i, j, c in np.ndindex(3, 3, 2):
            y, z = row + i - 1, column + j - 1
            if 0 <= y < 3 and 0 <= z < 4:
                total += x[0, y, z, c] * w[i, j, c, feature]
        assert found[0, row, column, feature] == total


def test_a_kernel_for_other_channels_is_an_error():
    with pytest.raises(ValueError, match="for 2 channels, the values have 3"):
        popcount_conv(jnp.ones((1, 2, 2, 3)), jnp.ones((1, 1, 2, 1)))
