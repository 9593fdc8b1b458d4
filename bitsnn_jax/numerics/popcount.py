"""Products of signs by XNOR and popcount, 32 of them in a word.

Values are -1, 0 and 1. A sign is a bit, 1 for +1; a mask says which values are not 0,
such as padding or weights that were pruned:

    sum_i x_i w_i = popcount(m) - 2 popcount((x ^ w) & m),   m = mask_x & mask_w

which is exact, and equals the product in floats bit for bit below 2^24.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

WORD = 32
Values = Float[Array, "..."]


class Packed(NamedTuple):
    """Signs in words of 32 bits, uint32 [..., words] each; the last one is padded.

    Attributes:
      signs: a bit is 1 for +1.
      mask: a bit is 1 for what is not 0, and so for no padding.
    """

    signs: Array
    mask: Array


def pack(x: Values) -> Packed:
    """Pack values in {-1, 0, 1} along the last axis.

    >>> packed = pack(jnp.array([1.0, -1.0, 0.0, 1.0]))
    >>> packed.signs, packed.mask
    (Array([9], dtype=uint32), Array([11], dtype=uint32))
    """
    return Packed(_words(x > 0), _words(x != 0))


def _words(bits):
    missing = -bits.shape[-1] % WORD
    bits = jnp.pad(bits, [(0, 0)] * (bits.ndim - 1) + [(0, missing)])
    bits = bits.reshape(*bits.shape[:-1], -1, WORD).astype(jnp.uint32)
    # A sum of different powers of two is their union.
    return (bits << jnp.arange(WORD, dtype=jnp.uint32)).sum(-1, dtype=jnp.uint32)


def popcount_dot(x: Packed, w: Packed) -> Int[Array, "..."]:
    """Multiply rows by rows, [..., words] by [C, words], to int32 [..., C].

    >>> x, w = jnp.array([[1.0, -1.0, 1.0]]), jnp.array([[1.0, 1.0, 0.0]])
    >>> popcount_dot(pack(x), pack(w))
    Array([[0]], dtype=int32)
    """
    mask = x.mask[..., None, :] & w.mask
    unlike = (x.signs[..., None, :] ^ w.signs) & mask
    both = _ones(mask) - 2 * _ones(unlike)
    return both.sum(-1)


def _ones(words):
    return jax.lax.population_count(words).astype(jnp.int32)


def popcount_conv(
    x: Values, kernel: Values, *, strides: int = 1, padding: int = 0
) -> Int[Array, "n h w c"]:
    """Convolve signs by XNOR and popcount.

    Channels are packed, so what a window sees is a row of words. Words of the border
    have an empty mask: padding is 0, as in floats.

    Args:
      x: [n, h, w, c] in {-1, 0, 1}.
      kernel: [kh, kw, c, C] in {-1, 0, 1}.
      strides: in both directions.
      padding: on all four sides.

    Returns:
      int32 [n, h', w', C], equal to the convolution in floats.

    Raises:
      ValueError: channels that differ.

    >>> x, kernel = jnp.ones((1, 3, 3, 40)), jnp.ones((3, 3, 40, 1))
    >>> popcount_conv(x, kernel, padding=1)[0, :, :, 0]
    Array([[160, 240, 160],
           [240, 360, 240],
           [160, 240, 160]], dtype=int32)
    """
    height, width, channels, features = kernel.shape
    if x.shape[-1] != channels:
        raise ValueError(
            f"the kernel is for {channels} channels, the values have {x.shape[-1]}"
        )
    border = [(0, 0), (padding, padding), (padding, padding), (0, 0)]
    rows = Packed(
        *(
            _windows(jnp.pad(words, border), (height, width), strides)
            for words in pack(x)
        )
    )
    by_feature = pack(jnp.moveaxis(kernel, -1, 0))
    weights = Packed(*(words.reshape(features, -1) for words in by_feature))
    return popcount_dot(rows, weights)


def _windows(words, size: Sequence[int], strides: int):
    """Gather what each window sees, row by row: [n, h', w', kh kw words]."""
    height, width = size
    rows = words.shape[1] - height + 1
    columns = words.shape[2] - width + 1
    taps = [
        words[:, i : i + rows : strides, j : j + columns : strides]
        for i in range(height)
        for j in range(width)
    ]
    return jnp.concatenate(taps, axis=-1)
