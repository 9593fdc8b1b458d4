"""The encoder of transformers, with codes in front of every product.

Names of modules are those of Hugging Face's BERT, so that its weights fit; codes have
names of their own, which end in `act`.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from bitsnn_jax.numerics.layers import QCFS, SignedQCFS
from bitsnn_jax.numerics.mixing import normalise, softmax

# exp(-MASKED) is 0 in float32 and in float64.
MASKED = 1000.0

_HIDDEN = {"gelu": partial(nn.gelu, approximate=False), "relu": nn.relu}


@dataclasses.dataclass(frozen=True)
class Codes:
    """Which codes stand in front of the products of an encoder.

    Attributes:
      levels: highest code; None for a float network, which has no codes.
      hidden: the function in the middle of a feed-forward part.
      theta_init: where thetas start, but for probabilities.
      per_channel: one theta a channel for values and in front of dense layers. Queries,
        keys and probabilities always have one: a product adds them up.
    """

    levels: int | None = 15
    hidden: Literal["gelu", "relu"] = "gelu"
    theta_init: float = 4.0
    per_channel: bool = False

    def signed(self, z: jax.Array, *, name: str, channels: bool = True) -> jax.Array:
        """Return the codes of values of both signs; call it inside a compact method."""
        if self.levels is None:
            return z
        act = SignedQCFS(
            self.levels, self.theta_init, self.per_channel and channels, name=name
        )
        return act(z)

    def hidden_act(self, z: jax.Array) -> jax.Array:
        """Apply the hidden function and its code: `hidden_act`."""
        if self.hidden == "gelu" or self.levels is None:
            return self.signed(_HIDDEN[self.hidden](z), name="hidden_act")
        return self.rectified(z, name="hidden_act")

    def rectified(self, z: jax.Array, *, name: str) -> jax.Array:
        """Apply ReLU and its code, which has the ReLU in it."""
        if self.levels is None:
            return nn.relu(z)
        return QCFS(self.levels, self.theta_init, self.per_channel, name=name)(z)

    def probabilities(self, p: jax.Array) -> jax.Array:
        """Return the codes of attention over n tokens: `probs_act`.

        Its theta starts at `theta_init` times the mean of probabilities, 1 / n: steps
        of 1 / levels would round most of them to 0.
        """
        if self.levels is None:
            return p
        theta = min(1.0, self.theta_init / p.shape[-1])
        return QCFS(self.levels, theta, name="probs_act")(p)


class LayerNorm(nn.Module):
    """LayerNorm over the last axis: `scale * normalise(z) + bias`, in float32 at least.

    Attributes:
      epsilon: added to the variance.
    """

    epsilon: float = 1e-12

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, z.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, z.shape[-1:])
        wide = jnp.promote_types(z.dtype, scale.dtype)
        return scale * normalise(z.astype(wide), epsilon=self.epsilon) + bias


@dataclasses.dataclass(frozen=True)
class Block:
    """What all layers of an encoder have in common.

    Attributes:
      heads: of the attention; they share the width out evenly.
      hidden: width of the middle of a feed-forward part.
      codes: what stands in front of products.
      attention: "softmax", or "relu" of scores divided by the number of tokens.
      pre_norm: norms in front of both parts, as in ViT; else behind both sums, as in
        BERT.
      batch_norm: makes a norm, as of `ConvNorm`; None for a LayerNorm. Sums then add up
        codes, so that nothing is left that does not spike, and pre_norm must be False.
      epsilon: of the LayerNorms.
      dropout: rate, behind both parts and on the probabilities; needs a "dropout" key
        in training if positive.
      dtype: of the operands of products; None for that of the input.
    """

    heads: int
    hidden: int
    codes: Codes = Codes()
    attention: Literal["softmax", "relu"] = "softmax"
    pre_norm: bool = False
    batch_norm: Callable[..., Any] | None = None
    epsilon: float = 1e-12
    dropout: float = 0.0
    dtype: Any = None

    def __post_init__(self):
        if self.pre_norm and self.batch_norm is not None:
            raise ValueError(
                "pre_norm must be False with a batch norm: sums must add up codes"
            )

    def dense(self, features: int, *, name: str) -> nn.Module:
        """Make a dense layer."""
        return nn.Dense(features, dtype=self.dtype, name=name)

    def norm(self, x: jax.Array, *, train: bool, name: str = "LayerNorm") -> jax.Array:
        """Apply a norm; a batch norm is called `BatchNorm`."""
        if self.batch_norm is None:
            return LayerNorm(self.epsilon, name=name)(x)
        return self.batch_norm(use_running_average=not train, name="BatchNorm")(x)

    def dropped(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Drop entries in training."""
        return nn.Dropout(self.dropout, deterministic=not train)(x)


class SelfAttention(nn.Module):
    """Attention of every token to all others, with a code on every operand.

        context = code(p(q k^T / sqrt(d))) v,   p(z) = softmax(z) or relu(z / n)

    with q, k and v the codes of dense layers of x, for each head of width d.
    """

    block: Block

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array | None, *, train: bool
    ) -> jax.Array:
        """Compute [n, s, width] of codes x [n, s, width] and a mask [n, s] or None."""
        block, codes, width = self.block, self.block.codes, x.shape[-1]
        if width % block.heads:
            raise ValueError(
                f"the width must be a multiple of the {block.heads} heads, got {width}"
            )

        def operand(name, *, channels=False):
            z = block.dense(width, name=name)(x)
            z = codes.signed(z, name=f"{name}_act", channels=channels)
            return z.reshape(*z.shape[:2], block.heads, -1).swapaxes(1, 2)

        q, k = operand("query"), operand("key")
        # Unlike `@`, it keeps the axis of a batch of one, of which programs are traced.
        product = jax.lax.batch_matmul
        scores = product(q, k.swapaxes(2, 3)) / q.shape[-1] ** 0.5
        scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
        if block.attention == "relu":
            scores = scores / scores.shape[-1]
        if mask is not None:
            scores += ((mask.astype(scores.dtype) - 1) * MASKED)[:, None, None]
        if block.attention == "softmax":
            scores = softmax(scores)
        elif codes.levels is None:  # a code has the ReLU in it
            scores = nn.relu(scores)
        p = codes.probabilities(scores).astype(q.dtype)
        p = block.dropped(p, train=train)
        v = operand("value", channels=True)
        context = product(p, v).swapaxes(1, 2).reshape(x.shape)
        return codes.signed(context, name="context_act")


class Output(nn.Module):
    """Dense layer and sum with what came in, at the end of both parts of a layer."""

    block: Block

    @nn.compact
    def __call__(self, x: jax.Array, residual: jax.Array, *, train: bool) -> jax.Array:
        x = self.block.dense(residual.shape[-1], name="dense")(x)
        x = residual + self.block.dropped(x, train=train)
        return x if self.block.pre_norm else self.block.norm(x, train=train)


class Attention(nn.Module):
    """Self-attention, projected and added to what came in."""

    block: Block

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        residual: jax.Array,
        mask: jax.Array | None,
        *,
        train: bool,
    ) -> jax.Array:
        context = SelfAttention(self.block, name="self")(x, mask, train=train)
        return Output(self.block, name="output")(context, residual, train=train)


class Intermediate(nn.Module):
    """First half of the feed-forward part."""

    block: Block

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.block.codes.hidden_act(
            self.block.dense(self.block.hidden, name="dense")(x)
        )


class EncoderLayer(nn.Module):
    """Attention and a feed-forward part, each added to what comes in.

    With norms behind the sums, as in BERT, and c the codes of x:

        y = norm(x + dense(attention(c(x))))
        z = norm(y + dense(hidden(dense(c(y)))))

    With norms in front of the parts, c(norm(x)) and c(norm(y)) stand for c(x) and c(y)
    and the sums have none. With batch norms the sums add c(x) and c(y) themselves.
    """

    block: Block

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array | None = None, *, train: bool
    ) -> jax.Array:
        """Compute [n, s, width] of x [n, s, width] and a mask [n, s], 0 for padding."""
        c, x = self._coded(x, "layernorm_before", "input_act", train=train)
        x = Attention(self.block, name="attention")(c, x, mask, train=train)
        c, x = self._coded(x, "layernorm_after", "ffn_act", train=train)
        c = Intermediate(self.block, name="intermediate")(c)
        return Output(self.block, name="output")(c, x, train=train)

    @nn.nowrap  # paths of modules would have its name in them
    def _coded(self, x, norm, name, *, train):
        """Return what products are fed with, and what the sum adds."""
        block = self.block
        z = block.norm(x, train=train, name=norm) if block.pre_norm else x
        c = block.codes.signed(z, name=name)
        return c, x if block.batch_norm is None else c


class Encoder(nn.Module):
    """Layers one after the other: `layer_0`, `layer_1`, ...

    What comes out is no code: the value behind the last norm, or the last sum.

    >>> encoder = Encoder(2, Block(heads=2, hidden=8))
    >>> x = jnp.zeros((1, 3, 4))
    >>> variables = encoder.init(jax.random.key(0), x, train=False)
    >>> encoder.apply(variables, x, train=False).shape
    (1, 3, 4)
    """

    layers: int
    block: Block

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array | None = None, *, train: bool
    ) -> jax.Array:
        """Compute [n, s, width] of x [n, s, width] and a mask [n, s], 0 for padding."""
        for i in range(self.layers):
            x = EncoderLayer(self.block, name=f"layer_{i}")(x, mask, train=train)
        return x
