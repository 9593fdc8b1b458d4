"""Continuous binarisation: a clip that grows steeper until it is a step.

    a(x) = clip(x / m + 1/2, 0, 1)    and in the end    H(x)

Each layer trains its m from 1 towards 0, for its square is part of the loss. Layer
after layer, from the input, then becomes a step: of n layers, number i when i / (n + 1)
of the training is done. A step has no gradient, so what is before it stays as it is.
Activations are binary; weights are real, so that nothing is left to XNOR. Sakr et al.,
True gradient-based training of deep binary activated neural networks, ICASSP 2018.
Reconstructed: no public code is known, and the text of the paper was not at hand. The
height of a step is 1 here, since the next layer's weights scale it.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from bitsnn_jax.binary.method import Method, Sizes
from bitsnn_jax.numerics.layers import ConvNorm

DECAY = 0.01  # of m^2 in the loss
STEEPEST = 1e-3


class ClipStep(nn.Module):
    """A clip whose slope 1 / m is trained, and a step from some moment on.

    Attributes:
      until: share of the training that it is a clip for.

    >>> act, x = ClipStep(until=0.5), jnp.array([-0.3, 0.0, 0.2])
    >>> variables = act.init(jax.random.key(0), x, progress=0.0)
    >>> act.apply(variables, x, progress=0.0).round(1), act.apply(variables, x)
    (Array([0.2, 0.5, 0.7], dtype=float32), Array([0., 0., 1.], dtype=float32))
    """

    until: float

    @nn.compact
    def __call__(self, x: jax.Array, *, progress: jax.Array | float = 1.0) -> jax.Array:
        m = self.param("m", nn.initializers.ones_init(), ())
        if not self.is_initializing():
            self.sow("penalties", "m", DECAY * m**2)
        width = jnp.maximum(m, STEEPEST)
        clipped = jnp.clip(x / width + 0.5, 0, 1)
        return jnp.where(progress >= self.until, (x > 0).astype(x.dtype), clipped)


class BitConv(ConvNorm):
    """A convolution of bits by real weights, and a norm."""


class BitDense(nn.Dense):
    """A dense layer of bits by real weights."""


class Sakr(nn.Module):
    """Three real convolutions with binary activations, and a real classifier."""

    sizes: Sizes

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, progress: jax.Array | float = 1.0
    ) -> jax.Array:
        """Compute logits [n, num_classes] of images [n, h, w, c]."""
        size = self.sizes
        norm, layers = size.norm, len(size.widths)
        for i, features in enumerate(size.widths, start=1):
            conv = BitConv if i > 1 else ConvNorm
            x = conv(features, norm=norm, name=f"conv_{i}")(x, train=train)
            act = ClipStep(i / (layers + 1), name=f"act_{i}")
            x = act(x, progress=progress)
            if i > 1:
                x = size.pooled(x, i - 2)
        head = partial(BitDense, size.num_classes, name="head")
        return head()(x.reshape(len(x), -1))


METHOD = Method(
    name="sakr",
    title="Continuous binarisation",
    source="Sakr et al., True gradient-based training of deep binary activated neural "
    "networks via continuous binarization, ICASSP 2018; reconstructed",
    network=Sakr,
)
