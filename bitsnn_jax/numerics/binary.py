"""Binary activations and weights: signs forward, a substitute derivative backward.

sign(0) is +1 throughout, so that one bit says which of both a value is.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Floats = Float[Array, "..."]
POKE_CLIP = 1 - 2.0**-7  # share of its bound at which PokeBNN clips


class Signs(NamedTuple):
    """Weights as signs and a scale: `signs * scale`, channels of the output last.

    Attributes:
      signs: [..., C] in {-1, 1}; 0 where a mask leaves a weight out.
      scale: [C] or []; positive.
    """

    signs: Array
    scale: Array


def sign(x: Floats, slope: Floats | float = 1.0) -> Floats:
    """Return the sign of x, with sign(0) = 1.

        s = 1 if x >= 0 else -1;   ds/dx := slope

    Gradient: nothing but x gets one, also if the slope depends on values that are
    traced.

    Args:
      x: [...] of a floating type.
      slope: the derivative; broadcasts to x.

    >>> sign(jnp.array([-0.5, 0.0, 2.0]))
    Array([-1.,  1.,  1.], dtype=float32)
    """
    return _with_slope(x, jnp.where(x >= 0, 1, -1).astype(x.dtype), slope)


def _with_slope(x, value, slope):
    """Return the value, whose derivative by x is said to be this slope."""
    slope = jnp.broadcast_to(jnp.asarray(slope, x.dtype), x.shape)
    return _given(x, *map(jax.lax.stop_gradient, (value, slope)))


@jax.custom_vjp
def _given(x, value, slope):
    del x, slope
    return value


def _given_forward(x, value, slope):
    return _given(x, value, slope), slope


def _given_backward(slope, g):
    return g * slope, jnp.zeros_like(slope), jnp.zeros_like(slope)


_given.defvjp(_given_forward, _given_backward)


def clipped(x: Floats, bound: float = 1.0) -> Floats:
    """Return 1 for |x| <= bound, 0 elsewhere: straight through a clip."""
    return (jnp.abs(x) <= bound).astype(x.dtype)


def bireal(x: Floats) -> Floats:
    """Return max(0, 2 - 2 |x|), of Bi-Real Net: the derivative of a parabola."""
    return jnp.maximum(0, 2 - 2 * jnp.abs(x))


def poke(x: Floats, bound: float = 3.0) -> Floats:
    """Return the derivative of PokeBNN's binarisation, over half its bound B.

        y = B (floor(clip(x / B, -c, c)) + 1/2) = (B / 2) sign(x),   c = 1 - 2^-7

    dy/dx is 1 for |x| <= c B and 0 elsewhere, so that of the sign is 2 / B there.
    """
    return 2 / bound * clipped(x, POKE_CLIP * bound)


SLOPES: Mapping[str, Callable[[Floats], Floats]] = MappingProxyType(
    {
        "clipped": clipped,
        "meliusnet": partial(clipped, bound=1.3),
        "bireal": bireal,
        "poke": poke,
    }
)


def unscaled(w: Floats, *, bound: float = 1.0) -> Signs:
    """Return sign(w), straight through where |w| <= bound."""
    return Signs(sign(w, clipped(w, bound)), jnp.ones((), w.dtype))


def scaled_by_mean(w: Floats) -> Signs:
    """Return the signs of weights and the mean |w| of each output channel.

        sign(w) alpha,   alpha = mean |w|

    as XNOR-Net has it. Gradient: the chain rule through both, straight through the sign
    where |w| <= 1. The paper prints the share of alpha as 1 / n for each weight, which
    leaves the sum over the channel out.

    >>> scaled_by_mean(jnp.array([[3.0], [-1.0]])).scale
    Array([2.], dtype=float32)
    """
    return Signs(sign(w, clipped(w)), jnp.abs(w).mean(_inputs(w)))


def scaled_by_max(w: Floats) -> Signs:
    """Return the signs of weights and half the largest |w| of each output channel.

        (B / 2) sign(w),   B = max |w|

    as PokeBNN has it: `poke` with a bound that the weights have. Gradient: 1 for
    |w| <= (1 - 2^-7) B, 0 elsewhere, and none through B.

    >>> scaled_by_max(jnp.array([[3.0], [-1.0]])).scale
    Array([1.5], dtype=float32)
    """
    bound = jax.lax.stop_gradient(jnp.abs(w).max(_inputs(w)))
    bound = jnp.maximum(bound, jnp.finfo(w.dtype).tiny)
    slope = 2 / bound * (jnp.abs(w) <= POKE_CLIP * bound)
    return Signs(sign(w, slope), bound / 2)


def masked(w: Floats, scores: Floats, *, keep: float) -> Signs:
    """Return the signs of the weights with the largest scores, of multi-prize tickets.

        M = 1 for the round(keep n) of n weights with the largest |S|, 0 elsewhere
        signs = sign(w) M,   scale = sum |w| M / sum M

    Gradient: d|S| = |w| sign(w) g, with g that of the weights signs * scale: a weight
    gains if it were larger where it should be. w gets none: it stays as drawn.

    Args:
      w: [..., C] weights.
      scores: of the same shape.
      keep: share of the weights that stay, above 0 and at most 1.

    Raises:
      ValueError: another share, or scores of another shape.

    >>> w, scores = jnp.array([3.0, -1.0, 5.0]), jnp.array([0.2, -0.9, 0.1])
    >>> masked(w, scores, keep=2 / 3)
    Signs(signs=Array([ 1., -1.,  0.], dtype=float32), scale=Array(2., dtype=float32))
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep must be above 0 and at most 1, got {keep}")
    if w.shape != scores.shape:
        raise ValueError(
            f"scores must have the shape of the weights, {w.shape}, got {scores.shape}"
        )
    w = jax.lax.stop_gradient(w)
    kept = max(1, round(keep * w.size))
    order = jnp.argsort(-jnp.abs(scores).ravel(), stable=True)
    mask = jnp.zeros(w.size, w.dtype).at[order[:kept]].set(1).reshape(w.shape)
    scale = (jnp.abs(w) * mask).sum() / kept
    ones = jnp.where(w >= 0, 1, -1).astype(w.dtype)
    # The scale comes on top of this, so it is divided out.
    mask = _with_slope(jnp.abs(scores), mask, jnp.abs(w) / scale)
    return Signs(ones * mask, scale)


def _inputs(w) -> tuple[int, ...]:
    """All axes of a kernel but the last, that of its output channels."""
    return tuple(int(i) for i in np.arange(w.ndim - 1))
