"""VGG networks, with and without batch normalisation."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax.numerics.layers import ConvNorm

VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG(nn.Module):
    """Stages of 3x3 convolutions with pooling between, then three dense layers.

    Simonyan & Zisserman 2015, configuration D, with a norm after each convolution or,
    as published, with a bias in its place. The head is flatten, hidden, hidden, logits.
    What is flattened is what the poolings leave, a pixel of a 32x32 image, as in the
    CIFAR networks of the QCFS papers; or, with `grid=7`, 7x7 averages whatever the size
    of the image, as in torchvision.

    Attributes:
      widths: channels of the convolutions, stage by stage.
      num_classes: how many logits.
      act: makes an activation, e.g. `partial(QCFS, levels=15)`; called with `name`.
      norm: makes a normalisation, see `ConvNorm`; None for convolutions with biases.
      pools: the first so many stages end with a 2x2 pooling, at most all of them; each
        halves the image, which must stay at least one pixel wide.
      pool: `nn.avg_pool` or `nn.max_pool`.
      grid: side that the image is averaged to before it is flattened; 0 for as it is.
      hidden: units of the two hidden dense layers.
      dropout: rate after each of them in training; needs a "dropout" key if positive.
      dtype: of the convolutions and hidden layers; None for that of the input.

    >>> from bitsnn_jax.numerics.layers import QCFS
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
    norm: Callable[..., Any] | None
    pools: int
    pool: Callable[..., jax.Array] = nn.avg_pool
    grid: int = 0
    hidden: int = 4096
    dropout: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Compute logits [n, num_classes] of images [n, h, w, c].

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

        if self.grid:
            x = _to_grid(x, self.grid)
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
        return nn.Dense(self.num_classes, name="head")(x)


def _to_grid(x, side):
    """Average windows that cover the image, as PyTorch has them: [n, side, side, c].

    Adaptive average pooling. An image of this size already stays as it is, spikes.
    """
    for axis in (1, 2):
        size = x.shape[axis]
        if size == side:
            continue
        # Window i is i * size / side to (i + 1) * size / side, rounded outwards.
        i, pixel = np.arange(side), np.arange(size)[:, None]
        inside = (i * size // side <= pixel) & (pixel * side < (i + 1) * size)
        mean = jnp.asarray(inside / inside.sum(0), x.dtype)
        x = jnp.moveaxis(jnp.tensordot(x, mean, axes=(axis, 0)), -1, axis)
    return x
