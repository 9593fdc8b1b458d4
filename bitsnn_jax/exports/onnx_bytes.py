"""Layers of neurons as one QLinearConv: products of bytes, rounded once, to the code.

QLinearConv adds up z = sum of x w + bias in int32, and returns

    saturate(round_half_even(fl(z s))),   fl: rounded to a float32, s: a scale,

saturated to 0..255. A code is clip(floor((z + 2**(f-1)) / 2**f), 0, top), where ties
go up. With s = 2**-f (1 + 2**-k) they do here too, and nothing else changes, where

    N (2**-k + 2**-24) <= 1,   N = (top + 1/2) 2**f.

Proof, for f >= 1. Both sides rise with z, so it is enough to look at the two ends of
the z of each code q in 1..top, and at the last z of code 0: larger z saturate, smaller
ones are at most 0. (All z in question are below 2**24, so they are float32.)

* First z of code q, the tie: z s = (q - 1/2) (1 + 2**-k). q - 1/2 is a float32 and its
  successor is no further than (q - 1/2) 2**-23 times 2 away at k <= 22, so fl(z s) is
  above q - 1/2, and rounds to q.
* Last z of code q: z = M - 1, where M = (q + 1/2) 2**f <= N. z (1 + 2**-k) is M minus
  1 - (M - 1) 2**-k, and that gap is more than M 2**-24, half of the largest distance of
  two float32 below M. So fl(z s) is below q + 1/2, and rounds to q or less.

For f = 0, z s is z plus less than a half, and the same bound is more than enough. A
runtime that rounds ties away from 0, or up, gives the same codes. One that keeps a
scale in fewer than k bits does not, and the test vectors show it.

Codes below 255 = top are left to `Min`. Skip connections become more input channels of
the same convolution: see `_planes`. So does a bias that differs along the border: see
`onnx_borders`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bitsnn_jax.exports.onnx_borders import border_weights, with_constants
from bitsnn_jax.exports.onnx_builder import Builder, Shape, Value
from bitsnn_jax.exports.onnx_operations import applied, as_conv, convolved, like
from bitsnn_jax.integers.graph import (
    Conv,
    Dense,
    Reshape,
    Scale,
    Shift,
    Term,
    out_shape,
)
from bitsnn_jax.integers.network import IntegerNode

# k of the scale: the first one for which a layer is small enough.
MARGINS = (20, 22)
# Largest |weight|.
BYTE = 127
# Planes of the channels of one source, at most; with more, floats are faster.
MOST_PLANES = 3

Plane = tuple[str, np.ndarray]


class _Fed(NamedTuple):
    """A term as a convolution, its kernel of any integers."""

    source: str
    before: tuple[Any, ...]
    conv: Conv


def in_bytes(
    builder: Builder, node: IntegerNode, values: Mapping[str, Value], top: int
) -> Value | None:
    """Write a layer of neurons as one QLinearConv; None where that is not exact."""
    made = rounded(builder, node, values, top)
    return made and limited(builder, node, made, top)


def limited(builder: Builder, node: IntegerNode, code: Value, top: int) -> Value:
    """Return min(code, top), for bytes with the channels first."""
    name = builder.form(code, "u8", first=True)
    if top < 255:
        name = builder.add("Min", name, builder.constant(top, np.uint8))
    made = Value(code.shape, 0, top, forms={("u8", True): name})
    return applied(builder, [Reshape(node.shape)], made)


def rounded(
    builder: Builder,
    node: IntegerNode,
    values: Mapping[str, Value],
    top: int,
    *,
    offset: int = 0,
) -> Value | None:
    """Return clip(floor((z + half) / 2**f) + offset, 0, 255) for the sum z of a layer.

    What is above `top` may be another number above it. The value is that of the
    convolution, channels first. None where a QLinearConv is not exact.
    """
    fraction = _of_channels(node.fraction, node)
    if top > 255 or fraction is None:
        return None
    scale, more = _scale(fraction, top), offset << fraction.astype(np.int64)
    if scale is None or node.bound + more.max() >= 2**31:
        return None
    terms = [_as_conv(term, values[term.source], node) for term in node.terms]
    found = _planes(builder, terms, values, np.broadcast_to(node.bias, node.shape))
    if found is None:
        return None
    planes, options, shape, bias = found
    names = [name for name, _ in planes]
    x = names[0] if len(names) == 1 else builder.add("Concat", *names, axis=1)
    kernel = np.concatenate([kernel for _, kernel in planes], 1)
    one, none = builder.constant(1, np.float32), builder.constant(0, np.uint8)
    weight = (
        builder.constant(kernel, np.int8),
        builder.constant(scale, np.float32),
        builder.constant(np.zeros(len(scale)), np.int8),
    )
    biases = builder.constant(bias + more, np.int32)
    name = builder.add(
        "QLinearConv", x, one, none, *weight, one, none, biases, **options
    )
    return Value(shape, 0, 255, forms={("u8", True): name})


def _scale(fraction: np.ndarray, top: int) -> np.ndarray | None:
    """Return 2**-f (1 + 2**-k), if one k will do; see above."""
    largest = (top + 0.5) * 2.0 ** fraction.max()
    for k in MARGINS:
        if largest * (2.0**-k + 2.0**-24) <= 1:
            return 0.5 ** fraction.astype(np.float64) * (1 + 2.0**-k)
    return None


def _of_channels(array: np.ndarray, node: IntegerNode) -> np.ndarray | None:
    """Return one number for each channel; None if there are others."""
    array = np.asarray(array)
    if array.size > 1 and array.shape[-1] != array.size:
        return None
    return np.broadcast_to(array.reshape(-1), (node.shape[-1],))


def _as_conv(term: Term, value: Value, node: IntegerNode) -> _Fed | None:
    """Write a term as a convolution, shifts in its kernel; None if it is none."""
    shift = 2 ** sum(op.amount for op in term.after if isinstance(op, Shift))
    before, weight, shape = list(term.before), term.weight, value.shape
    for op in before:
        shape = out_shape(op, shape)
    if isinstance(weight, Scale):
        weight = _diagonal(weight, shape)
    if isinstance(weight, Dense):
        shape, weight = as_conv(weight, shape)
        before.append(Reshape(shape))
    if not isinstance(weight, Conv) or weight.kernel.shape[-1] != node.shape[-1]:
        return None
    if any(not isinstance(op, Shift | Reshape) for op in term.after):
        return None
    kernel = weight.kernel.astype(np.int64) * shift
    return _Fed(term.source, tuple(before), weight._replace(kernel=kernel))


def _diagonal(scale: Scale, shape: tuple[int, ...]) -> Conv | None:
    """Write a factor for each channel as a convolution with a window of 1."""
    factor, space = np.asarray(scale.factor), len(shape) - 2
    if space < 1 or factor.size > 1 and factor.shape[-1] != factor.size:
        return None
    kernel = np.diag(np.broadcast_to(factor.reshape(-1), shape[-1:]))
    one = (1,) * space
    kernel = kernel.reshape(*one, *kernel.shape)
    return Conv(kernel, one, ((0, 0),) * space, one, one, 1)


def _planes(
    builder: Builder,
    terms: Sequence[_Fed | None],
    values: Mapping[str, Value],
    bias: np.ndarray,
) -> tuple[list[Plane], dict[str, Any], Shape, np.ndarray] | None:
    """Return what one convolution sees, its options, its shape, a bias for a channel.

    The term with the largest window comes first. The kernels of the others are put
    into that window, as of more input channels.
    """
    planes, main = [], None
    for term in sorted(filter(None, terms), key=lambda t: -_window(t.conv.kernel)):
        value = applied(builder, term.before, values[term.source])
        if not value.is_byte or term.conv.groups > 1 and len(terms) > 1:
            return None
        shape = out_shape(term.conv, value.shape)
        value, kernel, options = convolved(builder, term.conv, value)
        if main is None:
            space = value.shape[1:-1]
            found = border_weights(bias.reshape(shape)[0], space, options)
            if found is None or found[1].size and term.conv.groups > 1:
                return None
            if found[1].size:
                value = with_constants(builder, value, found[1].shape[1])
                kernel = np.concatenate([kernel, found[1]], 1)
            main = space, options, shape, found[0]
        else:
            value, kernel = _aligned(builder, value, kernel, options, *main[:2])
        split = _in_digits(builder, value, kernel) if value else None
        if split is None:
            return None
        planes += split
    return (planes, *main[1:]) if main and all(terms) else None


def _window(kernel: np.ndarray) -> int:
    return math.prod(kernel.shape[:-2])


def _aligned(builder, value, kernel, options, space, main):
    """Put a kernel into the window of the main one; (None, kernel) if it cannot be."""
    strides, pads = options["strides"], options["pads"]
    if max(kernel.shape[2:]) == 1 and not any(pads) and max(strides) > 1:
        value, strides = _every(builder, value, strides), [1] * len(strides)
    if value.shape[1:-1] != space or strides != main["strides"]:
        return None, kernel
    wide = np.zeros((*kernel.shape[:2], *main["kernel_shape"]), kernel.dtype)
    place: list[Any] = [slice(None)] * 2
    for axis, size in enumerate(kernel.shape[2:]):
        offset, step = main["pads"][axis] - pads[axis], main["dilations"][axis]
        same = size == 1 or options["dilations"][axis] == step
        at = offset // step
        if not same or offset % step or not 0 <= at <= wide.shape[2 + axis] - size:
            return None, kernel
        place.append(slice(at, at + size))
    wide[tuple(place)] = kernel
    return value, wide


def _every(builder: Builder, value: Value, strides: Sequence[int]) -> Value:
    """Take every so many entries of each axis of space."""
    space = len(strides)
    ends, axes = [2**31 - 1] * space, range(2, 2 + space)
    name = builder.add(
        "Slice",
        builder.form(value, "u8", first=True),
        *(builder.constant(n, np.int64) for n in ([0] * space, ends, axes, strides)),
    )
    sizes = [-(-n // s) for n, s in zip(value.shape[1:-1], strides, strict=True)]
    shape = (1, *sizes, value.shape[-1])
    return like(value, shape, "u8", name, first=True)


def _in_digits(builder, value, kernel) -> list[Plane] | None:
    """Return planes of bytes and their int8 kernels; None if there are too many.

    A multiplier m beyond a byte is d + e 2**b, where codes leave b bits of a byte free:
    m code = d code + e (code << b).
    """
    name = builder.form(value, "u8", first=True)
    bits = 8 - max(value.high, 1).bit_length()
    planes, high = [], ""
    while np.abs(kernel).max() > BYTE:
        if not bits or len(planes) + 1 == MOST_PLANES:
            return None
        shift = builder.constant(bits, np.uint8)
        high = high or builder.add("BitShift", name, shift, direction="LEFT")
        digit = np.clip(np.rint(kernel / 2**bits), -BYTE, BYTE).astype(np.int64)
        planes.append((high, digit))
        kernel = kernel - digit * 2**bits
    # Multipliers such as 2**10 leave nothing for the lowest digit.
    return [(name, kernel), *planes] if np.any(kernel) or not planes else planes
