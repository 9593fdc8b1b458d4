"""An ONNX graph under construction: nodes, constants, and values in several forms.

A value of the layer graph has a shape [1, *space, channels] or any other. In ONNX it is
[n, *shape] for a batch of n, where a first axis of 1 is left out. It may exist in
several forms, each made when something asks for it: as bytes or as floats, channels
last or channels first.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bitsnn_jax.integers import carriers
from bitsnn_jax.runtime.reading import ReadingError

Shape = tuple[int, ...]

# What an exporter of this version needs of a runtime: operators of 2022.
OPSET, IR_VERSION = 18, 9
# A protobuf holds no more bytes.
LARGEST = 2**31 - 1
# Up to here every integer is a float32. A float64 holds all of 32 bits.
EXACT = carriers.EXACT["float32"]
TYPES = {"u8": np.uint8, "u16": np.uint16, "u32": np.uint32, "i32": np.int32}
TYPES |= {"f32": np.float32, "f64": np.float64, "i64": np.int64}
# What ONNX calls them.
_NUMBERS = {"u8": 2, "u16": 4, "u32": 12, "i32": 6, "f32": 1, "f64": 11, "i64": 7}
# A form of its own: codes before the floor, which a cast to bytes brings too.
UNFLOORED = "unfloored"


class OnnxError(ReadingError):
    """A network that cannot be written as ONNX."""


@dataclasses.dataclass
class Value:
    """Integers of the network, in one or more forms.

    Attributes:
      shape: in the layer graph.
      low, high: no number is outside of these.
      grid: a power of two that divides every number.
      sums: the type that holds whatever they are added up to; None where `low` and
        `high` say that.
      forms: (type, channels first?) -> name in the ONNX graph.
    """

    shape: Shape
    low: int = 0
    high: int = 0
    grid: int = 1
    sums: str | None = None
    forms: dict[tuple[str, bool], str] = dataclasses.field(default_factory=dict)

    @property
    def size(self) -> int:
        """The largest |number|, counted in steps of the grid."""
        return max(self.high, -self.low) // self.grid

    @property
    def is_byte(self) -> bool:
        """Whether every number is known to be an unsigned byte."""
        return self.sums is None and self.low >= 0 and self.high <= 255

    @property
    def is_first(self) -> bool:
        """Whether it exists with its channels first."""
        return any(first for _, first in self.forms)


def extents(shape: Sequence[int]) -> Shape:
    """Return the axes of a value behind the batch axis.

    >>> extents((1, 8, 8, 3)), extents((49, 64)), extents(())
    ((8, 8, 3), (49, 64), ())
    """
    return tuple(shape[1:] if tuple(shape[:1]) == (1,) else shape)


def can_be_first(shape: Sequence[int]) -> bool:
    """Tell whether an order with the channels first is another one.

    >>> can_be_first((1, 8, 8, 3)), can_be_first((1, 10))
    (True, False)
    """
    return len(extents(shape)) > 1


class _Node(NamedTuple):
    op: str
    inputs: tuple[str, ...]
    output: str
    attributes: dict[str, Any]


class Builder:
    """Collects nodes and constants, and knows the forms of values."""

    def __init__(self):
        self._nodes: list[_Node] = []
        self._outputs: dict[str, tuple[str, Shape]] = {}
        self._constants: dict[str, np.ndarray] = {}
        self._names: dict[Any, str] = {}
        self._count = 0

    def constant(self, array: Any, dtype: Any = None) -> str:
        """Hold an array; equal arrays are held once."""
        array = np.array(array, dtype, order="C")  # of its own
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._names:
            name = self._names[key] = self._name()
            self._constants[name] = array
        return self._names[key]

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output; return the output's name."""
        self._nodes.append(_Node(op, inputs, self._name(), attributes))
        return self._nodes[-1].output

    def output(self, name: str, made: str, kind: str, shape: Shape) -> None:
        """Make a named output [n, *shape] of what is already there."""
        self._nodes.append(_Node("Identity", (made,), name, {}))
        self._outputs[name] = kind, shape

    def form(self, value: Value, kind: str, first: bool = False) -> str:
        """Return the name of a form of the value; make it if need be."""
        first = first and can_be_first(value.shape)
        if (kind, first) not in value.forms:
            value.forms[kind, first] = self._made(value, kind, first)
        return value.forms[kind, first]

    def any_form(self, value: Value, first: bool = False) -> tuple[str, str]:
        """Return (type, name) of a form in this order, in the cheapest type."""
        kind = _cheapest([kind for kind, _ in value.forms])
        if kind == UNFLOORED:
            kind = "u8" if value.is_byte else "f32"
        return kind, self.form(value, kind, first)

    def reshape(self, name: str, shape: Sequence[int]) -> str:
        """Give what is [n, ...] the shape [n, *shape]."""
        return self.add("Reshape", name, self.constant([0, *shape], np.int64))

    def cast(self, name: str, kind: str) -> str:
        """Convert to a type."""
        return self.add("Cast", name, to=_NUMBERS[kind])

    def scaled(self, name: str, kind: str, factor: Any) -> str:
        """Multiply by constants, unless all of them are 1."""
        if np.all(np.asarray(factor) == 1):
            return name
        return self.add("Mul", name, self.constant(factor, TYPES[kind]))

    def model(self, kind: str, shape: Shape, facts: dict[str, str]) -> Any:
        """Make the model: the graph of "input" [n, *shape], and facts for its readers.

        Raises:
          ImportError: onnx is not installed.
        """
        import onnx
        from onnx import helper, numpy_helper

        def typed(name, kind, shape):
            sizes = ["n", *extents(shape)]
            return helper.make_tensor_value_info(name, _NUMBERS[kind], sizes)

        nodes, used = self._used()
        graph = helper.make_graph(
            [
                helper.make_node(
                    n.op, n.inputs, [n.output], n.op + n.output, **n.attributes
                )
                for n in nodes
            ],
            "bitsnn",
            [typed("input", kind, shape)],
            [typed(name, *output) for name, output in self._outputs.items()],
            [
                numpy_helper.from_array(array, name)
                for name, array in self._constants.items()
                if name in used
            ],
        )
        versions = {
            "opset_imports": [helper.make_opsetid("", OPSET)],
            "ir_version": IR_VERSION,
        }
        model = helper.make_model(graph, producer_name="bitsnn_jax", **versions)
        helper.set_model_props(model, facts)
        if model.ByteSize() > LARGEST:
            size = f"{model.ByteSize():,}"
            raise OnnxError(
                f"its {size} bytes are more than the 2 GB of a file of ONNX"
            )
        onnx.checker.check_model(model)
        return model

    def _name(self) -> str:
        self._count += 1
        return f"~{self._count}"

    def _used(self) -> tuple[list[_Node], set[str]]:
        """Return the nodes and names that feed an output, not forms that were tried."""
        used, nodes = set(self._outputs), []
        for node in reversed(self._nodes):
            if node.output in used:
                nodes.append(node)
                used.update(node.inputs)
        return nodes[::-1], used

    def _made(self, value: Value, kind: str, first: bool) -> str:
        """Make a form of the ones that are there: first the order, then the type."""
        forms = value.forms
        here, other = (
            [k for k, at in forms if at is side] for side in (first, not first)
        )
        if kind in other or not here:
            # Bytes are cheaper to move than floats.
            via = (
                kind
                if kind in other or value.is_byte and kind == "u8"
                else _cheapest(other)
            )
            moved = self._turned(self.form(value, via, not first), value.shape, first)
            forms[via, first] = moved
            here = [via]
        if kind in here:
            return forms[kind, first]
        name = forms[source := _cheapest(here), first]
        if source == UNFLOORED and kind in ("f32", "f64"):
            name, source = self.add("Floor", forms[source, first]), "f32"
        return name if source == kind else self.cast(name, kind)

    def _turned(self, name: str, shape: Shape, first: bool) -> str:
        """Put channels first, or last again."""
        *space, channels = extents(shape)
        if math.prod(space) == 1 or channels == 1:
            return self.reshape(name, [channels, *space] if first else extents(shape))
        rank = len(space) + 2
        order = [rank - 1, *range(1, rank - 1)] if first else [*range(2, rank), 1]
        return self.add("Transpose", name, perm=[0, *order])


def _cheapest(kinds: Sequence[str]) -> str:
    return min(kinds, key=[*TYPES, UNFLOORED].index)
