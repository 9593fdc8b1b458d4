"""Neurons with any function in front of their code: two integers for each code.

With u the sum of a neuron, and k(u) = code(f(u unit)), the table of a channel has

    code >= k   where   rise[k - 1] <= u < fall[k - 1],   k = 1..2**T - 1,

found once, in float64, by bisection over the integers. So the code is exact by
definition. A function that rises has `fall` = `NEVER` everywhere, one that falls `rise`
= `ALWAYS`; a lobe, such as the negative part of GELU, has both. Eq. (10) is the case of
equal steps. FINN's `MultiThreshold` and few-spike neurons are relatives.

The spikes come from T comparisons, most significant bit first:

    s(t) = rise[c - 1] <= u < fall[c - 1],   c = (bits sent so far) + 2**(T - t)
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax.integers.network import IntegerNode
from bitsnn_jax.numerics.qcfs import codes
from bitsnn_jax.numerics.spikes import code_type
from bitsnn_jax.numerics.tables import Thresholds, fire_table
from bitsnn_jax.tracing.precision import widened

# No sum is below the one, and none reaches the other.
ALWAYS, NEVER = -(2**31), 2**31 - 1
# Entries of a table: more would not be a table.
MOST = 2**22
# An entry is wrong by less than 1 / 2**RESOLVED of the step to the next code.
RESOLVED = 8
# Points evaluated together.
_BLOCK = 64


class TableError(ValueError):
    """A function that no table holds."""


def sides(node: IntegerNode) -> int:
    """Count the comparisons of a step: 2 where a code can begin and end."""
    if not node.has_table:
        return 1
    ends = (node.fall != NEVER).any()
    return 2 if ends and (node.rise != ALWAYS).any() else 1


def one_shot_codes(node: IntegerNode, u: jax.Array) -> jax.Array:
    """Count the codes that have begun and not ended, in the type of u."""
    rise, fall = (jnp.asarray(side, u.dtype) for side in (node.rise, node.fall))
    return jnp.sum((rise <= u) & (u < fall), 0, dtype=u.dtype)


def fired_codes(
    node: IntegerNode, u: jax.Array, *, steps: int, unroll: bool
) -> jax.Array:
    """Fire T steps; the codes have these spikes for bits."""
    sides = Thresholds(*(jnp.asarray(side, u.dtype) for side in (node.rise, node.fall)))
    u = jnp.broadcast_to(u, node.shape)
    return fire_table(u, sides, steps=steps, dtype=code_type(steps), unroll=unroll)


def differentiable_codes(node: IntegerNode, u: jax.Array) -> jax.Array:
    """Compute the codes as floats, with a gradient.

    Gradient: one code over the distance of the thresholds on both sides of u; 0 where
    there is none on one side.
    """
    code = one_shot_codes(node, jax.lax.stop_gradient(u))
    # Row k has where code k begins, and where it ends; nothing begins before code 1.
    begins, ends = (_padded(side) for side in (node.rise, node.fall))
    flat = math.prod(node.rise.shape[1:])
    index = code.astype(jnp.int32) * flat
    index = index + jnp.arange(flat).reshape(node.rise.shape[1:])

    def slope(side):
        gap = jnp.abs(side[index + flat] - side[index])
        return jnp.where(jnp.isfinite(gap), 1 / gap, 0.0)

    by = jnp.where(u < begins[index + flat], slope(begins), -slope(ends))
    change = jax.lax.stop_gradient(by).astype(u.dtype) * u
    return code + (change - jax.lax.stop_gradient(change))  # 0, with a gradient


def _padded(side):
    side = np.where(side == ALWAYS, -np.inf, np.where(side == NEVER, np.inf, side))
    none = np.full((1, *side.shape[1:]), np.inf)
    return jnp.asarray(np.concatenate([none, side, none]).reshape(-1))


def resolution(fn: Callable, theta: np.ndarray, levels: int, rank: int) -> int:
    """Return bits f so that delta / 2**f, as a step of z, resolves every threshold.

    Args:
      fn: as in `table`.
      theta: of the codes.
      levels: theta / delta.
      rank: axes of the node.
    """
    steps = 2.0 ** np.arange(-2, 16, 0.25)
    steps = np.concatenate([-steps[::-1], [0.0], steps])
    z = (steps * np.max(theta) / levels).reshape((-1,) + (1,) * rank)
    with jax.enable_x64(True):
        values = np.asarray(_wide(fn)(jnp.asarray(z)))
    slopes = np.abs(np.diff(np.clip(values, 0, theta), axis=0)) / np.diff(z, axis=0)
    return RESOLVED + math.ceil(np.log2(max(slopes.max(initial=0), 2.0**-RESOLVED)))


def table(
    fn: Callable, theta: np.ndarray, unit: np.ndarray, *, steps: int, reach: int
) -> tuple[np.ndarray, np.ndarray]:
    """Find `rise` and `fall` of all channels.

    Args:
      fn: of arrays [k, ...]; increasing, decreasing, or with one lobe, in each channel.
      theta: of the codes.
      unit: what u = 1 stands for; of as many axes as the node.
      steps: T.
      reach: the largest |u|.

    Raises:
      TableError: a function whose codes rise, fall and rise again; more than `MOST`
        entries.
    """
    levels, fn = 2**steps - 1, _wide(fn)

    def value(u):
        y = fn(jnp.asarray(u, jnp.float64) * jnp.asarray(unit))
        return jnp.where(jnp.isnan(y), -jnp.inf, y)  # as far out as f can be computed

    def code(u):
        y, full = value(u), jnp.asarray(theta, jnp.float64)
        shape = jnp.broadcast_shapes(y.shape, full.shape)
        return codes(jnp.broadcast_to(y, shape), full, levels=levels)

    with jax.enable_x64(True):
        one = jax.ShapeDtypeStruct((1,) * (1 + unit.ndim), jnp.int64)
        channels = jax.eval_shape(code, one).shape[1:]
        if levels * math.prod(channels) > MOST:
            raise TableError(
                f"its table would have {levels:,} x {math.prod(channels):,} entries; "
                f"at most {MOST:,} are made: take fewer steps"
            )
        values, coded = (_in_blocks(jax.jit(f), channels) for f in (value, code))
        grid = _grid(reach).reshape((-1,) + (1,) * len(channels))
        top = _turning_point(values, grid)
        rise, fall = _bisected(coded, top, levels, reach)
        _check(coded, grid, rise, fall, reach)
    return rise.astype(np.int32), fall.astype(np.int32)


def _wide(fn: Callable) -> Callable:
    """Compute in float64, whatever the function asks for itself."""
    wide = widened(lambda _, z: fn(z))
    return lambda z: wide((), z)


def _in_blocks(function, channels):
    """Make a function of integers [k, ...] for any k, compiled for one k."""

    def blocks(u):
        u = np.broadcast_to(u, (len(u), *channels))
        parts = []
        for first in range(0, len(u), _BLOCK):
            part = u[first : first + _BLOCK]
            more = [(0, _BLOCK - len(part))] + [(0, 0)] * len(channels)
            full = np.pad(part, more, mode="edge")
            made = np.broadcast_to(np.asarray(function(full)), full.shape)
            parts.append(made[: len(part)])
        return np.concatenate(parts)

    return blocks


def _grid(reach: int) -> np.ndarray:
    """Return integers between -reach and reach: even ones, and denser towards 0."""
    even = np.linspace(-reach, reach, 257)
    near = 2.0 ** np.arange(0, 31, 0.125)
    points = np.rint(np.concatenate([-near, [0], near, even])).astype(np.int64)
    return np.unique(np.clip(points, -reach, reach))


def _turning_point(value, grid) -> np.ndarray:
    """Find where each channel is largest: a point [*channels]."""
    at = np.argmax(value(grid), 0)
    places = grid.reshape(-1)
    top, low, high = (
        places[np.clip(at + step, 0, len(places) - 1)] for step in (0, -1, 1)
    )
    best = top
    part = np.arange(_BLOCK).reshape((-1,) + (1,) * low.ndim)
    while (high - low > 2).any():
        apart = -((low - high) // (_BLOCK - 1))
        points = np.minimum(low + apart * part, high)
        at = np.argmax(value(points), 0, keepdims=True)
        top = np.take_along_axis(points, at, 0)[0]
        low, high = np.maximum(low, top - apart), np.minimum(high, top + apart)
    first, refined = value(np.stack([best, top]))
    return np.where(refined > first, top, best)


def _bisected(code, top, levels, reach) -> tuple[np.ndarray, np.ndarray]:
    """Find where each code begins below `top`, and where it ends above."""
    wanted = np.arange(1, levels + 1).reshape((-1,) + (1,) * top.ndim)
    shape = (levels, *top.shape)
    ends = np.full((1, *top.shape), reach)
    reached = np.broadcast_to(code(top[None]) >= wanted, shape)

    def first(low, high, is_past):
        """Return the first integer after `low` that is past; `high` is one."""
        low, high = (np.broadcast_to(x, shape).copy() for x in (low, high))
        while (high - low > 1).any():
            middle = (low + high) // 2
            past = is_past(middle)
            high, low = np.where(past, middle, high), np.where(past, low, middle)
        return high

    begun, lasts = code(-ends) >= wanted, code(ends) >= wanted
    rise = first(-ends, top, lambda u: code(u) >= wanted)
    fall = first(top, ends, lambda u: code(u) < wanted)
    rise, fall = np.where(begun, ALWAYS, rise), np.where(lasts, NEVER, fall)
    # A code that is never reached has an empty window, which leaves the other side
    # alone where the function only rises or only falls.
    rises, falls = (~begun & reached).any(), (~lasts & reached).any()
    rise = np.where(reached, rise, ALWAYS if falls and not rises else NEVER)
    fall = np.where(reached, fall, ALWAYS if falls else NEVER)
    return rise, fall


def _check(code, grid, rise, fall, reach) -> None:
    """Raise TableError unless the table has the codes of the function."""
    shape = rise.shape[1:]
    near = [
        np.clip(side + step, -reach, reach) for side in (rise, fall) for step in (-1, 0)
    ]
    points = np.concatenate([np.broadcast_to(grid, (len(grid), *shape)), *near])
    for first in range(0, len(points), _BLOCK):
        u = points[first : first + _BLOCK]
        found = ((rise[:, None] <= u) & (u < fall[:, None])).sum(0)
        wanted = code(u)
        if (found != wanted).any():
            place = tuple(int(i) for i in np.argwhere(found != wanted)[0])
            raise TableError(
                "the function in front of its code rises, falls and rises again: at "
                f"{u[place]:,} units the code is {wanted[place]}, by its table "
                f"{found[place]}; write it as a sum of functions with one lobe each"
            )
