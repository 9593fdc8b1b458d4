"""The tensors and nodes of a QONNX file while it is being written.

QONNX holds integers in tensors of float32 and says of each tensor which integers they
are, such as UINT4. Needs the package `onnx`: the extra `onnx`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bitsnn_jax.integers import carriers

DOMAIN = "qonnx.custom_op.general"
OPSET, DOMAIN_VERSION, IR_VERSION = 13, 1, 8
EXACT = carriers.EXACT["float32"]


class QONNXError(ValueError):
    """A network without a QONNX form."""


class Tensor(NamedTuple):
    """A value of the layer graph, as the file has it.

    Attributes:
      name: in the file.
      shape: in the layer graph.
      order: the axes of `shape` in the order of the file.
      top: the largest |number|.
      has_sign: whether there are negative numbers.
      is_whole: whether all of them are integers.
    """

    name: str
    shape: tuple[int, ...]
    order: tuple[int, ...]
    top: int
    has_sign: bool = False
    is_whole: bool = True

    @property
    def integers(self) -> str:
        """QONNX's name of its type, such as "UINT4"."""
        return type_of(self.top, self.has_sign) if self.is_whole else "FLOAT32"

    @property
    def file_shape(self) -> tuple[int, ...]:
        """Its shape in the file."""
        return tuple(self.shape[axis] for axis in self.order)

    @property
    def places(self) -> np.ndarray:
        """Where each entry of the file is in the layer graph, both flattened."""
        places = np.arange(math.prod(self.shape)).reshape(self.shape)
        return places.transpose(self.order).reshape(-1)


class Model:
    """An ONNX graph that grows node by node."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.infos: dict[str, onnx.ValueInfoProto] = {}
        self.types: dict[str, str] = {}
        self.layer = ""  # which is being written; names begin with it
        self._count = 0

    def _name(self) -> str:
        self._count += 1
        return f"{self.layer}::{self._count}"

    def describe(self, tensor: Tensor) -> Tensor:
        """Write down the shape and the integers of a tensor."""
        self.infos[tensor.name] = helper.make_tensor_value_info(
            tensor.name, TensorProto.FLOAT, tensor.file_shape
        )
        self.types[tensor.name] = tensor.integers
        return tensor

    def constant(self, values: Any, integers: str | None = None) -> str:
        """Add an array: integers in float32, or, without a type, as it is."""
        array, name = np.asarray(values), self._name()
        if integers is not None:
            array = array.astype(np.float32)
            self.types[name] = integers
        self.constants.append(numpy_helper.from_array(np.array(array, order="C"), name))
        return name

    def broadcast(self, like: Tensor, values: Any, integers: str) -> str:
        """Add an array that broadcasts to a value, its axes in the file's order."""
        array = np.asarray(values)
        array = array.reshape((1,) * (len(like.shape) - array.ndim) + array.shape)
        return self.constant(array.transpose(like.order), integers)

    def node(
        self,
        kind: str,
        inputs: Sequence[str],
        to: Tensor,
        *,
        domain: str = "",
        **attributes: Any,
    ) -> Tensor:
        """Add a node that makes the tensor `to`, and describe the tensor."""
        name = f"{self.layer}::{kind}_{len(self.nodes)}"
        made = helper.make_node(
            kind, inputs, [to.name], name=name, domain=domain, **attributes
        )
        self.nodes.append(made)
        return self.describe(to)

    def new(self, like: Tensor, **changes: Any) -> Tensor:
        """Return a tensor without a name yet taken, with other fields of `like`."""
        return like._replace(name=self._name(), **changes)

    def ordered(self, tensor: Tensor, order: tuple[int, ...]) -> Tensor:
        """Put the axes in the file in this order."""
        if order == tensor.order:
            return tensor
        to = self.new(tensor, order=order)
        perm = [tensor.order.index(axis) for axis in order]
        return self.node("Transpose", [tensor.name], to, perm=perm)

    def named(self, tensor: Tensor, name: str) -> Tensor:
        """Give a tensor the name of its layer."""
        to = tensor._replace(name=name)
        if not self.nodes or self.nodes[-1].output[0] != tensor.name:
            return self.node("Identity", [tensor.name], to)
        # Some readers expect that an output comes from a node that does something.
        self.nodes[-1].output[0] = name
        del self.infos[tensor.name], self.types[tensor.name]
        return self.describe(to)

    def proto(
        self,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        metadata: Mapping[str, Any],
    ) -> onnx.ModelProto:
        """Return the whole model, checked, with what else is to be said of it."""
        ends = [t.name for t in (*inputs, *outputs)]
        graph = helper.make_graph(
            self.nodes,
            "bitsnn",
            [self.infos[t.name] for t in inputs],
            [self.infos[t.name] for t in outputs],
            self.constants,
            value_info=[info for name, info in self.infos.items() if name not in ends],
        )
        for name, integers in self.types.items():
            note = graph.quantization_annotation.add(tensor_name=name)
            note.quant_parameter_tensor_names.add(key="finn_datatype", value=integers)
        versions = {"": OPSET, DOMAIN: DOMAIN_VERSION}
        opsets = [helper.make_opsetid(*pair) for pair in versions.items()]
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="bitsnn"
        )
        helper.set_model_props(model, {k: str(v) for k, v in metadata.items()})
        onnx.checker.check_model(model)
        return model


def type_of_all(numbers: np.ndarray) -> str:
    """Return the smallest type that holds all of these integers.

    >>> type_of_all(np.array([3, 15])), type_of_all(np.array([-3, 15]))
    ('UINT4', 'INT5')
    """
    return type_of(np.abs(numbers.astype(np.int64)).max(), bool((numbers < 0).any()))


def channels_first(rank: int) -> tuple[int, ...]:
    """Return the axes of [1, *space, channels] in ONNX's order."""
    return (0, rank - 1, *range(1, rank - 1)) if rank > 2 else tuple(range(rank))


def type_of(top: int, has_sign: bool) -> str:
    """Return QONNX's name of the integers up to `top`, or from -top to top.

    >>> type_of(15, False), type_of(127, True), type_of(128, True)
    ('UINT4', 'INT8', 'INT9')
    """
    bits = int(top).bit_length()
    return f"INT{bits + 1}" if has_sign else f"UINT{max(1, bits)}"
