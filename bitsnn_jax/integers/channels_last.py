"""Layers of a channels-first network, stored with their channels last.

Kernels, units and fractions of a graph have the channels on the last axis. A network
with another layout would have a move before and after each convolution, and one
fraction for a whole layer. So a node is stored channels last, wherever its channels are
in the program: then the moves on both sides of a convolution cancel.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from bitsnn_jax.integers.folding import NotFoldable, extended, fed
from bitsnn_jax.integers.graph import (
    ROWS,
    Conv,
    Held,
    Max,
    Move,
    Node,
    Reshape,
    Sum,
    Term,
    Weightless,
    WindowMax,
    WindowSum,
    out_shape,
)

Shape = tuple[int, ...]


def channels_last(node: Node, source: Callable[[str], Node]) -> Node:
    """Store a node with its channels last.

    The channels are those that convolutions make, followed to the node; other networks
    and nodes without convolutions stay as they are, and so does the input.

    Args:
      node: with the shape that it has in the program.
      source: gives the nodes before it by name, as they are stored.

    Returns:
      The node, with `order` where it is stored in another order.
    """
    sources = [source(term.source) for term in node.terms]
    order = _channels_behind(node, sources)
    if not order:
        # A value in another order than the program's may be moved for nothing.
        terms = [
            _tidied(term, fed_by.shape) if fed_by.order else term
            for term, fed_by in zip(node.terms, sources, strict=True)
        ]
        return node._replace(terms=tuple(terms))
    terms = [
        _ordered_term(term, fed_by.shape, order)
        for term, fed_by in zip(node.terms, sources, strict=True)
    ]
    return node._replace(
        shape=tuple(node.shape[axis] for axis in order),
        order=order,
        terms=tuple(terms),
        bias=_ordered(node.bias, order),
        theta=_ordered(node.theta, order),
        fn=node.fn and _ordered_fn(node.fn, order),
    )


def as_in_the_program(node: Node) -> tuple[Weightless, ...]:
    """Return the moves from what is stored to the value that the program has."""
    if not node.order:
        return ()
    return (_transposition(node.shape, tuple(np.argsort(node.order))),)


def with_one_unit(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """Mark the sums that feed a weight with no place for a scale of each channel.

    A resize, for instance, has weights along an axis of space, and a product of
    matrices adds up numbers that it holds.
    """
    shapes = {node.name: node.shape for node in nodes}
    sums = {node.name for node in nodes if node.kind == "sum"}
    marked = {
        term.source
        for node in nodes
        for term in node.terms
        if term.source in sums and not _takes_channels(term, shapes[term.source])
    }
    weights = [term.weight for node in nodes for term in node.terms]
    marked |= {w.source for w in weights if isinstance(w, Held) and w.shape[1] > 1}
    return tuple(
        node._replace(has_one_unit=True) if node.name in marked else node
        for node in nodes
    )


def _takes_channels(term: Term, shape: Shape) -> bool:
    scales = np.arange(1.0, shape[-1] + 1).reshape((1,) * (len(shape) - 1) + (-1,))
    try:
        fed(term, scales, shape)
    except NotFoldable:
        return False
    return True


def _channels_behind(node: Node, sources: Sequence[Node]) -> Shape:
    """Return the order of axes that has the channels last; () if they are, or unknown.

    The output stays as the network has it, and so do rows, which are along the last
    axis.
    """
    rank = len(node.shape)
    if rank < 3 or node.kind in ("output", *ROWS):
        return ()
    axes = set(map(_channel_axis, node.terms, sources)) - {None}
    if len(axes) != 1 or axes <= {0, rank - 1}:
        return ()
    return tuple(sorted(range(rank), key=lambda axis: axis in axes))


def _ordered(array: np.ndarray, order: Shape) -> np.ndarray:
    if not np.ndim(array):
        return array
    missing = (1,) * (len(order) - array.ndim)
    return array.reshape(missing + array.shape).transpose(order)


def _ordered_fn(fn: Callable, order: Shape) -> Callable:
    """Make a function of arrays [k, ...] one of arrays in another order of axes."""
    there = (0, *(1 + axis for axis in order))
    back = tuple(int(axis) for axis in np.argsort(there))
    return lambda z: fn(z.transpose(back)).transpose(there)


def _transposition(shape: Shape, order: Sequence[int]) -> Move:
    places = np.arange(math.prod(shape)).reshape(shape)
    return Move(places.transpose(order).astype(np.int32))


def _channel_axis(term: Term, source: Node) -> int | None:
    """Find where a term has its channels; None if nothing is known about them."""
    if isinstance(term.weight, Conv):
        shape, ops = source.shape, term.after
        for op in (*term.before, term.weight):
            shape = out_shape(op, shape)
    elif isinstance(term.weight, Held):
        if not source.order or term.weight.shape[1:] != (1, 1):
            return None
        # Entry by entry: what is moved before goes back behind.
        shape, ops = source.shape, _cancelled((*term.before, *term.after), source.shape)
    elif source.order and not term.has_kernel:
        shape, ops = source.shape, term.before
    else:
        return None
    axis = len(shape) - 1
    for op in ops:
        axis = _followed(op, axis, shape)
        if axis is None:
            return None
        shape = out_shape(op, shape)
    return axis


def _followed(op: Weightless, axis: int, shape: Shape) -> int | None:
    """Follow an axis through an operation; None if it goes, or mixes with others."""
    if isinstance(op, Sum | Max):
        return None if axis in op.axes else axis - sum(a < axis for a in op.axes)
    if isinstance(op, WindowSum | WindowMax):
        is_kept = (op.window[axis], op.strides[axis], op.padding[axis]) == (
            1,
            1,
            (0, 0),
        )
        return axis if is_kept else None
    index = _index(op, shape)
    channel = index // math.prod(shape[axis + 1 :]) % shape[axis]
    found = [a for a in range(index.ndim) if _varies_along(a, channel, index >= 0)]
    return found[0] if len(found) == 1 else None


def _varies_along(axis: int, channel: np.ndarray, is_used: np.ndarray) -> bool:
    """Tell whether the channel depends on the place along this axis alone."""
    others = tuple(a for a in range(channel.ndim) if a != axis)
    low = np.where(is_used, channel, np.iinfo(np.int64).max).min(others)
    high = np.where(is_used, channel, -1).max(others)
    used = high >= 0
    return bool((low == high)[used].all() and len(set(high[used])) > 1)


def _index(op: Weightless, shape: Shape) -> np.ndarray:
    if isinstance(op, Move):
        return op.index
    assert isinstance(op, Reshape), "the caller has looked"
    return np.arange(math.prod(shape)).reshape(op.shape)


def _ordered_term(term: Term, shape: Shape, order: Shape) -> Term:
    """Put the axes of a term in another order; its source has `shape`."""
    value = shape  # 1 where it broadcasts
    for op in (*term.before, term.weight, *term.after):
        value = out_shape(op, value)
    return _tidied(extended(term, _transposition(value, order), value), shape)


def _tidied(term: Term, shape: Shape) -> Term:
    """Cancel the moves of a term, whose source has `shape`."""
    before = _cancelled(term.before, shape)
    for op in (*before, term.weight):
        shape = out_shape(op, shape)
    return term._replace(before=before, after=_cancelled(term.after, shape))


def _cancelled(ops: Sequence[Weightless], shape: Shape) -> tuple[Weightless, ...]:
    """Join moves that follow one another, also across sums and maxima over windows."""
    done: list[tuple[Weightless, Shape]] = []  # each with the shape that it is given
    waiting = list(ops)
    while waiting:
        op = waiting.pop(0)
        before = done[-1] if done else (None, ())
        if isinstance(op, Reshape | Move):
            index = _index(op, shape)
            if isinstance(before[0], Reshape | Move):
                done.pop()
                first, shape = _index(*before).reshape(-1), before[1]
                index = np.where(index < 0, -1, first[np.maximum(index, 0)])
            op = _move_of(index, shape)
            if op is None:
                continue
        elif isinstance(before[0], Reshape | Move):
            order = _order_of(_index(*before), before[1])
            if order is not None:  # first the window, then the move
                done.pop()
                shape = before[1]
                op, order = _reordered(op, order)
                waiting.insert(0, _transposition(out_shape(op, shape), order))
        done.append((op, shape))
        shape = out_shape(op, shape)
    return tuple(op for op, _ in done)


def _move_of(index: np.ndarray, shape: Shape) -> Weightless | None:
    """Write a map of places as shortly as can be; None if it changes nothing."""
    size = math.prod(shape)
    if index.size != size or not np.array_equal(index.reshape(-1), np.arange(size)):
        return Move(index.astype(np.int32))
    return None if index.shape == shape else Reshape(index.shape)


def _order_of(index: np.ndarray, shape: Shape) -> Shape | None:
    """Return the order of axes, if a map of places only transposes."""
    if index.ndim != len(shape) or index.size != math.prod(shape):
        return None
    strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    axis_of = {strides[axis]: axis for axis, n in enumerate(shape) if n > 1}
    spare = [axis for axis, n in enumerate(shape) if n == 1]
    order = []
    for axis, n in enumerate(index.shape):
        if n == 1:
            order.append(spare.pop(0) if spare else -1)
        else:
            order.append(axis_of.get(int(np.take(index, 1, axis).flat[0]), -1))
    if sorted(order) != list(range(len(shape))):
        return None
    is_transposed = np.array_equal(_transposition(shape, order).index, index)
    return tuple(order) if is_transposed else None


def _reordered(op: Weightless, order: Shape) -> tuple[Weightless, Shape]:
    """Return what to do before axes are transposed, and the order of what is left."""
    if isinstance(op, Sum | Max):
        gone = tuple(sorted(order[axis] for axis in op.axes))
        left = [axis for axis in order if axis not in gone]
        return type(op)(gone), tuple(sorted(left).index(axis) for axis in left)
    assert isinstance(op, WindowSum | WindowMax), "shifts come with the integers"
    back = np.argsort(order)
    window, strides, padding = ([field[i] for i in back] for field in op)
    return type(op)(tuple(window), tuple(strides), tuple(padding)), order
