"""A scale, moved through the operations of a term until a weight takes it up."""

import math
from typing import Any

import numpy as np

from bitsnn_jax.integers.graph import (
    Conv,
    Lookup,
    Max,
    Move,
    Reshape,
    Scale,
    Sum,
    Term,
    Weight,
    Weightless,
    WindowSum,
    out_shape,
)


class NotFoldable(ValueError):
    """A scale that no weight of the term can take up."""


def extended(term: Term, op: Weightless, shape: tuple) -> Term:
    """Apply a move or a sum, op(term). The term has `shape` until then."""
    if isinstance(term.weight, Scale):
        factor = pushed(op, term.weight.factor, shape)
        before = simplified((*term.before, op), shape)
        return term._replace(before=before, weight=Scale(factor))
    return term._replace(after=simplified((*term.after, op), shape))


def transposed(term: Term, order: tuple[int, ...], shape: tuple[int, ...]) -> Term:
    """Put the axes of a term of `shape` in another order."""
    if order == tuple(range(len(shape))):
        return term
    places = np.arange(math.prod(shape)).reshape(shape).transpose(order)
    return extended(term, Move(places), shape)


def weighted(term: Term, weight: Weight, shape: tuple) -> Term:
    """Put a weight on a term that has a scale only, and `shape` until then.

    The kernel takes up the scale of its input.
    """
    assert isinstance(term.weight, Scale), "the caller makes a node first"
    return term._replace(weight=_fed(weight, term.weight.factor, shape))


def fed(term: Term, factor: np.ndarray, source: tuple) -> Term:
    """Write factor * source, of that shape, as a term of the source."""
    shape = source
    for op in term.before:
        factor = pushed(op, factor, shape)
        shape = out_shape(op, shape)
    if isinstance(term.weight, Scale):
        return term._replace(weight=Scale(shrunk(term.weight.factor * factor)))
    return term._replace(weight=_fed(term.weight, factor, shape))


def scaled(term: Term, factor: np.ndarray, source: tuple) -> Term:
    """Multiply a term by a factor; `source` is the shape of what it begins with."""
    if isinstance(term.weight, Scale):
        for op in reversed(term.after):
            raise NotFoldable(op)
        return term._replace(weight=Scale(shrunk(term.weight.factor * factor)))
    shapes = [source]
    for op in (*term.before, term.weight, *term.after):
        shapes.append(out_shape(op, shapes[-1]))
    for op in reversed(term.after):
        shape = shapes.pop()
        factor = _pulled(op, np.broadcast_to(factor, shape), shapes[-1])
    if any(n > 1 for n in np.shape(factor)[:-1]):
        raise NotFoldable("it differs from place to place")
    return term.with_numbers(term.numbers * np.reshape(factor, -1))


def _fed(weight, factor, shape):
    factor = np.asarray(factor)
    if any(n > 1 for n in factor.shape[:-1]):
        raise NotFoldable("it differs from place to place")
    if isinstance(weight, Lookup):
        if (factor != 1).any():
            raise NotFoldable("it is on integers that name the rows of a table")
        return weight
    channels = np.broadcast_to(factor.reshape(-1), shape[-1:])
    kernel = weight.kernel
    if isinstance(weight, Conv):
        inputs, outputs = kernel.shape[-2:]
        group = np.arange(outputs) // (outputs // weight.groups)
        channels = channels[group * inputs + np.arange(inputs)[:, None]]
    else:
        channels = channels[:, None]
    return weight._replace(kernel=kernel * channels)


def pushed(op: Weightless, factor: np.ndarray, shape: tuple) -> np.ndarray:
    """Push a factor through: return f with op(factor * x) = f * op(x)."""
    if np.ndim(factor) == 0:
        return factor
    if isinstance(op, Reshape):
        return shrunk(np.broadcast_to(factor, shape).reshape(op.shape))
    if isinstance(op, Move):
        full = np.broadcast_to(factor, shape).reshape(-1)
        return shrunk(full[np.maximum(op.index, 0)], op.index >= 0)
    axes = op.axes if isinstance(op, Sum | Max) else _touched(op)
    if any(factor.shape[axis] > 1 for axis in axes):
        raise NotFoldable(op)
    return shrunk(factor.squeeze(tuple(axes))) if isinstance(op, Sum | Max) else factor


def _touched(op) -> list[int]:
    plain = (1, 1, (0, 0))
    windows = enumerate(zip(op.window, op.strides, op.padding, strict=True))
    return [axis for axis, window in windows if window != plain]


def _pulled(op: Weightless, factor: np.ndarray, shape: tuple) -> np.ndarray:
    """Pull a factor back: return f of `shape` with op(f * x) = factor * op(x)."""
    if isinstance(op, Reshape):
        return shrunk(factor.reshape(shape))
    if isinstance(op, Sum):
        return shrunk(np.expand_dims(factor, op.axes))
    if isinstance(op, WindowSum):
        factor = shrunk(factor)
        if np.ndim(factor) and any(factor.shape[axis] > 1 for axis in _touched(op)):
            raise NotFoldable(op)
        return factor
    assert isinstance(op, Move), "maxima stand before weights only"
    is_used = np.zeros(math.prod(shape), bool)
    pulled, places = np.ones(is_used.shape), op.index >= 0
    pulled[op.index[places]], is_used[op.index[places]] = factor[places], True
    if not np.array_equal(pulled[op.index[places]], factor[places]):
        raise NotFoldable("one number goes to places with different factors")
    return shrunk(pulled.reshape(shape), is_used.reshape(shape))


def simplified(ops: tuple, shape: tuple = ()) -> tuple:
    """Merge the last operation with the one before it, where that is a move too."""
    *first, op = ops
    if isinstance(op, Reshape) and op.shape == shape:
        return tuple(first)
    if isinstance(op, Move) and _is_order(op.index, math.prod(shape)):
        op = Reshape(op.index.shape)
    if first and isinstance(op, (Move, Reshape)):
        if isinstance(first[-1], Reshape):
            first.pop()
        elif isinstance(first[-1], Move):
            index = first.pop().index
            if isinstance(op, Reshape):
                op = Move(index.reshape(op.shape))
            else:
                moved = index.reshape(-1)[np.maximum(op.index, 0)]
                op = Move(np.where(op.index < 0, -1, moved))
    if isinstance(op, Move):
        op = Move(op.index.astype(np.int32))
    return (*first, op)


def _is_order(index, size) -> bool:
    return index.size == size and np.array_equal(index.reshape(-1), np.arange(size))


def shrunk(array: Any, is_used: np.ndarray | None = None) -> np.ndarray:
    """Shrink the array to one entry along each axis where it is constant, in float64.

    Entries that nothing uses may change.
    """
    array = np.asarray(array, np.float64)
    for axis in range(array.ndim):
        if array.shape[axis] == 1:
            continue
        if is_used is None:
            one = array.take([0], axis)
            if (array == one).all():
                array = one
            continue
        used = np.any(is_used, axis, keepdims=True)
        low = np.where(is_used, array, np.inf).min(axis, keepdims=True)
        high = np.where(is_used, array, -np.inf).max(axis, keepdims=True)
        if (low[used] == high[used]).all():
            array, is_used = np.where(used, low, 1.0), used
    return array.reshape(()) if array.size == 1 else array
