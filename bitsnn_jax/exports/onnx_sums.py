"""The sum of a node in floats, every step of which is exact.

z = sum of terms + bias is a whole number, and `bound` is the largest |z| in any order
of addition. Below 2**24 every number on the way is a float32. Multiplying by 2**-f
changes exponents only, so weights may hold that factor: what is added up then is
z 2**-f, exact too, and whether it stands in front of a convolution or behind it makes
no difference.

A larger bound takes float64, which holds 53 bits. Runtimes have no convolutions in it.
There the source is taken apart into digits, few enough bits each that a float32 holds
the sums of one digit, and these are added up in float64.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

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
from bitsnn_jax.exports.onnx_operations import applied, convolved
from bitsnn_jax.integers.graph import (
    Conv,
    Dense,
    Held,
    Lookup,
    Scale,
    Shift,
    Term,
    out_shape,
)
from bitsnn_jax.integers.network import IntegerNode


class Part(NamedTuple):
    """A term, the value that it is given, and that which it holds, if it does."""

    term: Term
    value: Value
    held: Value | None = None


class Sums:
    """Adds up what nodes are fed, times 2**-f.

    Attributes:
      kind: the type, "f32" or "f64".
      unit: 2**-f; broadcasts to the shape of the node. 1 beside a table.
    """

    def __init__(self, builder: Builder, node: IntegerNode):
        self.builder, self.node = builder, node
        self.kind = "f32" if node.bound < EXACT else "f64"
        fraction = np.zeros(()) if node.has_table else node.fraction
        unit = 0.5 ** np.asarray(fraction, np.float64)
        self.unit = unit.reshape(()) if unit.size == 1 else unit
        plain = all(isinstance(op, Shift) for t in node.terms for op in t.after)
        # Channels are where the weights have them, unless they are moved behind.
        self._folds = plain and _per_channel(self.unit) or self.unit.size == 1

    def add(self, parts: Sequence[Part], bias: Any) -> Value:
        """Return (terms + bias) 2**-f of the node; `bias` broadcasts to its shape."""
        bias, made = np.asarray(bias, np.float64) * self.unit, None
        # A convolution takes its bias with it.
        parts = sorted(parts, key=lambda part: not isinstance(part.term.weight, Conv))
        for part in parts:
            value, bias = self._brought(part, bias if self._folds else None, bias)
            made = value if made is None else self.joined("Add", made, value)
        if made is None:
            return self._constant(bias)
        if not self._folds:
            made = self._with(made, "Mul", self.unit)
        return self._with(made, "Add", bias) if np.any(bias) else made

    def joined(self, op: str, one: Value, other: Value) -> Value:
        """Apply an operator of two arrays to two values."""
        first = one.is_first or other.is_first
        names = (self.builder.form(v, self.kind, first) for v in (one, other))
        return self.value(self.builder.add(op, *names), first)

    def value(self, name: str, first: bool) -> Value:
        """Return a value of the node."""
        first = first and can_be_first(self.node.shape)
        return Value(self.node.shape, sums=self.kind, forms={(self.kind, first): name})

    def _with(self, value: Value, op: str, array: np.ndarray) -> Value:
        """Add, or multiply by, what broadcasts to the shape of the node."""
        first = value.is_first
        constant = broadcast(self.builder, array, self.node.shape, first, self.kind)
        name = self.builder.form(value, self.kind, first)
        return self.value(self.builder.add(op, name, constant), first)

    def _constant(self, array: np.ndarray) -> Value:
        """Return a value that no input changes, once for each example."""
        builder, shape = self.builder, self.node.shape
        batch = builder.add("Shape", "input", start=0, end=1)
        rest = builder.constant(extents(shape), np.int64)
        to = builder.add("Concat", batch, rest, axis=0)
        full = np.broadcast_to(array, shape).reshape(extents(shape))[None]
        made = builder.add("Expand", builder.constant(full, TYPES[self.kind]), to)
        return self.value(made, False)

    def _brought(self, part, folded_bias, bias):
        """Compute what a term brings; return the bias that is left to add."""
        term, builder = part.term, self.builder
        value = applied(builder, term.before, part.value)
        amount = sum(op.amount for op in term.after if isinstance(op, Shift))
        after = [op for op in term.after if not isinstance(op, Shift)]
        factor = 2.0**amount * (self.unit if self._folds else 1.0)
        weight = term.weight
        if isinstance(weight, Conv):
            takes = folded_bias is not None and not after and _per_channel(bias)
            value = self._conv(weight, value, factor, bias if takes else None)
            bias = np.zeros(()) if takes else bias
        elif isinstance(weight, Dense):
            value = self._dense(weight, value, factor)
        elif isinstance(weight, Scale):
            value = self._scale(weight, value, factor)
        elif isinstance(weight, Lookup):
            value = self._looked_up(weight, value, factor)
        elif isinstance(weight, Held):
            assert part.held is not None, "the caller knows what is held"
            value = self._held(weight, value, part.held, factor)
        return applied(builder, after, value), bias

    def _made(self, shape: Shape, name: str, first: bool = False) -> Value:
        first = first and can_be_first(shape)
        return Value(shape, sums=self.kind, forms={(self.kind, first): name})

    def _scale(self, weight, value, factor):
        builder, first = self.builder, value.is_first
        name = builder.form(value, self.kind, first)
        factor = weight.factor * factor
        if np.any(factor != 1):
            factor = broadcast(builder, factor, value.shape, first, self.kind)
            name = builder.add("Mul", name, factor)
        return self._made(value.shape, name, first)

    def _dense(self, weight, value, factor):
        kernel = weight.kernel * np.reshape(factor, np.shape(factor)[-1:])
        kernel = self.builder.constant(kernel, TYPES[self.kind])
        name = self.builder.add("MatMul", self.builder.form(value, self.kind), kernel)
        return self._made((value.shape[0], weight.kernel.shape[1]), name)

    def _conv(self, weight, value, factor, bias):
        builder, shape = self.builder, out_shape(weight, value.shape)
        kernel = weight.kernel * np.reshape(factor, np.shape(factor)[-1:])
        outputs = shape[-1]
        if self.kind == "f32":
            value, kernel, options = convolved(
                builder, weight._replace(kernel=kernel), value
            )
            biases = []
            if bias is not None and np.any(bias):
                bias = np.broadcast_to(bias.reshape(-1), (outputs,))
                biases = [builder.constant(bias, np.float32)]
            kernel = builder.constant(kernel, np.float32)
            x = builder.form(value, "f32", first=True)
            name = builder.add("Conv", x, kernel, *biases, **options)
            return self._made(shape, name, True)
        made = None
        for place, digit in digits(
            builder, value, _gain(weight.kernel), self.node.bound
        ):
            digit, wide, options = convolved(
                builder, weight._replace(kernel=kernel), digit
            )
            x = builder.form(digit, "f32", first=True)
            name = builder.add("Conv", x, builder.constant(wide, np.float32), **options)
            name = builder.scaled(builder.cast(name, "f64"), "f64", 2.0**place)
            made = name if made is None else builder.add("Add", made, name)
        assert made is not None, "a number has a digit"
        if bias is not None and np.any(bias):
            bias = broadcast(builder, bias, shape, True, "f64")
            made = builder.add("Add", made, bias)
        return self._made(shape, made, True)

    def _looked_up(self, weight, value, factor):
        """Take the rows that integers name; those beyond, the first or the last."""
        builder, shape = self.builder, out_shape(weight, value.shape)
        ends = (builder.constant(n, np.int32) for n in (0, len(weight.kernel) - 1))
        index = builder.add("Clip", builder.form(value, "i32"), *ends)
        rows = builder.constant(weight.kernel * factor, TYPES[self.kind])
        return self._made(shape, builder.add("Gather", rows, index, axis=0))

    def _held(self, weight, value, held, factor):
        """Multiply [rows, groups * K] by the numbers [groups, K, N] of another node."""
        builder, (groups, inner, outer) = self.builder, weight.shape
        held = applied(builder, weight.before, held)
        rows = value.shape[0]
        x = builder.reshape(builder.form(value, self.kind), (rows, groups, inner))
        y = builder.reshape(builder.form(held, self.kind), (groups, inner, outer))
        x = builder.add("Transpose", x, perm=[0, 2, 1, 3])
        name = builder.add("Mul" if inner == 1 else "MatMul", x, y)
        name = builder.add("Transpose", name, perm=[0, 2, 1, 3])
        shape = (rows, groups * outer)
        name = builder.scaled(builder.reshape(name, extents(shape)), self.kind, factor)
        return self._made(shape, name)


def digits(
    builder: Builder, value: Value, gain: int, bound: int
) -> list[tuple[int, Value]]:
    """Take numbers apart so that `gain` times each digit is below 2**24.

    Returns:
      (place, digit): the sum of digits times 2**place is the value. All but the last
      are at least 0.

    Raises:
      OnnxError: not even single bits are small enough.
    """
    if value.size * gain < EXACT:
        return [(0, value)]
    bits = (EXACT // gain).bit_length() - 1
    if bits < 1 or value.grid > 1:
        raise OnnxError(
            f"its sums reach {bound:,}, and {gain:,} for a source of 1: no float32 "
            "holds them; take fewer bits or steps"
        )
    kind, first, parts, place = (
        "f32" if value.size < EXACT else "f64",
        value.is_first,
        [],
        0,
    )
    rest = value
    while rest.size * gain >= EXACT:
        name = builder.form(rest, kind, first)
        high = builder.add("Floor", builder.scaled(name, kind, 2.0**-bits))
        low = builder.add("Sub", name, builder.scaled(high, kind, 2.0**bits))
        parts.append((place, _digit(value, 0, 2**bits - 1, kind, first, low)))
        place += bits
        rest = _digit(value, rest.low >> bits, rest.high >> bits, kind, first, high)
    return [*parts, (place, rest)]


def _digit(value, low, high, kind, first, name):
    return Value(value.shape, low, high, forms={(kind, first): name})


def broadcast(
    builder: Builder, array: Any, shape: Shape, first: bool, kind: str
) -> str:
    """Hold what broadcasts to [1, ...] of the layer graph, for a value's order."""
    array = np.asarray(array)
    array = array.reshape((1,) * (len(shape) - array.ndim) + array.shape)
    if shape[:1] != (1,):
        array = array[None]  # the batch
    if first and can_be_first(shape):
        array = np.moveaxis(array, -1, 1)
    return builder.constant(array, TYPES[kind])


def _per_channel(array: np.ndarray) -> bool:
    return array.size == 1 or array.shape[-1] == array.size


def _gain(kernel: np.ndarray) -> int:
    """Return the largest |output| for inputs of 1."""
    kernel = np.abs(kernel.astype(np.int64))
    return int(kernel.reshape(-1, kernel.shape[-1]).sum(0).max())
