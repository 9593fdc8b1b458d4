"""Neurons with a table of thresholds: any pointwise function in front of a code.

The code of `qcfs(f(u), theta)` is a function k(u) of the membrane. Where it rises and
falls no more than once, it is at least k between two thresholds:

    k(u) >= k   if and only if   rise[k] <= u < fall[k],   k = 1..L

For an f that never decreases (a GELU, a sigmoid) `fall` is infinite; for one that never
increases (the negative part of a tanh) `rise` is; a lobe (the negative part of a SiLU)
has both. The neuron finds its bits by T comparisons, most significant first, without a
reset:

    s(t) = H(rise[n] <= u < fall[n]),   n = 2**(T-t) + sum_{i<t} s(i) 2**(T-i)

Eq. (10) is the case of equal steps, rise[k] = (k - 1/2) delta. Relatives are the
few-spikes neuron of Stoeckl and Maass (2021), whose thresholds are fitted, and the
multi-threshold of FINN (Umuroglu et al., 2017), which compares with all of them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

# Membranes are below 2**60 in size, and turning points are not closer to 0 than this.
_LARGEST, _SMALLEST = 60, -40
_NEAR = 12.0  # where activations have their shape
_PLACES = 16  # of the search for a turning point, in each octave
_HALVED = 4  # up to this T, neurons fire without look-ups
_ROUNDS = 40  # of the search between two of them


class Thresholds(NamedTuple):
    """Where the code of a neuron reaches k: at k - 1 along axis 0.

    Attributes:
      rise: [L, ...], the smallest membrane with a code of at least k.
      fall: [L, ...], the smallest above it with a lower one.
    """

    rise: Array
    fall: Array


class TurningPoint(NamedTuple):
    """Where a function is largest, and on which sides of that it changes."""

    place: Array
    rises: bool = True
    falls: bool = True


def turning_point(
    fn: Callable[[Array], Array], *, sizes: tuple[int, ...] = (), dtype: Any
) -> TurningPoint:
    """Find where f is largest: on a grid, and then between the neighbours there.

    Args:
      fn: f, of candidates [K, ...] that broadcast against `sizes`.
      sizes: the shape in which f differs from neuron to neuron.
      dtype: of the membranes.
    """
    grid = _grid(dtype).reshape(-1, *(1,) * len(sizes))
    values = jnp.broadcast_to(_known(fn(grid)), (len(grid), *sizes))
    best = jnp.argmax(values, 0)
    low, middle, high = (
        grid.reshape(-1)[jnp.clip(best + i, 0, len(grid) - 1)] for i in (-1, 0, 1)
    )

    def narrow(_, ends):
        low, high = ends
        left, right = low + (high - low) / 3, high - (high - low) / 3
        left_value, right_value = _known(fn(jnp.stack([left, right])))
        rising = left_value < right_value
        return jnp.where(rising, left, low), jnp.where(rising, high, right)

    low, high = lax.fori_loop(0, _ROUNDS, narrow, (low, high))
    between = (low + high) / 2
    there, before = _known(fn(jnp.stack([between, middle])))
    return TurningPoint(jnp.where(there > before, between, middle))


def known_turning_point(fn: Callable[[Array], Array], *, dtype: Any) -> TurningPoint:
    """Do the same for an f without variables, at once, and tell if it is monotone."""
    with jax.ensure_compile_time_eval():
        values = np.asarray(_known(fn(_grid(dtype))))
        ends = np.asarray(_grid(dtype))[[0, -1]]
        if (values[1:] >= values[:-1]).all():
            return TurningPoint(jnp.asarray(ends[1], dtype), falls=False)
        if (values[1:] <= values[:-1]).all():
            return TurningPoint(jnp.asarray(ends[0], dtype), rises=False)
        return turning_point(fn, dtype=dtype)


def has_one_lobe(
    fn: Callable[[Array], Array], *, sizes: tuple[int, ...] = (), dtype: Any
) -> bool:
    """Tell whether max(f, 0) rises and falls no more than once, for known variables.

    Only then has each code one interval of membranes.

    >>> has_one_lobe(jax.nn.silu, dtype="float32"), has_one_lobe(abs, dtype="float32")
    (True, False)
    """
    with jax.ensure_compile_time_eval():
        grid = _grid(dtype).reshape(-1, *(1,) * len(sizes))
        values = np.asarray(_known(fn(grid)), np.float64)
        places = np.asarray(_grid(dtype))
    return is_lobe(np.maximum(values, 0), places)


def is_lobe(values: np.ndarray, places: np.ndarray) -> bool:
    """Tell whether values along axis 0 rise and fall no more than once.

    Args:
      values: [K, ...], at least 0.
      places: [K], where they are, in order.
    """
    # Rounding lets a flat part fall by some units of the last place, and a tail by
    # some of the values that it is the difference of.
    values = np.minimum(values, 1e300)
    size = values[np.abs(places) <= _NEAR].max(0)
    slack = 1e-6 * (np.maximum(values[:-1], values[1:]) + size)
    falls, rises = values[1:] < values[:-1] - slack, values[1:] > values[:-1] + slack
    return not (np.logical_or.accumulate(falls) & rises).any()


def threshold_table(
    code: Callable[[Array], Array],
    turn: TurningPoint,
    *,
    levels: int,
    sizes: tuple[int, ...] = (),
    dtype: Any,
) -> Thresholds:
    """Find the thresholds of a neuron by bisection over the numbers of a type.

    They are those of the code as it is computed, so they agree with it for every number
    if it rises and falls no more than once, thresholds included.

    Args:
      code: k, an integer for each candidate [K, ...], which rises and falls with f.
      turn: of f, as of `turning_point`.
      levels: L, the highest code.
      sizes: the shape in which f, or the code, differs from neuron to neuron.
      dtype: of the membranes, float32 or float64.

    Returns:
      Thresholds, [L, *sizes] each.

    >>> turn = known_turning_point(jax.nn.relu, dtype="float32")
    >>> code = lambda z: jnp.clip(jnp.floor(z), 0, 3)
    >>> threshold_table(code, turn, levels=3, dtype="float32").rise
    Array([1., 2., 3.], dtype=float32)
    """
    bits = jnp.finfo(dtype).bits
    largest = _largest(dtype)
    ends = _place(jnp.asarray([-largest, largest], dtype), bits)
    wanted = jnp.arange(1, levels + 1).reshape(-1, *(1,) * len(sizes))
    infinite = jnp.asarray(jnp.inf, dtype)

    def reaches(place):
        return code(_number(place, dtype)) >= wanted

    all_shape = (levels, *sizes)
    peak = jnp.broadcast_to(_place(turn.place, bits), all_shape)
    low, high = (jnp.broadcast_to(end, all_shape) for end in ends)

    def bisect(outside):
        """Return two places side by side: the code is not reached, and is."""

        def halve(_, pair):
            outside, inside = pair
            # Not (a + b) // 2, which may leave the type.
            middle = (outside & inside) + ((outside ^ inside) >> 1)
            middle = jnp.where(middle == outside, inside, middle)
            found = reaches(middle)
            return jnp.where(found, outside, middle), jnp.where(found, middle, inside)

        return lax.fori_loop(0, bits, halve, (outside, peak))

    rise = jnp.full(all_shape, -infinite)
    if turn.rises:
        found = _number(bisect(low)[1], dtype)
        rise = jnp.where(reaches(low), rise, found)
    fall = jnp.full(all_shape, infinite)
    if turn.falls:
        found = _number(bisect(high)[0], dtype)
        fall = jnp.where(reaches(high), fall, found)
    return Thresholds(jnp.where(reaches(peak), rise, infinite), fall)


def fire_table(
    membrane: Array,
    thresholds: Thresholds,
    *,
    steps: int,
    dtype: Any,
    unroll: bool = True,
) -> Array:
    """Fire a charged membrane for T steps by its table, most significant bit first.

    Args:
      membrane: [...], as many axes as the thresholds have behind their first.
      thresholds: [2**T - 1, ...], which broadcast against the membrane.
      steps: T.
      dtype: unsigned, of the result.
      unroll: write the steps into the program one after the other, as it is done up to
        T = 4 anyway.

    Returns:
      [...] codes, whose bits are the spikes s(1)..s(T).

    >>> table = Thresholds(jnp.array([0.5, 1.5, 2.5]), jnp.full(3, jnp.inf))
    >>> fire_table(jnp.array([0.4, 0.5, 9.0]), table, steps=2, dtype=jnp.uint8)
    Array([0, 1, 3], dtype=uint8)
    """
    silent = membrane * 0 != membrane * 0  # varies over devices as the membrane does
    start = silent.astype(dtype)
    if steps <= _HALVED:
        return _fire_halved(membrane, thresholds, start, steps)
    tables = [_flat(t, membrane.shape) for t in thresholds]

    def step(code, place):
        bit = jnp.asarray(1, dtype) << place.astype(dtype)
        entry = (code | bit).astype(jnp.int32) - 1
        rise, fall = (values[places(entry)] for values, places in tables)
        spike = (rise <= membrane) & (membrane < fall)
        return jnp.where(spike, code | bit, code), None

    return lax.scan(step, start, jnp.arange(steps - 1, -1, -1), unroll=unroll)[0]


def _fire_halved(membrane, thresholds, code, steps):
    """Fire likewise, without look-ups: each spike says which half of the table is left.

    That is 2**T - T - 1 choices in place of T look-ups, which are slow on a CPU: it is
    five times as fast at T = 4.
    """
    missing = (1,) * (membrane.ndim - thresholds.rise.ndim + 1)
    left = [list(t.reshape(len(t), *missing, *t.shape[1:])) for t in thresholds]
    for place in reversed(range(steps)):
        bit = 1 << place
        rise, fall = (table[bit - 1] for table in left)
        spike = (rise <= membrane) & (membrane < fall)
        code = jnp.where(spike, code | jnp.asarray(bit, code.dtype), code)
        left = [
            [jnp.where(spike, table[bit + i], table[i]) for i in range(bit - 1)]
            for table in left
        ]
    return code


def _flat(table, shape):
    """Return a table as a list, and where an entry of a neuron is in it."""
    sizes = table.shape[1:]
    count = int(np.prod(sizes))
    if count == 1:
        return table.reshape(-1), lambda entry: entry
    missing = (1,) * (len(shape) - len(sizes))
    which = np.arange(count, dtype=np.int32).reshape(missing + sizes)
    return table.reshape(-1), lambda entry: entry * count + which


def _largest(dtype) -> float:
    return min(2.0**_LARGEST, float(jnp.finfo(dtype).max))


def _grid(dtype) -> Array:
    octaves = np.arange(_SMALLEST * _PLACES, _LARGEST * _PLACES + 1) / _PLACES
    grid = np.concatenate([-(2.0 ** octaves[::-1]), [0.0], 2.0**octaves])
    return jnp.asarray(grid[np.abs(grid) <= _largest(dtype)], dtype)


def _known(values) -> Array:
    return jnp.where(jnp.isnan(values), -jnp.inf, values)


def _place(number: Array, bits: int) -> Array:
    """Return integers in the order of the numbers."""
    integers = lax.bitcast_convert_type(number, jnp.dtype(f"int{bits}"))
    return _mirrored(integers)


def _number(place: Array, dtype: Any) -> Array:
    return lax.bitcast_convert_type(_mirrored(place), dtype)


def _mirrored(integers: Array) -> Array:
    """Turn the order of negative numbers around: their bits count downwards."""
    largest = jnp.iinfo(integers.dtype).max
    return jnp.where(integers < 0, integers ^ largest, integers)


__all__ = [
    "Thresholds",
    "TurningPoint",
    "fire_table",
    "has_one_lobe",
    "is_lobe",
    "known_turning_point",
    "threshold_table",
    "turning_point",
]
