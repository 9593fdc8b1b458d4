"""The routines of softmax and normalised rows in ONNX, in integers of 64 bits.

docs/format.md has their equations. ONNX shifts no signed integers, so shifts are
quotients by powers of two; its quotients round towards 0, and those of numbers that may
be negative are taken of larger ones.
"""

from typing import Any, NamedTuple

import numpy as np

from bitsnn_jax.exports.onnx_builder import Builder, Value
from bitsnn_jax.integers import routines
from bitsnn_jax.integers.network import IntegerNode

_POWERS = 2 ** np.arange(62)
# A multiple of every power that divides a negative number, above all of these numbers.
_LIFTED = 2**50


def by_rows(builder: Builder, node: IntegerNode, z: Value) -> Value:
    """Return what the routine of the node makes of rows of floor(z)."""
    kind, _ = next(iter(z.forms))
    name = builder.cast(builder.add("Floor", builder.form(z, kind)), "i64")
    x, entries = _Whole(builder, name), node.shape[-1]
    if node.kind == "softmax":
        made = _softmax(x, entries, *node.routine)
        low, top = 0, 1 << routines.PROBABILITY_BITS
    else:
        made = _normalised(x, entries, *node.routine)
        top = routines.largest_normalised(entries)
        low = -top
    forms = {("f32", False): builder.cast(made.name, "f32")}
    return Value(node.shape, low, top, forms=forms)


class _Whole(NamedTuple):
    """An int64 array of the graph, with operators that append nodes."""

    builder: Builder
    name: str

    def made(self, op: str, other: Any, **attributes: Any) -> "_Whole":
        """Apply an operator of two arrays."""
        if not isinstance(other, _Whole):
            other = self.of(other)
        name = self.builder.add(op, self.name, other.name, **attributes)
        return self._replace(name=name)

    def of(self, number: Any) -> "_Whole":
        """Return a constant."""
        return self._replace(name=self.builder.constant(number, np.int64))

    def plus(self, other: Any) -> "_Whole":
        return self.made("Add", other)

    def minus(self, other: Any) -> "_Whole":
        return self.made("Sub", other)

    def times(self, other: Any) -> "_Whole":
        return self.made("Mul", other)

    def over(self, other: Any) -> "_Whole":
        """Return the quotient of numbers of at least 0, rounded down."""
        return self.made("Div", other)

    def floored(self, power: Any) -> "_Whole":
        """Return the quotient of any number and a power of two, rounded down."""
        lifted = self.of(_LIFTED).over(power)
        return self.plus(_LIFTED).over(power).minus(lifted)

    def at_least(self, other: Any) -> "_Whole":
        return self.made("Max", other)

    def at_most(self, other: Any) -> "_Whole":
        return self.made("Min", other)

    def reduced(self, op: str) -> "_Whole":
        """Reduce the rows, and keep their axis."""
        return self.made(op, [-1], keepdims=1)

    def sum(self) -> "_Whole":
        return self.reduced("ReduceSum")

    def power(self) -> "_Whole":
        """Return 2 to these numbers."""
        name = self.builder.add("Gather", self.of(_POWERS).name, self.name, axis=0)
        return self._replace(name=name)

    def bits(self) -> "_Whole":
        """Return how many binary digits one number a row has."""
        reached = self.made("GreaterOrEqual", _POWERS[:48])
        name = self.builder.cast(reached.name, "i64")
        return self._replace(name=name).sum()

    def root(self) -> "_Whole":
        """Return the square root, rounded down; a float64 has it exactly."""
        name = self.builder.add("Sqrt", self.builder.cast(self.name, "f64"))
        name = self.builder.cast(self.builder.add("Floor", name), "i64")
        return self._replace(name=name)


def _softmax(z: _Whole, entries: int, shift: int, factor: int) -> _Whole:
    places = min(routines.EXPONENTIAL_BITS, 30 - (entries - 1).bit_length())
    distance = z.reduced("ReduceMax").minus(z).plus(1 << shift >> 1).over(1 << shift)
    high, low = divmod(factor, 2**13)
    t = distance.times(high).plus(distance.times(low).over(2**13)).plus(1).over(2)
    halvings = t.over(2**14)
    x = t.minus(halvings.times(2**14))
    sums = x.of(routines.POLYNOMIAL[-1])
    for coefficient in routines.POLYNOMIAL[-2::-1]:
        sums = x.of(coefficient).minus(x.times(sums).plus(2**15).over(2**16))
    below = x.times(sums).plus(1 << (30 - places)).over(1 << (31 - places))
    power = halvings.at_most(30).power()
    whole = x.of(1 << places).minus(below).plus(power.over(2)).over(power)
    return whole.times(2**16).over(whole.sum()).plus(1).over(2)


def _normalised(z: _Whole, entries: int, mantissa: int, exponent: int) -> _Whole:
    centred = z.times(entries).minus(z.sum())
    size = z._replace(name=z.builder.add("Abs", centred.name)).reduced("ReduceMax")
    length = size.at_least(routines.least_size(mantissa, exponent)).bits()
    up = length.of(20).minus(length).at_least(0).power()
    down = length.minus(20).at_least(0).power()
    fine = centred.times(up).plus(down.over(2)).floored(down)
    coarse = fine.plus(16).floored(32)
    cross = coarse.times(fine.minus(coarse.times(32))).sum().floored(16)
    places = length.times(2).minus(30 + exponent).at_least(0).at_most(31)
    square = coarse.times(coarse).sum().plus(cross)
    square = square.plus(length.of(mantissa).over(places.power()))
    halves = square.bits().minus(29).at_least(0).over(2)
    square = square.over(halves.times(2).power())
    root = square.root()
    rest = square.minus(root.times(root)).times(16).over(root.at_least(1))
    factor, fraction = routines.root_of_entries(entries)
    shift = halves.plus(fraction - 15)
    left, right = shift.at_least(0).power(), shift.times(-1).at_least(0).power()
    divisor = root.times(32).plus(rest).times(left).plus(right.over(2)).over(right)
    divisor = divisor.at_least(1)
    lifted = coarse.times(factor).plus(divisor.over(2)).plus(divisor.times(2**17))
    return lifted.over(divisor).minus(2**17)
