"""Spike-driven transformer V2: convolutions and attention, fed by spikes alone."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from bitsnn_jax.models.spiking_attention import SpikingAttention
from bitsnn_jax.numerics.layers import ConvNorm


class _Part(nn.Module):
    """What the parts of the network have in common: `act`, `norm` and `dtype`."""

    act: Callable[..., Any]
    norm: Callable[..., Any]
    dtype: Any = None

    @nn.nowrap  # paths of modules would have its name in them
    def conv(self, features: int, kernel_size: int, name: str, **options) -> ConvNorm:
        """Make a convolution with a norm."""
        return ConvNorm(
            features,
            norm=self.norm,
            kernel_size=kernel_size,
            dtype=self.dtype,
            name=name,
            **options,
        )

    @nn.nowrap
    def spiking(self, x: jax.Array, name: str) -> jax.Array:
        """Apply an activation."""
        return self.act(name=f"{name}_act")(x)


class ConvBlock(_Part):
    """Two residual branches of convolutions.

        x = x + norm(P depthwise 7x7 of act(norm(P act(x))))
        x = x + norm(convolution 3x3 of act(norm(convolution 3x3 of act(x))))

    with 1x1 convolutions P, and `ratio` times the channels in the middle of both.
    """

    ratio: int = 2

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        width, wide = x.shape[-1], self.ratio * x.shape[-1]
        y = self.spiking(x, "expand")
        y = self.conv(wide, 1, "expand")(y, train=train)
        y = self.spiking(y, "depthwise")
        y = nn.Conv(
            wide,
            (7, 7),
            padding=3,
            feature_group_count=wide,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=nn.initializers.he_normal(),
            name="depthwise",
        )(y)
        x += self.conv(width, 1, "project")(y, train=train)
        y = self.conv(wide, 3, "up")(self.spiking(x, "up"), train=train)
        return x + self.conv(width, 3, "down")(self.spiking(y, "down"), train=train)


class AttentionBlock(_Part):
    """Attention and a part of two dense layers, each a residual branch.

    x = x + attention(act(x))
    x = x + norm(W act(norm(V act(x))))
    """

    heads: int = 4
    ratio: int = 2

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        width, wide = x.shape[-1], self.ratio * x.shape[-1]
        attention = SpikingAttention(
            self.heads,
            self.act,
            self.norm,
            kernel_size=3,
            dtype=self.dtype,
            name="attention",
        )
        x += attention(self.spiking(x, "attention"), train=train)
        y = self.conv(wide, 1, "up")(self.spiking(x, "up"), train=train)
        return x + self.conv(width, 1, "down")(self.spiking(y, "down"), train=train)


class SpikeDrivenTransformer(_Part):
    """Stages of convolutions, blocks of attention, global average, classifier.

    Yao et al. 2024, Spike-driven transformer V2, with the blocks of their public code.
    Every branch begins with an activation, so that spikes feed all layers but the first
    and those behind a depthwise convolution. Residual sums add up real numbers.

    Differs from the code:
    * there are two stages in place of four;
    * what they call RepConv (1x1, norm, depthwise 3x3, 1x1, norm), which becomes one
      3x3 convolution in inference, is that convolution here in training as well;
    * the middle of a branch has `ratio` times the channels, 2 in place of 4;
    * the classifier is fed by the mean of spikes. Theirs is fed by the mean of the real
      numbers, and the one that a teacher trains by the spikes of that mean.

    Attributes:
      act: makes an activation, e.g. `partial(QCFS, levels=15)`; called with `name`.
      norm: makes a normalisation, see `ConvNorm`.
      dtype: of the convolutions; None for that of the input.
      num_classes: how many logits.
      widths: channels of each stage, of one `ConvBlock` each.
      layers: how many blocks of attention, with the channels of the last stage.
      heads: of the attention; they share these channels out evenly.
      ratio: channels in the middle of a branch, in units of those of the block.

    >>> from bitsnn_jax.numerics.layers import QCFS
    >>> model = SpikeDrivenTransformer(
    ...     QCFS, nn.BatchNorm, num_classes=3, widths=(4, 8), layers=1, heads=2
    ... )
    >>> x = jax.numpy.zeros((2, 8, 8, 1))
    >>> def init(key):
    ...     return model.init_with_output(key, x, train=False)
    >>> logits, variables = jax.eval_shape(init, jax.random.key(0))
    >>> logits.shape
    (2, 3)
    """

    num_classes: int = 10
    widths: tuple[int, ...] = (32, 64)
    layers: int = 2
    heads: int = 4
    ratio: int = 2

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Compute logits [n, num_classes] of images [n, h, w, c]."""
        common: dict[str, Any] = {
            "act": self.act,
            "norm": self.norm,
            "dtype": self.dtype,
            "ratio": self.ratio,
        }
        for i, width in enumerate(self.widths):
            if i > 0:
                x = self.spiking(x, f"downsample_{i}")
            # The first layer is fed by the image, and sees more of it.
            down = self.conv(width, 3 if i else 7, f"downsample_{i}", strides=2)
            x = down(x, train=train)
            x = ConvBlock(**common, name=f"conv_{i}")(x, train=train)
        for i in range(self.layers):
            block = AttentionBlock(**common, heads=self.heads, name=f"attention_{i}")
            x = block(x, train=train)
        x = self.spiking(x, "head").mean(axis=(1, 2))
        return nn.Dense(self.num_classes, name="head")(x)
