"""Products of matrices in one form: each group of a row goes through its own matrix.

A `dot_general` of x and y becomes, by moves of its operands and of its result,

    x [rows, groups * K],   y [groups, K, N]   ->   [rows, groups * N],

with a group for each entry of the batch axes. A product entry by entry has K = 1 and a
group for each entry; axes along which y is repeated are rows, and N where x is.
"""

import math
from typing import Any, NamedTuple

from jax.extend.core import JaxprEqn

Shape = tuple[int, ...]


class Contraction(NamedTuple):
    """How the operands of a product are arranged.

    Attributes:
      order: of the axes of x; then it is reshaped to [rows, groups * K].
      kernel_order: of the axes of y; then it is reshaped to [groups, K, N].
      rows, groups, inner, outer: rows, groups, K, N.
      result: the shape that [rows, groups * N] is reshaped to.
      result_order: of its axes, then.
    """

    order: Shape
    kernel_order: Shape
    rows: int
    groups: int
    inner: int
    outer: int
    result: Shape
    result_order: Shape


def contraction(eqn: JaxprEqn, index: int) -> Contraction:
    """Arrange a `dot_general` or a `mul`, of which x is operand `index`."""
    avals: list[Any] = [v.aval for v in eqn.invars]
    x, y = avals[index].shape, avals[1 - index].shape
    if eqn.primitive.name == "mul":
        return _entry_by_entry(x, y)
    contracted, batch = eqn.params["dimension_numbers"]
    mine, theirs = tuple(contracted[index]), tuple(contracted[1 - index])
    along, beside = tuple(batch[index]), tuple(batch[1 - index])
    free = _others(x, mine + along)
    other = _others(y, theirs + beside)
    # The result has the axes of the batch first, then those of the left operand.
    first, batched, last = _runs(len(free), len(along), len(other))
    sides = (first, last) if index == 0 else (last, first)
    return _arranged(
        (x, y),
        (free, along, mine),
        (beside, theirs, other),
        (*batched, *sides[0], *sides[1]),
    )


def _entry_by_entry(x: Shape, y: Shape) -> Contraction:
    """Arrange a product in which axes of length 1 broadcast."""
    axes = range(len(x))
    free = tuple(a for a in axes if x[a] != 1 and y[a] == 1)
    outer = tuple(a for a in axes if x[a] == 1 and y[a] != 1)
    along = _others(x, free + outer)
    # Where the other one broadcasts, an axis of length 1 may stand anywhere.
    places = free + along + outer
    result_order = tuple(places.index(axis) for axis in axes)
    return _arranged((x, y), (free, along, outer), (along, free, outer), result_order)


def _arranged(shapes, mine, theirs, result_order: Shape) -> Contraction:
    """Arrange axes of x (rows, groups, K) and of y (groups, K, N)."""
    (x, y), (free, along, inner), (*_, outer) = shapes, mine, theirs
    rows, groups = (tuple(x[a] for a in axes) for axes in (free, along))
    columns = tuple(y[a] for a in outer)
    return Contraction(
        sum(mine, ()),
        sum(theirs, ()),
        math.prod(rows),
        math.prod(groups),
        math.prod(x[a] for a in inner),
        math.prod(columns),
        rows + groups + columns,
        result_order,
    )


def _others(shape: Shape, axes: Shape) -> Shape:
    return tuple(axis for axis in range(len(shape)) if axis not in axes)


def _runs(*lengths: int) -> list[Shape]:
    """Count through runs of axes that follow one another.

    >>> _runs(2, 0, 1)
    [(0, 1), (), (2,)]
    """
    ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    return [tuple(range(end - n, end)) for end, n in zip(ends, lengths, strict=True)]
