"""RetinaNet: boxes and their classes from a pyramid of maps."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bitsnn_jax.config import Pyramid
from bitsnn_jax.detection import ANCHORS_PER_PLACE
from bitsnn_jax.numerics.layers import ConvNorm

PRIOR = 0.01  # the probability of each class at the start; most places have no object
_DEPTH = 4  # hidden convolutions of a head


class RetinaNet(nn.Module):
    """A backbone, a pyramid of five maps, and two heads that all maps share.

    Lin et al. 2017, Focal loss for dense object detection. C3, C4 and C5 are what the
    last three stages of the backbone give, m and p maps of equal channels:

        m5 = lateral(C5),  m4 = lateral(C4) + up(m5),  m3 = lateral(C3) + up(m4)
        p3, p4, p5 = act(conv(act(m3))), act(conv(act(m4))), act(conv(act(m5)))
        p6 = act(conv(C5)),  p7 = act(conv(p6)),  convolutions with stride 2

    `up` repeats each place twice in both directions and crops what is too much. Each
    head is four 3x3 convolutions with activations, and one without, whose membranes are
    the outputs: real numbers, which need no spikes.

    Between two activations everything is affine, whatever `pyramid` is. Of the
    activations on m and p, the paper has that between p6 and p7 alone; this is
    `pyramid="currents"`. Convolutions on m, and the first of each head, are then fed by
    real numbers and multiply. With "spikes", spikes feed every convolution but the
    stem. The sums m go down the pyramid as they are in both: the activation is on the
    branch to the heads only, so that nothing is rounded on the way down, and no
    negative part is lost.

    Differs from the paper: hidden convolutions start with He's variance in place of
    0.01^2, with which the codes of all levels would be 0.

    Attributes:
      backbone: `ResNet` without classes: images -> maps of at least three stages.
      num_classes: of objects; background is none of them.
      features: channels of the pyramid and of the heads.
      act: makes an activation, e.g. `partial(QCFS, levels=15)`; called with `name`.
      head_norm: makes the normalisation of the heads' hidden convolutions, one for each
        map, since their statistics differ; None for biases, as the paper has it.
      pyramid: "spikes" or "currents", see above.
      dtype: of all convolutions but the last of each head; None for that of the input.

    >>> from bitsnn_jax.models.resnet import ResNet
    >>> from bitsnn_jax.numerics.layers import QCFS
    >>> stages = ResNet((1, 1, 1), (4, 4, 8), None, act=QCFS, norm=nn.BatchNorm)
    >>> model = RetinaNet(stages, num_classes=3, features=8, act=QCFS)
    >>> x = jnp.zeros((2, 16, 16, 3))
    >>> def init(key):
    ...     return model.init_with_output(key, x, train=False)
    >>> outputs, variables = jax.eval_shape(init, jax.random.key(0))
    >>> [level.shape for level in outputs["boxes"]][:2]
    [(2, 16, 16, 36), (2, 8, 8, 36)]
    >>> [level.shape for level in outputs["classes"]][3:]
    [(2, 2, 2, 27), (2, 1, 1, 27)]
    """

    backbone: nn.Module
    num_classes: int
    features: int
    act: Callable[..., Any]
    head_norm: Callable[..., Any] | None = None
    pyramid: Pyramid = "spikes"
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool
    ) -> dict[str, tuple[jax.Array, ...]]:
        """Compute what each map says of its places, of images [n, h, w, c].

        Returns:
          {"boxes": offsets [n, h_l, w_l, 9 * 4], "classes": logits [n, h_l, w_l,
          9 * num_classes]}, one array for each map p3 to p7. The channels of an anchor
          lie side by side.
        """
        pyramid = FeaturePyramid(
            self.features, self.act, self.pyramid, dtype=self.dtype, name="pyramid"
        )
        maps = pyramid(self.backbone(x, train=train)[-3:], train=train)
        head = partial(
            Head, self.features, self.act, norm=self.head_norm, dtype=self.dtype
        )
        boxes = head(ANCHORS_PER_PLACE * 4, name="boxes")
        prior = -math.log((1 - PRIOR) / PRIOR)
        classes = head(ANCHORS_PER_PLACE * self.num_classes, bias=prior, name="classes")
        levels = [f"p{i}" for i in range(3, 8)]
        return {
            name: tuple(
                head(p, level, train=train)
                for p, level in zip(maps, levels, strict=True)
            )
            for name, head in (("boxes", boxes), ("classes", classes))
        }


class FeaturePyramid(nn.Module):
    """Five maps of equal channels, of the last three of a backbone; see `RetinaNet`.

    Attributes:
      features: channels of each map.
      act: makes an activation; called with `name`.
      pyramid: "spikes" or "currents": whether sums and maps have an activation.
      dtype: of the convolutions; None for that of the input.
    """

    features: int
    act: Callable[..., Any]
    pyramid: Pyramid = "spikes"
    dtype: Any = None

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], *, train: bool) -> list[jax.Array]:
        """Compute p3 to p7 of C3, C4 and C5."""

        def conv(x, name, **shape):
            layer = ConvNorm(
                self.features, norm=None, dtype=self.dtype, name=name, **shape
            )
            return layer(x, train=train)

        def fired(x, name):
            return self.act(name=name)(x) if self.pyramid == "spikes" else x

        m = [conv(c, f"lateral_{i}", kernel_size=1) for i, c in enumerate(maps, 3)]
        for i in (1, 0):
            m[i] = m[i] + twice(m[i + 1], like=m[i])
        p = []
        for i, x in enumerate(m, 3):
            x = conv(fired(x, f"sum_act_{i}"), f"output_{i}")
            p.append(fired(x, f"act_{i}"))
        p6 = conv(maps[-1], "output_6", strides=2)
        spikes = self.act(name="act_6")(p6)
        p7 = conv(spikes, "output_7", strides=2)
        p6 = spikes if self.pyramid == "spikes" else p6
        return [*p, p6, fired(p7, "act_7")]


class Head(nn.Module):
    """Four 3x3 convolutions with activations, and one without; for any of the maps.

    Attributes:
      features: channels of the hidden convolutions.
      act: makes an activation; called with `name`.
      outputs: channels of the last convolution.
      norm: see `RetinaNet.head_norm`.
      bias: where that of the last convolution starts.
      dtype: of the hidden convolutions; None for that of the input.
    """

    features: int
    act: Callable[..., Any]
    outputs: int
    norm: Callable[..., Any] | None = None
    bias: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, level: str, *, train: bool) -> jax.Array:
        """Compute [n, h, w, outputs] of a map [n, h, w, c], whose name is `level`."""
        for i in range(1, _DEPTH + 1):
            x = nn.Conv(
                self.features,
                (3, 3),
                padding=1,
                use_bias=self.norm is None,
                dtype=self.dtype,
                kernel_init=nn.initializers.he_normal(),
                name=f"conv_{i}",
            )(x)
            if self.norm is not None:
                norm = self.norm(
                    use_running_average=not train, name=f"norm_{i}_{level}"
                )
                x = norm(x)
            x = self.act(name=f"act_{i}")(x)
        return nn.Conv(
            self.outputs,
            (3, 3),
            padding=1,
            kernel_init=nn.initializers.normal(0.01),
            bias_init=nn.initializers.constant(self.bias),
            name="output",
        )(x)


def twice(x: jax.Array, *, like: jax.Array) -> jax.Array:
    """Repeat each place of [n, h, w, c] twice, and crop to the places of `like`.

    >>> twice(jnp.arange(2.0).reshape(1, 1, 2, 1), like=jnp.zeros((1, 1, 3, 1))).ravel()
    Array([0., 0., 1.], dtype=float32)
    """
    n, height, width, channels = x.shape
    x = jnp.broadcast_to(
        x[:, :, None, :, None], (n, height, 2, width, 2, channels)
    ).reshape(n, 2 * height, 2 * width, channels)
    return x[:, : like.shape[1], : like.shape[2]]
