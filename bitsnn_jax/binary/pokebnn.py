"""PokeBNN: binary convolutions with residuals, DPReLU and squeeze-and-excite.

    y = norm(conv(binary(x))) + r,   r = x with zeros in the place of new channels
    PokeConv(x) = norm(DPReLU(y) SE(x))

Signs have the derivative `poke` with a bound of 3, weights half their largest |w| a
channel. Zhang et al., PokeBNN, CVPR 2022, and its public code, google/aqt. Differs in
size: two PokeConvs, where PokeBNN has 16 blocks of three; so the residual from the
input of a block is left out. Stem and classifier are floats in the place of 8 bits, and
so is squeeze-and-excite in the place of 4. Signs are there from the first step on, and
labels stand in for the softmax of a teacher.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bitsnn_jax.binary.layers import BinaryConv, Sign
from bitsnn_jax.binary.method import Method, Sizes
from bitsnn_jax.numerics.binary import SLOPES, scaled_by_max
from bitsnn_jax.numerics.layers import ConvNorm

BOUND = 3.0  # of activations
REDUCTION = 8  # of the channels inside squeeze-and-excite


class DPReLU(nn.Module):
    """ReLU with two trained slopes and a trained knee, for each channel.

    y = s_+ (x - a) - b  where x >= a,   s_- (x - a) - b  elsewhere
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = x.shape[-1:]
        zeros, constant = nn.initializers.zeros_init(), nn.initializers.constant
        above = self.param("above", constant(1.0), shape)
        below = self.param("below", constant(0.25), shape)
        knee = self.param("knee", zeros, shape)
        shift = self.param("shift", zeros, shape)
        z = x - knee
        return jnp.where(z >= 0, above * z, below * z) - shift


class SqueezeExcite(nn.Module):
    """A factor from 0 to 1 for each channel, of the means over the image.

    s = W_2 relu(W_1 mean(x)),   min(max(s + 3, 0), 6) / 6
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.mean((1, 2), keepdims=True)
        x = nn.relu(nn.Dense(max(1, self.features // REDUCTION), name="squeeze")(x))
        return nn.relu6(nn.Dense(self.features, name="excite")(x) + 3) / 6


class PokeConv(nn.Module):
    """A binary convolution with all that goes around it.

    Attributes:
      features: output channels, no fewer than there are.
      norm: makes a batch norm.
    """

    features: int
    norm: Callable[..., Any]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        signs = Sign(SLOPES["poke"], name="sign")(x)
        y = BinaryConv(self.features, weights=scaled_by_max, name="conv")(signs)
        # Half the bound is what a sign of PokeBNN is worth.
        y = self.norm(use_running_average=not train, name="norm")(BOUND / 2 * y)
        new = max(0, self.features - x.shape[-1])
        residual = jnp.pad(x, [(0, 0)] * 3 + [(0, new)])[..., : self.features]
        y = DPReLU(name="act")(y + residual)
        y *= SqueezeExcite(self.features, name="se")(x)
        return self.norm(use_running_average=not train, name="norm_2")(y)


class PokeBNN(nn.Module):
    """A real convolution, two PokeConvs, and a real classifier."""

    sizes: Sizes

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, progress: object = 1.0):
        """Compute logits [n, num_classes] of images [n, h, w, c]."""
        del progress
        size = self.sizes
        first, second, third = size.widths
        x = ConvNorm(first, norm=size.norm, name="stem")(x, train=train)
        x = DPReLU(name="act")(x)
        x = size.pooled(PokeConv(second, size.norm, name="poke_1")(x, train=train), 0)
        x = size.pooled(PokeConv(third, size.norm, name="poke_2")(x, train=train), 1)
        return nn.Dense(size.num_classes, name="head")(x.reshape(len(x), -1))


METHOD = Method(
    name="pokebnn",
    title="PokeBNN",
    source="Zhang et al., PokeBNN, CVPR 2022",
    network=PokeBNN,
)
