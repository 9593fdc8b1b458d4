"""Linen layers of binary networks: signs, and convolutions by signs.

Signs come in, a binary convolution multiplies them by the signs of its kernel, and a
scale follows. The product is a method of its own, so that `execution.by_popcount` can
compute it from packed bits.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from jax import lax

from bitsnn_jax.numerics.binary import SLOPES, Signs, masked, scaled_by_mean, sign

he_normal = nn.initializers.he_normal()


class Sign(nn.Module):
    """The sign of each entry, 1 for 0.

    Attributes:
      slope: the derivative that is put in the place of 0.

    >>> import jax.numpy as jnp
    >>> Sign().apply({}, jnp.array([-0.5, 0.0]))
    Array([-1.,  1.], dtype=float32)
    """

    slope: Callable[[jax.Array], jax.Array] = SLOPES["clipped"]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return sign(x, self.slope(x))


class NormSign(nn.Module):
    """A norm and the sign of what it gives: one threshold a channel, in inference.

    Attributes:
      norm: makes the norm, as of `ConvNorm`.
      slope: as of `Sign`.
    """

    norm: Callable[..., Any]
    slope: Callable[[jax.Array], jax.Array] = SLOPES["clipped"]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = self.norm(use_running_average=not train, name="norm")(x)
        return Sign(self.slope, name="sign")(x)


class _Binary(nn.Module):
    """A convolution, padded by half its kernel, with what `_binarised` says of it."""

    features: int
    kernel_size: int = 3

    def product(self, x: jax.Array, signs: jax.Array) -> jax.Array:
        """Convolve in floats: whole numbers, and exact, where x are signs."""
        return convolve(x, signs)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        side = self.kernel_size
        shape = (side, side, x.shape[-1], self.features)
        weights = self._binarised(shape)
        return self.product(x, weights.signs) * weights.scale

    def _binarised(self, shape: tuple[int, ...]) -> Signs:
        raise NotImplementedError


class BinaryConv(_Binary):
    """Convolution of signs by the signs of a trained kernel, times a scale.

    Attributes:
      features: output channels.
      kernel_size: side of the square kernel; odd.
      weights: makes signs and scale of the kernel.

    >>> import jax.numpy as jnp
    >>> layer, x = BinaryConv(2), jnp.ones((1, 4, 4, 8))
    >>> layer.apply(layer.init(jax.random.key(0), x), x).shape
    (1, 4, 4, 2)
    """

    weights: Callable[[jax.Array], Signs] = scaled_by_mean

    def _binarised(self, shape: tuple[int, ...]) -> Signs:
        return self.weights(self.param("kernel", he_normal, shape))


class MaskedConv(_Binary):
    """Convolution by the signs of a random kernel that stays; its mask is trained.

    The kernel is a parameter called "frozen", which no optimiser here moves.

    Attributes:
      features: output channels.
      kernel_size: side of the square kernel; odd.
      keep: share of the kernel that the mask keeps.
      analog: whether x are numbers and no signs, so that there is nothing to count.
    """

    keep: float = 0.5
    analog: bool = False

    def _binarised(self, shape: tuple[int, ...]) -> Signs:
        frozen = self.param("frozen", he_normal, shape)
        # That of PyTorch's default, `kaiming_uniform` with a = sqrt(5).
        uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        scores = self.param("scores", uniform, shape)
        return masked(frozen, scores, keep=self.keep)


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolve [n, h, w, c] by an odd kernel, padded to the same size."""
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(1, 1),
        padding=[(side // 2, side // 2) for side in kernel.shape[:2]],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
