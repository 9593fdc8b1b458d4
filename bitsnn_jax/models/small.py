"""A network of a few thousand parameters, for small images and quick trials."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from bitsnn_jax.numerics.layers import ConvNorm


class Small(nn.Module):
    """Three convolutions and a linear classifier.

    Only the second convolution is followed by a norm; the first, the third and the
    classifier have biases of their own. All the rules of conversion are therefore met:
    the analog first layer, a norm's bias, a convolution's bias, a dense layer's bias.

    Attributes:
      widths: channels of the three convolutions.
      num_classes: how many logits.
      act: makes an activation, e.g. `partial(QCFS, levels=15)`; called with `name`.
      norm: makes a normalisation, see `ConvNorm`.
      pools: 2x2 poolings, at most two: after the second and the third convolution.
      pool: `nn.avg_pool` or `nn.max_pool`.
      dtype: of the convolutions; None for that of the input.

    >>> from bitsnn_jax.numerics.layers import QCFS
    >>> model = Small((4, 8, 8), num_classes=10, act=QCFS, norm=nn.BatchNorm, pools=2)
    >>> x = jax.numpy.zeros((2, 8, 8, 1))
    >>> variables = model.init(jax.random.key(0), x, train=False)
    >>> model.apply(variables, x, train=False).shape
    (2, 10)
    """

    widths: tuple[int, ...]
    num_classes: int
    act: Callable[..., Any]
    norm: Callable[..., Any]
    pools: int
    pool: Callable[..., jax.Array] = nn.avg_pool
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Compute logits [n, num_classes] of images [n, h, w, c]."""

        def conv(features, name):
            return nn.Conv(
                features,
                (3, 3),
                padding=1,
                dtype=self.dtype,
                kernel_init=nn.initializers.he_normal(),
                name=name,
            )

        first, second, third = self.widths
        x = self.act(name="act_1")(conv(first, "conv_1")(x))
        x = ConvNorm(second, norm=self.norm, dtype=self.dtype, name="conv_2")(
            x, train=train
        )
        x = self.act(name="act_2")(x)
        if self.pools > 0:
            x = self.pool(x, (2, 2), strides=(2, 2))
        x = self.act(name="act_3")(conv(third, "conv_3")(x))
        if self.pools > 1:
            x = self.pool(x, (2, 2), strides=(2, 2))
        x = x.reshape(len(x), -1)
        return nn.Dense(self.num_classes, name="head")(x)
