"""The operations of the layer graph in ONNX: a table with a rule for each.

Nothing here rounds. Operations that move or compare keep the type of what they are
given. Those that add up take floats, in which every sum is a whole number below 2**24,
or float64 where sums can be larger.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from bitsnn_jax.exports.onnx_builder import (
    EXACT,
    TYPES,
    Builder,
    OnnxError,
    Shape,
    Value,
    can_be_first,
    extents,
)
from bitsnn_jax.exports.orders import transposition
from bitsnn_jax.integers.graph import (
    Conv,
    Dense,
    Max,
    Move,
    Reshape,
    Shift,
    Sum,
    WindowMax,
    WindowSum,
    out_shape,
)


def applied(builder: Builder, ops: Iterable[Any], value: Value) -> Value:
    """Apply operations without weights, one after the other."""
    for op in ops:
        value = _RULES[type(op)](builder, op, value)
    return value


def floats_for(value: Value, times: int = 1) -> str:
    """Return the type that holds sums of so many of these numbers exactly."""
    return value.sums or ("f32" if value.size * times < EXACT else "f64")


def like(
    value: Value,
    shape: Shape,
    kind: str,
    name: str,
    *,
    first: bool = False,
    times: int = 1,
) -> Value:
    """Return numbers in another shape, each at most `times` as large."""
    forms = {(kind, first and can_be_first(shape)): name}
    low, high = value.low * times, value.high * times
    return Value(shape, low, high, value.grid, value.sums, forms)


def pads_of(padding: Iterable[tuple[int, int]]) -> list[int]:
    """Write pairs (low, high) as ONNX does: all the low ones first."""
    return [low for low, _ in padding] + [high for _, high in padding]


def placed(
    builder: Builder, name: str, kind: str, shape: Shape, axis: int, index: np.ndarray
) -> str:
    """Take entries of an axis of what is [n, *shape]; -1 stands for a 0."""
    if (index < 0).any():
        # All axes are named, as onnxruntime 1.32 confuses them otherwise.
        pads = [0] * 2 * (len(shape) + 1)
        pads[len(shape) + 1 + axis] = 1
        zero = builder.constant(0, TYPES[kind])
        name = builder.add("Pad", name, builder.constant(pads, np.int64), zero)
        index = np.where(index < 0, shape[axis - 1], index)
    return builder.add("Gather", name, builder.constant(index, np.int64), axis=axis)


def spread(
    builder: Builder,
    value: Value,
    axes: Iterable[int],
    padding: Iterable[tuple[int, int]],
    dilation: Iterable[int],
) -> Value:
    """Put zeros between and around the entries of axes of [1, ...]; cut if negative."""
    kind, name = builder.any_form(value, first=True)
    *space, channels = extents(value.shape)
    for axis, (low, high), step in zip(axes, padding, dilation, strict=True):
        size = space[axis - 1]
        places = np.arange(-low, (size - 1) * step + 1 + high)
        inside = (places >= 0) & (places % step == 0) & (places // step < size)
        index = np.where(inside, places // step, -1)
        if not np.array_equal(index, np.arange(size)):
            shape = (channels, *space)
            name = placed(builder, name, kind, shape, axis + 1, index)
            space[axis - 1] = len(index)
    return like(value, (1, *space, channels), kind, name, first=True)


def convolved(
    builder: Builder, conv: Conv, value: Value
) -> tuple[Value, np.ndarray, dict[str, Any]]:
    """Prepare a convolution: its x, its kernel [outputs, inputs, *window], attributes.

    Raises:
      OnnxError: more than three axes of space, which onnxruntime does not run.
    """
    space = len(value.shape) - 2
    if space > 3:
        raise OnnxError(f"its convolution has {space} axes of space; ONNX runs 3")
    padding = conv.padding
    if min(map(min, padding)) < 0 or max(conv.lhs_dilation) > 1:
        axes = range(1, space + 1)
        value = spread(builder, value, axes, padding, conv.lhs_dilation)
        padding = ((0, 0),) * space
    kernel = np.moveaxis(conv.kernel, (-1, -2), (0, 1))
    return (
        value,
        kernel,
        {
            "group": conv.groups,
            "kernel_shape": list(kernel.shape[2:]),
            "strides": list(conv.strides),
            "dilations": list(conv.rhs_dilation),
            "pads": pads_of(padding),
        },
    )


def as_conv(dense: Dense, shape: Shape) -> tuple[Shape, Conv]:
    """Write a product with a matrix as a convolution; return the shape of its x too."""
    kernel, one = dense.kernel[None, None], (1, 1)
    none = ((0, 0), (0, 0))
    return (1, shape[0], 1, shape[1]), Conv(kernel, one, none, one, one, 1)


def _reshape(builder, op, value):
    return _reshaped(builder, value, op.shape)


def _reshaped(builder: Builder, value: Value, shape: Shape) -> Value:
    if extents(shape) == extents(value.shape):
        return dataclasses.replace(value, shape=shape)
    kind, name = builder.any_form(value)
    return like(value, shape, kind, builder.reshape(name, extents(shape)))


def _move(builder, op, value):
    shape = op.index.shape
    perm = _transposed(op.index, value.shape)
    if perm is not None:
        rank = len(shape)
        if perm == (0, *range(2, rank), 1) and can_be_first(shape):
            kind, name = builder.any_form(value)
            return like(value, shape, kind, name, first=True)
        if perm == (0, rank - 1, *range(1, rank - 1)) and value.is_first:
            kind, name = builder.any_form(value, first=True)
            return like(value, shape, kind, name)
        kind, name = builder.any_form(value)
        return like(value, shape, kind, builder.add("Transpose", name, perm=perm))
    kind, name = builder.any_form(value)
    size = math.prod(value.shape)
    name = builder.reshape(name, (size,))
    index = op.index.reshape(extents(shape))
    return like(value, shape, kind, placed(builder, name, kind, (size,), 1, index))


def _transposed(index: np.ndarray, shape: Shape) -> Shape | None:
    """Return the order that a move from [1, ...] puts axes in, if it does no more."""
    perm = transposition(index, shape)
    if perm is None or (perm[0], index.ndim) != (0, len(shape)) or shape[0] != 1:
        return None
    return perm if tuple(shape[axis] for axis in perm) == index.shape else None


def _reduced(op_name):
    """Make the rule of a sum or a maximum over axes."""

    def rule(builder, op, value):
        shape = out_shape(op, value.shape)
        batched, adds = value.shape[:1] == (1,), op_name == "ReduceSum"
        count = math.prod(value.shape[axis] for axis in op.axes)
        first = value.is_first and tuple(op.axes) == tuple(
            range(1, len(value.shape) - 1)
        )
        if adds:
            kind = floats_for(value, count)
            name = builder.form(value, kind, first)
        else:
            kind, name = builder.any_form(value, first)
        offset = first + (not batched)
        axes = [axis + offset for axis in op.axes if axis or not batched]
        if axes:
            name = builder.add(
                op_name, name, builder.constant(axes, np.int64), keepdims=0
            )
        left = [n for axis, n in enumerate(value.shape) if axis not in op.axes]
        if tuple(left[0 not in op.axes and batched :]) != extents(shape):
            name = builder.reshape(name, extents(shape))
        return like(value, shape, kind, name, times=count if adds else 1)

    return rule


def _window(adds):
    """Make the rule of a sum or a maximum over windows."""

    def rule(builder, op, value):
        times = math.prod(op.window) if adds else 1
        made = _spatial(builder, op, value, adds) or _sliced(builder, op, value, adds)
        (kind, first), name = next(iter(made.forms.items()))
        return like(value, made.shape, kind, name, first=first, times=times)

    return rule


def _spatial(builder, op, value, adds):
    """Pool over axes of space by an operator of ONNX, if the window has no others."""
    rank = len(value.shape)
    outer = [0, rank - 1]
    if not (
        2 < rank < 6
        and value.shape[0] == 1
        and all(op.window[a] == op.strides[a] == 1 for a in outer)
        and all(tuple(op.padding[a]) == (0, 0) for a in outer)
    ):
        return None
    window, strides, padding = (
        list(part[1:-1]) for part in (op.window, op.strides, op.padding)
    )
    none = [(0, 0)] * len(window)
    if any(
        not 0 <= n < w for pair, w in zip(padding, window, strict=True) for n in pair
    ):
        axes = range(1, rank - 1)
        value, padding = spread(builder, value, axes, padding, [1] * len(window)), none
    shape, channels = (
        out_shape(op._replace(padding=((0, 0), *padding, (0, 0))), value.shape),
        value.shape[-1],
    )
    pool = {"kernel_shape": window, "strides": strides, "pads": pads_of(padding)}
    if not adds:
        kind, name = builder.any_form(value, first=True)
        return like(
            value, shape, kind, builder.add("MaxPool", name, **pool), first=True
        )
    times, ones = math.prod(window), np.ones((channels, 1, *window))
    if value.is_byte and value.high * times <= 255 and len(window) == 2:
        name = builder.form(value, "u8", first=True)
        one, zero = (
            builder.constant(n, t) for n, t in ((1, np.float32), (0, np.uint8))
        )
        kernel, scale = (
            builder.constant(ones, np.int8),
            (one, builder.constant(0, np.int8)),
        )
        name = builder.add(
            "QLinearConv",
            name,
            one,
            zero,
            kernel,
            *scale,
            one,
            zero,
            group=channels,
            **pool,
        )
        return like(value, shape, "u8", name, first=True)
    if floats_for(value, times) != "f32":
        return None
    name = builder.form(value, "f32", first=True)
    kernel = builder.constant(ones, np.float32)
    name = builder.add("Conv", name, kernel, group=channels, **pool)
    return like(value, shape, "f32", name, first=True)


def _sliced(builder, op, value, adds):
    """Pool over any axes: one after the other, by slices of each place of a window."""
    if adds:
        kind = floats_for(value, math.prod(op.window))
        name = builder.form(value, kind)
    else:
        kind, name = builder.any_form(value)
    name, sizes = builder.reshape(name, value.shape), list(value.shape)
    parts = zip(op.window, op.strides, op.padding, strict=True)
    for axis, (window, stride, (low, high)) in enumerate(parts):
        index = np.arange(-low, sizes[axis] + high)
        index = np.where(index < sizes[axis], np.maximum(index, -1), -1)
        if np.array_equal(index[::stride], index) and window == 1 and min(index) == 0:
            continue
        out = (len(index) - window) // stride + 1
        places = [index[k:][::stride][:out] for k in range(window)]
        taken = [
            placed(builder, name, kind, tuple(sizes), axis + 1, place)
            for place in places
        ]
        add = functools.partial(builder.add, "Add" if adds else "Max")
        name, sizes[axis] = functools.reduce(add, taken), out
    shape = tuple(sizes)
    return like(value, shape, kind, builder.reshape(name, extents(shape)))


def _shift(builder, op, value):
    factor = 2**op.amount
    kind, first = floats_for(value, factor), value.is_first
    name = builder.scaled(builder.form(value, kind, first), kind, factor)
    return like(value, value.shape, kind, name, first=first, times=factor)


_RULES: Mapping[type, Callable[[Builder, Any, Value], Value]] = {
    Reshape: _reshape,
    Move: _move,
    Sum: _reduced("ReduceSum"),
    Max: _reduced("ReduceMax"),
    WindowSum: _window(adds=True),
    WindowMax: _window(adds=False),
    Shift: _shift,
}
