"""VGG networks with batch normalisation."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from bitsnn_jax.layers import ConvNorm

VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG(nn.Module):
    """Stages of 3x3 convolutions with pooling between, then three dense layers.

    Simonyan & Zisserman 2015, configuration D, with a norm after each convolution; the
    head is that of the CIFAR networks of the QCFS papers: flatten, hidden, hidden,
    logits.

    Attributes:
      widths: channels of the convolutions, stage by stage.
      num_classes: how many logits.
      act: makes an activation, e.g. `partial(QCFS, levels=15)`; called with `name`.
      norm: makes a normalisation, see `ConvNorm`.
      pools: the first so many stages end with a 2x2 pooling, at most all of them; each
        halves the image, which must stay at least one pixel wide.
      pool: `nn.avg_pool` or `nn.max_pool`.
      hidden: units of the two hidden dense layers.
      dropout: rate after each of them in training; needs a "dropout" key if positive.
      dtype: of the computation; None for that of the input.

    >>> from bitsnn_jax.layers import QCFS
    >>> widths = ((4,), (8, 8))
    >>> model = VGG(widths, 10, act=QCFS, norm=nn.BatchNorm, pools=2, hidden=16)
    >>> x = jax.numpy.zeros((2, 8, 8, 3))
    >>> variables = model.init(jax.random.key(0), x, train=False)
    >>> model.apply(variables, x, train=False).shape
    (2, 10)
    """

    widths: tuple[tuple[int, ...], ...]
    num_classes: int
    act: Callable[..., Any]
    norm: Callable[..., Any]
    pools: int
    pool: Callable[..., jax.Array] = nn.avg_pool
    hidden: int = 4096
    dropout: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Logits [n, num_classes] of images [n, h, w, c].

        Raises:
          ValueError: more poolings than the image can be halved.
        """
        if min(x.shape[1:3]) < 2**self.pools:
            raise ValueError(
                f"{self.pools} poolings need images of at least {2**self.pools} pixels "
                f"a side, got {x.shape[1]}x{x.shape[2]}: set pools lower"
            )
        for i, stage in enumerate(self.widths):
            for j, width in enumerate(stage):
                conv = ConvNorm(
                    width, norm=self.norm, dtype=self.dtype, name=f"conv_{i}_{j}"
                )
                x = self.act(name=f"act_{i}_{j}")(conv(x, train=train))
            if i < self.pools:
                x = self.pool(x, (2, 2), strides=(2, 2))

        x = x.reshape(len(x), -1)
        for i in (1, 2):
            x = nn.Dense(
                self.hidden,
                dtype=self.dtype,
                kernel_init=nn.initializers.he_normal(),
                name=f"hidden_{i}",
            )(x)
            x = self.act(name=f"hidden_act_{i}")(x)
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="head")(x)
