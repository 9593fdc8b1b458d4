"""What feeds a layer, as nodes of QONNX: moves, sums and maxima, weights.

Needs the package `onnx`: the extra `onnx`.
"""

import numpy as np

from bitsnn_jax.exports.orders import transposition
from bitsnn_jax.exports.qonnx_tensors import (
    Model,
    QONNXError,
    Tensor,
    channels_first,
    type_of_all,
)
from bitsnn_jax.integers.graph import (
    Conv,
    Dense,
    Held,
    Max,
    Move,
    Reshape,
    Shift,
    Sum,
    Term,
    Weightless,
    WindowMax,
    WindowSum,
    out_shape,
)
from bitsnn_jax.integers.network import IntegerNode


def add_term(model: Model, term: Term, value: Tensor, node: IntegerNode) -> Tensor:
    """Add what a term of `node` makes of the value of its source.

    Raises:
      QONNXError: an operation without a form in QONNX.
    """
    moves = list(term.before)
    last = moves[-1] if moves and isinstance(term.weight, Dense) else None
    # Dense layers have the rows of their kernel moved, so that values need not be.
    flatten = last if isinstance(last, Reshape | Move) else None
    for op in moves[:-1] if flatten else moves:
        value = _moved(model, op, value)
    if node.kind == "maximum":
        return value
    sums = {"top": node.bound, "has_sign": True}
    weight = term.weight
    if isinstance(weight, Held):
        raise QONNXError("products of two layers")
    if isinstance(weight, Dense):
        value = _dense(model, weight, value, sums, flatten)
    elif isinstance(weight, Conv):
        value = _conv(model, weight, value, sums)
    elif np.any(term.numbers != 1):
        value = _scaled(model, term.numbers, value, sums)
    for op in term.after:
        value = _moved(model, op, value, sums)
    return value


def _moved(
    model: Model, op: Weightless, value: Tensor, sums: dict | None = None
) -> Tensor:
    """Move, add up or take maxima; `sums` are the integers behind a weight."""
    shape = out_shape(op, value.shape)
    match op:
        case Move():
            order = transposition(op.index, value.shape)
            if order is None:
                raise QONNXError("moves of values but transpositions")
            value = value._replace(
                shape=tuple(value.shape[axis] for axis in order),
                order=tuple(order.index(axis) for axis in value.order),
            )
            return value if value.shape == shape else _reshaped(model, shape, value)
        case Reshape():
            return _reshaped(model, shape, value)
        case Shift():
            factor = np.int64(2**op.amount)
            return _scaled(
                model, factor, value, sums or {"top": value.top << op.amount}
            )
        case Sum() | Max():
            rank = len(value.shape)
            if tuple(op.axes) != tuple(range(1, rank - 1)):
                raise QONNXError(
                    f"sums and maxima over axes {op.axes}, only over space"
                )
            window = (1, *value.shape[1:-1], 1)
            none = ((0, 0),) * rank
            whole = WindowSum if isinstance(op, Sum) else WindowMax
            value = _moved(model, whole(window, (1,) * rank, none), value, sums)
            return _reshaped(model, shape, value)
        case WindowSum():
            return _window_sum(model, op, value, sums)
        case WindowMax():
            return _pooled(model, op, value)
    raise AssertionError(op)


def _reshaped(model: Model, shape: tuple[int, ...], value: Tensor) -> Tensor:
    if value.shape[0] != 1 or shape[0] != 1:
        raise QONNXError("layers that take one example apart into rows")
    same = tuple(range(len(value.shape)))
    if not np.array_equal(value.places, np.arange(value.places.size)):
        value = model.ordered(value, same)
    to = model.new(value, shape=shape, order=tuple(range(len(shape))))
    if len(shape) == 2:
        return model.node("Flatten", [value.name], to)
    sizes = model.constant(np.array([0, *shape[1:]], np.int64))
    return model.node("Reshape", [value.name, sizes], to)


def _window(op: WindowSum | WindowMax, value: Tensor) -> dict:
    """Return the attributes of ONNX for a window over space."""
    ends = (0, -1)
    if any(op.window[i] != 1 or op.strides[i] != 1 or any(op.padding[i]) for i in ends):
        raise QONNXError("windows over channels")
    return {
        "kernel_shape": op.window[1:-1],
        "strides": op.strides[1:-1],
        "pads": _pads(op.padding[1:-1]),
    }


def _pads(padding) -> list[int]:
    low, high = zip(*padding, strict=True)
    if min(*low, *high) < 0:
        raise QONNXError("negative padding")
    return [*low, *high]


def _pooled(model: Model, op: WindowMax, value: Tensor) -> Tensor:
    value = model.ordered(value, channels_first(len(value.shape)))
    to = model.new(value, shape=out_shape(op, value.shape))
    return model.node("MaxPool", [value.name], to, **_window(op, value))


def _window_sum(
    model: Model, op: WindowSum, value: Tensor, sums: dict | None
) -> Tensor:
    """Add up windows by a depthwise convolution: a mean in floats would be rounded."""
    value = model.ordered(value, channels_first(len(value.shape)))
    window, channels = _window(op, value), value.shape[-1]
    ones = np.ones((channels, 1, *window["kernel_shape"]))
    kernel = model.constant(ones, "UINT1")
    sums = sums or {"top": value.top * ones[0].size}
    to = model.new(value, shape=out_shape(op, value.shape), **sums)
    # Readers ask for the dilations, though 1 is the default.
    window |= {"dilations": [1] * len(window["strides"]), "group": channels}
    return model.node("Conv", [value.name, kernel], to, **window)


def _scaled(model: Model, factor, value: Tensor, integers: dict) -> Tensor:
    factor = np.asarray(factor)
    name = model.broadcast(value, factor, type_of_all(factor))
    return model.node("Mul", [value.name, name], model.new(value, **integers))


def _dense(
    model: Model, op: Dense, value: Tensor, sums: dict, flatten: Reshape | Move | None
) -> Tensor:
    kernel, shape = op.kernel, value.shape
    if flatten:
        shape = out_shape(flatten, shape)
        kernel = _rows_moved(kernel, flatten, value)
    if shape[0] != 1 or value.shape[0] != 1 or len(shape) != 2:
        raise QONNXError("layers that take one example apart into rows")
    if len(value.shape) > 2:
        to = model.new(value, shape=(1, len(kernel)), order=(0, 1))
        value = model.node("Flatten", [value.name], to)
    name = model.constant(kernel, type_of_all(kernel))
    to = model.new(value, shape=(1, kernel.shape[1]), **sums)
    return model.node("MatMul", [value.name, name], to)


def _rows_moved(kernel: np.ndarray, op: Reshape | Move, value: Tensor) -> np.ndarray:
    """Move the rows of a kernel to where the file has the values that they weight."""
    places = np.arange(value.places.size)
    index = op.index.reshape(-1) if isinstance(op, Move) else places
    if len(index) != len(kernel):
        raise QONNXError("layers that take one example apart into rows")
    moved = np.zeros((len(places), kernel.shape[1]), np.int64)
    np.add.at(moved, index[index >= 0], kernel[index >= 0])
    return moved[value.places]


def _conv(model: Model, op: Conv, value: Tensor, sums: dict) -> Tensor:
    if max(op.lhs_dilation) > 1:
        raise QONNXError("transposed convolutions")
    value = model.ordered(value, channels_first(len(value.shape)))
    space = range(len(op.strides))
    kernel = op.kernel.transpose(-1, -2, *space)
    return model.node(
        "Conv",
        [value.name, model.constant(kernel, type_of_all(kernel))],
        model.new(value, shape=out_shape(op, value.shape), **sums),
        kernel_shape=op.kernel.shape[:-2],
        strides=op.strides,
        pads=_pads(op.padding),
        dilations=op.rhs_dilation,
        group=op.groups,
    )
