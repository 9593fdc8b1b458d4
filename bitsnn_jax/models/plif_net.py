"""The network of parametric LIF neurons for images like those of MNIST."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from bitsnn_jax.numerics.layers import ConvNorm


class PLIFNet(nn.Module):
    """Two convolutions, two dense layers, and neurons that vote for the classes.

    Fang et al. 2021, Incorporating learnable membrane time constant, with the layout of
    their public code for MNIST and Fashion-MNIST:

        2 x (convolution 3x3, norm, act, pooling), dropout, dense, act, dropout,
        dense, act, mean of the `votes` neurons of each class

    The last layer spikes as well, so logits are rates of spikes. Dense layers have
    neither norm nor bias. Differs from the code: what dropout leaves is scaled in
    training, and not the whole in inference; and weights start as elsewhere here.

    Attributes:
      widths: channels of the two convolutions.
      hidden: units of the first dense layer.
      num_classes: how many logits.
      act: makes an activation, e.g. `partial(QCFS, levels=15)`; called with `name`.
      norm: makes a normalisation, see `ConvNorm`.
      pools: 2x2 poolings, at most two, one behind each convolution.
      pool: `nn.avg_pool` or `nn.max_pool`; theirs is the maximum.
      votes: neurons of each class.
      dropout: makes a dropout; called with the rate and `name`.
      dropout_rate: in front of both dense layers, theirs is 0.5; needs a "dropout" key
        in training if positive.
      dtype: of all layers but the last; None for that of the input.

    >>> from bitsnn_jax.numerics.layers import QCFS
    >>> model = PLIFNet((4, 4), 8, num_classes=3, act=QCFS, norm=nn.BatchNorm, pools=2)
    >>> x = jax.numpy.zeros((2, 8, 8, 1))
    >>> variables = model.init(jax.random.key(0), x, train=False)
    >>> model.apply(variables, x, train=False).shape
    (2, 3)
    >>> variables["params"]["head"]["kernel"].shape
    (8, 30)
    """

    widths: tuple[int, ...]
    hidden: int
    num_classes: int
    act: Callable[..., Any]
    norm: Callable[..., Any]
    pools: int
    pool: Callable[..., jax.Array] = nn.max_pool
    votes: int = 10
    dropout: Callable[..., Any] = nn.Dropout
    dropout_rate: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Compute logits [n, num_classes] of images [n, h, w, c]."""
        for i, width in enumerate(self.widths, start=1):
            conv = ConvNorm(width, norm=self.norm, dtype=self.dtype, name=f"conv_{i}")
            x = self.act(name=f"act_{i}")(conv(x, train=train))
            if i <= self.pools:
                x = self.pool(x, (2, 2), strides=(2, 2))
        x = x.reshape(len(x), -1)

        outputs = self.num_classes * self.votes
        for name, features, dtype in (
            ("hidden", self.hidden, self.dtype),
            ("head", outputs, None),
        ):
            dropout = self.dropout(self.dropout_rate, name=f"{name}_dropout")
            dense = nn.Dense(
                features,
                use_bias=False,
                dtype=dtype,
                kernel_init=nn.initializers.he_normal(),
                name=name,
            )
            x = dense(dropout(x, deterministic=not train))
            x = self.act(name=f"{name}_act")(x)
        return x.reshape(len(x), self.num_classes, self.votes).mean(axis=-1)
