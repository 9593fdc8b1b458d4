"""MobileNetV2: inverted residuals with depthwise convolutions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from bitsnn_jax.numerics.layers import ConvNorm


class Stage(NamedTuple):
    """A row of Sandler et al. 2018, Table 2. `strides` is that of the first block."""

    expansion: int
    features: int
    blocks: int
    strides: int


MOBILENET_V2 = (
    Stage(1, 16, 1, 1),
    Stage(6, 24, 2, 2),
    Stage(6, 32, 3, 2),
    Stage(6, 64, 4, 2),
    Stage(6, 96, 3, 1),
    Stage(6, 160, 3, 2),
    Stage(6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, projection, and a skip where shapes agree.

        y = project(act(depthwise(act(expand(x))))) + x

    With a linear bottleneck, as published, y is what leaves the block. The spiking
    network then sends no spikes from block to block, but currents: real numbers at each
    step, which the skips add up and the next expansion multiplies. It converts exactly
    all the same. Otherwise act(y) leaves the block: every convolution is fed by spikes
    and the skip carries spikes, which say nothing about what is negative in y.
    """

    features: int
    expansion: int
    strides: int
    act: Callable[..., Any]
    norm: Callable[..., Any]
    linear_bottleneck: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def conv(x, features, name, **options):
            layer = ConvNorm(
                features, norm=self.norm, dtype=self.dtype, name=name, **options
            )
            return layer(x, train=train)

        y, hidden = x, self.expansion * x.shape[-1]
        if self.expansion > 1:
            y = self.act(name="expand_act")(conv(y, hidden, "expand", kernel_size=1))
        y = conv(y, hidden, "depthwise", strides=self.strides, groups=hidden)
        y = self.act(name="depthwise_act")(y)
        y = conv(y, self.features, "project", kernel_size=1)
        if self.strides == 1 and x.shape == y.shape:
            y = y + x
        return y if self.linear_bottleneck else self.act(name="project_act")(y)


class MobileNetV2(nn.Module):
    """Stem, stages of inverted residuals, 1x1 convolution, global average, classifier.

    `act` stands where the paper has ReLU6. Without dropout before the classifier.

    Attributes:
      stages: as in `MOBILENET_V2`.
      num_classes: how many logits.
      act: makes an activation, e.g. `partial(QCFS, levels=15)`; called with `name`.
      norm: makes a normalisation, see `ConvNorm`.
      stem_features: channels of the first convolution.
      last_features: channels of the last.
      stem_strides: of the first convolution; 2 for the images of ImageNet.
      linear_bottleneck: False puts an activation after each block, see
        `InvertedResidual`.
      dtype: of the convolutions; None for that of the input.

    >>> from bitsnn_jax.numerics.layers import QCFS
    >>> stages = (Stage(1, 4, 1, 1), Stage(6, 8, 2, 2))
    >>> model = MobileNetV2(stages, num_classes=10, act=QCFS, norm=nn.BatchNorm)
    >>> x = jax.numpy.zeros((2, 8, 8, 3))
    >>> def init(key):
    ...     return model.init_with_output(key, x, train=False)
    >>> logits, variables = jax.eval_shape(init, jax.random.key(0))
    >>> logits.shape
    (2, 10)
    """

    stages: tuple[Stage, ...]
    num_classes: int
    act: Callable[..., Any]
    norm: Callable[..., Any]
    stem_features: int = 32
    last_features: int = 1280
    stem_strides: int = 2
    linear_bottleneck: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Compute logits [n, num_classes] of images [n, h, w, c]."""
        layers: dict[str, Any] = {"norm": self.norm, "dtype": self.dtype}
        stem = ConvNorm(
            self.stem_features, strides=self.stem_strides, name="stem", **layers
        )
        x = self.act(name="stem_act")(stem(x, train=train))
        for i, stage in enumerate(self.stages):
            for j in range(stage.blocks):
                x = InvertedResidual(
                    stage.features,
                    stage.expansion,
                    strides=stage.strides if j == 0 else 1,
                    act=self.act,
                    linear_bottleneck=self.linear_bottleneck,
                    name=f"stages_{i}_{j}",
                    **layers,
                )(x, train=train)
        last = ConvNorm(self.last_features, kernel_size=1, name="last", **layers)
        x = self.act(name="last_act")(last(x, train=train))
        return nn.Dense(self.num_classes, name="head")(x.mean(axis=(1, 2)))
