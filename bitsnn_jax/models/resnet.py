"""Residual networks of basic blocks: the CIFAR and the ImageNet forms."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from bitsnn_jax.numerics.layers import ConvNorm


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, He et al. 2016, Fig. 2.

        y = act(conv_2(act(conv_1(x))) + shortcut(x))

    The shortcut is x itself, or a 1x1 convolution with norm where the shape changes
    (their option B). The second activation comes after the sum, so that what leaves the
    block is spikes.

    Attributes:
      features: output channels.
      strides: of the first convolution and the shortcut.
      act: makes an activation; called with `name`.
      norm: makes a normalisation, see `ConvNorm`.
      dtype: of the convolutions; None for that of the input.
      summand: norm -> that of two branches that are added; None for `norm` itself.
    """

    features: int
    strides: int
    act: Callable[..., Any]
    norm: Callable[..., Any]
    dtype: Any = None
    summand: Callable[..., Any] | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        norm = self.norm

        def conv(strides, name, kernel_size=3):
            return ConvNorm(
                self.features,
                norm=norm,
                kernel_size=kernel_size,
                strides=strides,
                dtype=self.dtype,
                name=name,
            )

        y = conv(self.strides, "conv_1")(x, train=train)
        y = self.act(name="act_1")(y)
        two_branches = x.shape != y.shape
        if two_branches and self.summand is not None:
            norm = self.summand(norm)
        y = conv(1, "conv_2")(y, train=train)
        if two_branches:
            x = conv(self.strides, "shortcut", kernel_size=1)(x, train=train)
        return self.act(name="act_2")(y + x)


class ResNet(nn.Module):
    """Stem, stages of basic blocks, global average, linear classifier.

    Each stage after the first halves the resolution. ResNet-20 is three stages of three
    blocks with 16, 32 and 64 channels; ResNet-18 and -34 are four stages of
    (2, 2, 2, 2) and (3, 4, 6, 3) blocks with 64, 128, 256 and 512 channels.

    Attributes:
      blocks: how many for each stage.
      widths: channels of each stage.
      num_classes: how many logits; None for what each stage gives in their place.
      act: makes an activation, e.g. `partial(QCFS, levels=15)`; called with `name`.
      norm: makes a normalisation, see `ConvNorm`.
      stem: "cifar", 3x3; or "imagenet", 7x7 with stride 2, then 3x3 pooling with
        stride 2, after which everything costs a sixteenth.
      pool: of the "imagenet" stem; `nn.avg_pool` or `nn.max_pool`.
      dtype: of the convolutions; None for that of the input.
      block: makes a block; called with channels, and `strides`, `act`, `norm`, `dtype`
        and `name`.

    Raises:
      ValueError: unknown stem.

    >>> from bitsnn_jax.numerics.layers import QCFS
    >>> model = ResNet((1, 1), (4, 8), num_classes=10, act=QCFS, norm=nn.BatchNorm)
    >>> x = jax.numpy.zeros((2, 8, 8, 3))
    >>> def init(key):
    ...     return model.init_with_output(key, x, train=False)
    >>> logits, variables = jax.eval_shape(init, jax.random.key(0))
    >>> logits.shape
    (2, 10)
    """

    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    num_classes: int | None
    act: Callable[..., Any]
    norm: Callable[..., Any]
    stem: str = "cifar"
    pool: Callable[..., jax.Array] = nn.avg_pool
    dtype: Any = None
    block: Callable[..., Any] = BasicBlock

    def __post_init__(self):
        if self.stem not in _STEMS:
            raise ValueError(
                f"stem must be one of {', '.join(_STEMS)}; got {self.stem!r}"
            )
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool
    ) -> jax.Array | tuple[jax.Array, ...]:
        """Compute logits [n, num_classes] of images [n, h, w, c]; or a map a stage.

        That of a stage is [n, h / stride, w / stride, width], rounded up.
        """
        kernel_size, strides, pooled = _STEMS[self.stem]
        x = ConvNorm(
            self.widths[0],
            norm=self.norm,
            kernel_size=kernel_size,
            strides=strides,
            dtype=self.dtype,
            name="stem",
        )(x, train=train)
        x = self.act(name="stem_act")(x)
        if pooled:
            x = self.pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))

        maps = []
        for i, (num_blocks, width) in enumerate(
            zip(self.blocks, self.widths, strict=True)
        ):
            for j in range(num_blocks):
                x = self.block(
                    width,
                    strides=2 if i > 0 and j == 0 else 1,
                    act=self.act,
                    norm=self.norm,
                    dtype=self.dtype,
                    name=f"stages_{i}_{j}",
                )(x, train=train)
            maps.append(x)
        if self.num_classes is None:
            return tuple(maps)
        x = x.mean(axis=(1, 2))
        return nn.Dense(self.num_classes, name="head")(x)


# Kernel size, strides, whether a pooling follows.
_STEMS = {"cifar": (3, 1, False), "imagenet": (7, 2, True)}
