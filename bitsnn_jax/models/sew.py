"""The spike-element-wise residual block: what it adds up is spikes."""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax

from bitsnn_jax.numerics.layers import ConvNorm

Connect = Literal["add", "and", "iand"]


class SEWBlock(nn.Module):
    """Two 3x3 convolutions with activations, joined with a shortcut that has one, too.

        y = act(norm(conv_2(act(norm(conv_1(x))))))
        z = x, or act(norm(1x1 convolution of x)) where the shape changes
        add: y + z      and: y z      iand: z - y z = z and not y

    Fang et al. 2021, Deep residual learning in spiking neural networks, and their
    public code. Sums of spikes are whole numbers and no spikes; the other two are
    spikes of spikes. `add` is the one that they report.

    Attributes:
      features: output channels.
      strides: of the first convolution and the shortcut.
      act: makes an activation; called with `name`.
      norm: makes a normalisation, see `ConvNorm`.
      dtype: of the convolutions; None for that of the input.
      connect: how both are joined.

    >>> from functools import partial
    >>> from bitsnn_jax.models.resnet import ResNet
    >>> from bitsnn_jax.numerics.layers import QCFS
    >>> block = partial(SEWBlock, connect="iand")
    >>> model = ResNet((1, 1), (4, 8), 10, act=QCFS, norm=nn.BatchNorm, block=block)
    >>> x = jax.numpy.zeros((2, 8, 8, 3))
    >>> def init(key):
    ...     return model.init_with_output(key, x, train=False)
    >>> jax.eval_shape(init, jax.random.key(0))[0].shape
    (2, 10)
    """

    features: int
    strides: int
    act: Callable[..., Any]
    norm: Callable[..., Any]
    dtype: Any = None
    connect: Connect = "add"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def spiking_conv(x, strides, conv, act, kernel_size=3):
            layer = ConvNorm(
                self.features,
                norm=self.norm,
                kernel_size=kernel_size,
                strides=strides,
                dtype=self.dtype,
                name=conv,
            )
            return self.act(name=act)(layer(x, train=train))

        y = spiking_conv(x, self.strides, "conv_1", "act_1")
        y = spiking_conv(y, 1, "conv_2", "act_2")
        if x.shape != y.shape:
            x = spiking_conv(x, self.strides, "shortcut", "shortcut_act", 1)
        match self.connect:
            case "add":
                return y + x
            case "and":
                return y * x
            case "iand":
                return x - y * x
        raise ValueError(f"connect must be one of add, and, iand; got {self.connect!r}")
