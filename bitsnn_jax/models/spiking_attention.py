"""Attention that multiplies spikes with spikes, without softmax."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from bitsnn_jax.numerics.layers import ConvNorm


class SpikingAttention(nn.Module):
    """Attention between the pixels of an image of spikes, as a norm's output.

        q, k, v = act(norm(W x)) for each of the three
        y = norm(W act(2 scale q (k^T v)))

    for each head. Zhou et al. 2023, Spikformer; Yao et al. 2024, Spike-driven
    transformer V2. All factors are spikes, so products are counts, and the order of the
    two makes no difference. Their neurons behind the products have a threshold of half
    the usual one: here their current is doubled instead, which gives the same spikes.
    (A surrogate gradient is then that of twice the distance from the threshold.)

    Products of spikes are computed in the type of the activations, float32: bfloat16
    cannot hold counts above 256.

    Attributes:
      heads: they share the channels out evenly.
      act: makes an activation; called with `name`.
      norm: makes a normalisation, see `ConvNorm`.
      kernel_size: of the four convolutions.
      scale: of the products; theirs, for heads of any width.
      dtype: of the convolutions; None for that of the input.

    >>> from bitsnn_jax.numerics.layers import QCFS
    >>> layer = SpikingAttention(2, act=QCFS, norm=nn.BatchNorm)
    >>> x = jax.numpy.zeros((1, 3, 3, 4))
    >>> variables = layer.init(jax.random.key(0), x, train=False)
    >>> layer.apply(variables, x, train=False).shape
    (1, 3, 3, 4)
    """

    heads: int
    act: Callable[..., Any]
    norm: Callable[..., Any]
    kernel_size: int = 1
    scale: float = 0.125
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Compute [n, h, w, c] of spikes [n, h, w, c].

        Raises:
          ValueError: channels that the heads cannot share out.
        """
        if x.shape[-1] % self.heads:
            raise ValueError(
                f"channels must be a multiple of the {self.heads} heads, got "
                f"{x.shape[-1]}"
            )

        def conv(x, name):
            return ConvNorm(
                x.shape[-1],
                norm=self.norm,
                kernel_size=self.kernel_size,
                dtype=self.dtype,
                name=name,
            )(x, train=train)

        q, k, v = (
            self.act(name=f"{name}_act")(conv(x, name))
            for name in ("query", "key", "value")
        )
        context = 2 * self.scale * linear_attention(q, k, v, heads=self.heads)
        return conv(self.act(name="context_act")(context), "project")


def linear_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, *, heads: int
) -> jax.Array:
    """Compute q (k^T v) between the pixels of images, for each head.

    Args:
      q: [n, h, w, c].
      k: [n, h, w, c].
      v: [n, h, w, c].
      heads: that share the channels c out evenly.

    Returns:
      [n, h, w, c].

    >>> one = jax.numpy.ones((1, 2, 3, 4))
    >>> float(linear_attention(one, one, one, heads=2)[0, 0, 0, 0])  # 6 pixels, 2 wide
    12.0
    """

    def split(x):
        n, height, width, _ = x.shape
        return x.reshape(n, height * width, heads, -1).swapaxes(1, 2)

    # Unlike `@`, it keeps the axis of a batch of one, of which programs are traced.
    product = jax.lax.batch_matmul
    kv = product(split(k).swapaxes(2, 3), split(v))
    return product(split(q), kv).swapaxes(1, 2).reshape(q.shape)
