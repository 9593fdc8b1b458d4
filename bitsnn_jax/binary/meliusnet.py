"""MeliusNet: blocks that add new channels, and then improve the newest.

    dense        x <- [x, conv(sign(norm(x)))]
    improvement  x <- [.., newest + conv(sign(norm(x)))]

Signs are straight through for |x| <= 1.3, weights are signs without a scale, clipped in
the same way. Between blocks: norm, pooling, ReLU, a real 1x1 convolution. Bethge et
al., MeliusNet, WACV 2021, and public code, hpi-xnor/BMXNet-v2-examples and larq/zoo.
Differs in size: two blocks that grow by 8 channels, where MeliusNet59 has 54 that grow
by 64, and a single real convolution as the stem.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bitsnn_jax.binary.layers import BinaryConv, NormSign, he_normal
from bitsnn_jax.binary.method import Method, Sizes
from bitsnn_jax.numerics.binary import SLOPES, unscaled

BOUND = 1.3


class MeliusBlock(nn.Module):
    """A dense block and an improvement block.

    Attributes:
      growth: new channels.
      norm: makes a batch norm.
    """

    growth: int
    norm: Callable[..., Any]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        conv = partial(BinaryConv, self.growth, weights=partial(unscaled, bound=BOUND))
        act = partial(NormSign, self.norm, SLOPES["meliusnet"])
        new = conv(name="dense")(act(name="act_1")(x, train=train))
        x = jnp.concatenate([x, new], axis=-1)
        better = conv(name="improvement")(act(name="act_2")(x, train=train))
        old = x.shape[-1] - self.growth
        return jnp.concatenate([x[..., :old], x[..., old:] + better], axis=-1)


class MeliusNet(nn.Module):
    """A real convolution, two blocks with a transition, and a real classifier."""

    sizes: Sizes

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, progress: object = 1.0):
        """Compute logits [n, num_classes] of images [n, h, w, c]."""
        del progress
        size = self.sizes
        first, second, third = size.widths
        conv = partial(nn.Conv, use_bias=False, kernel_init=he_normal)
        norm = partial(size.norm, use_running_average=not train)
        between = max(1, second // 2)
        x = conv(first, (3, 3), padding=1, name="stem")(x)
        growth = max(1, second - first)
        x = MeliusBlock(growth, size.norm, name="block_1")(x, train=train)
        x = nn.relu(size.pooled(norm(name="norm_1")(x), 0))
        x = conv(between, (1, 1), name="transition")(x)
        growth = max(1, third - between)
        x = MeliusBlock(growth, size.norm, name="block_2")(x, train=train)
        x = size.pooled(nn.relu(norm(name="norm_2")(x)), 1)
        return nn.Dense(size.num_classes, name="head")(x.reshape(len(x), -1))


METHOD = Method(
    name="meliusnet",
    title="MeliusNet",
    source="Bethge et al., MeliusNet, WACV 2021",
    network=MeliusNet,
)
