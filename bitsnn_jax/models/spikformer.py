"""Spikformer: a vision transformer whose residual sums add up spikes."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from bitsnn_jax.models.spiking_attention import SpikingAttention
from bitsnn_jax.numerics.layers import ConvNorm


class Spikformer(nn.Module):
    """Convolutions, blocks of attention, global average, linear classifier.

    Zhou et al. 2023, Spikformer: when spiking neural network meets transformer, with
    the layout of their public code for CIFAR-10:

        x = four times act(norm(convolution 3x3)), pooled behind the last two
        x = x + act(norm(convolution 3x3 of x)), in place of a vector for each position
        x = x + act(attention(x)), then x + act(norm(W act(norm(V x)))), in each block

    All sums add up spikes, so the values between blocks are whole numbers. Pixels keep
    their places, and dense layers are 1x1 convolutions. Differs from the code: the
    paper's networks have at least 256 channels and a `hidden` of four times as many.

    Attributes:
      num_classes: how many logits.
      act: makes an activation, e.g. `partial(QCFS, levels=15)`; called with `name`.
      norm: makes a normalisation, see `ConvNorm`.
      layers: how many blocks.
      width: channels of a block; the convolutions before it have an eighth, a quarter,
        a half of them, and all.
      heads: of the attention; they share the width out evenly.
      hidden: channels in the middle of a block's second part.
      pool: `nn.avg_pool` or `nn.max_pool`, 3x3 with stride 2; theirs is the maximum.
      dtype: of the convolutions; None for that of the input.

    >>> from bitsnn_jax.numerics.layers import QCFS
    >>> model = Spikformer(3, QCFS, nn.BatchNorm, layers=1, width=8, heads=2, hidden=8)
    >>> x = jax.numpy.zeros((2, 8, 8, 1))
    >>> def init(key):
    ...     return model.init_with_output(key, x, train=False)
    >>> logits, variables = jax.eval_shape(init, jax.random.key(0))
    >>> logits.shape
    (2, 3)
    """

    num_classes: int
    act: Callable[..., Any]
    norm: Callable[..., Any]
    layers: int = 4
    width: int = 64
    heads: int = 4
    hidden: int = 128
    pool: Callable[..., jax.Array] = nn.max_pool
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Compute logits [n, num_classes] of images [n, h, w, c]."""

        def conv(x, features, name, kernel_size=3):
            return ConvNorm(
                features,
                norm=self.norm,
                kernel_size=kernel_size,
                dtype=self.dtype,
                name=name,
            )(x, train=train)

        for i, part in enumerate((8, 4, 2, 1)):
            x = conv(x, max(1, self.width // part), f"stem_{i}")
            x = self.act(name=f"stem_act_{i}")(x)
            if part <= 2:
                x = self.pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        x += self.act(name="position_act")(conv(x, self.width, "position"))

        for i in range(self.layers):
            attention = SpikingAttention(
                self.heads, self.act, self.norm, dtype=self.dtype, name=f"attention_{i}"
            )
            x += self.act(name=f"attention_act_{i}")(attention(x, train=train))
            y = conv(x, self.hidden, f"up_{i}", kernel_size=1)
            y = conv(self.act(name=f"up_act_{i}")(y), self.width, f"down_{i}", 1)
            x += self.act(name=f"down_act_{i}")(y)
        return nn.Dense(self.num_classes, name="head")(x.mean(axis=(1, 2)))
