"""Files of ONNX, read without running them, as nodes and arrays."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bitsnn_jax.interop.onnx_names import node_path
from bitsnn_jax.interop.onnx_nodes import Attribute, Node
from bitsnn_jax.interop.program_inputs import Input
from bitsnn_jax.runtime.reading import ReadingError

OLDEST = 7  # operators that broadcast as NumPy does


class OnnxContents(NamedTuple):
    """What a file holds.

    Attributes:
      inputs: without the weights.
      nodes: in order, as the newest operators have it.
      outputs: names of what it returns.
      constants: arrays by name: weights, and the tensors of nodes.
    """

    inputs: list[Input]
    nodes: list[Node]
    outputs: list[str]
    constants: dict[str, np.ndarray]


def read_onnx(path: str | os.PathLike) -> OnnxContents:
    """Read a file, and the files beside it that hold its weights.

    Raises:
      ReadingError: no onnx, no such file, a damaged one or none of ONNX, weights that
        are missing, operators of a version before 7.
    """
    onnx = _onnx()
    path = Path(path)
    model = _model(onnx, path)
    version = max((o.version for o in model.opset_import if not o.domain), default=0)
    if version < OLDEST:
        raise ReadingError(
            f"{path}: operators of version {version}; expected {OLDEST} or newer: "
            "convert it with onnx.version_converter"
        )
    try:
        return _contents(onnx, model.graph, version)
    except ReadingError as error:
        raise ReadingError(f"{path}: {error}") from error
    except Exception as error:  # what onnx and NumPy say of numbers that do not fit
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ReadingError(f"{path}: damaged: {reason:.200}") from error


def _onnx() -> Any:
    try:
        import onnx
        import onnx.external_data_helper
        import onnx.inliner
        import onnx.numpy_helper
    except ImportError as error:
        raise ReadingError(
            "from_onnx needs onnx, which is not installed: pip install "
            "'bitsnn-jax[onnx]'"
        ) from error
    return onnx


def _model(onnx, path: Path) -> Any:
    """Read the file; weights that are kept beside it, too."""
    if not path.is_file():
        raise ReadingError(f"{path}: expected a file of ONNX, found none")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # of protobuf
        raise ReadingError(
            f"{path}: no file of ONNX, or a damaged one: export it again"
        ) from error
    if not model.graph.node:
        raise ReadingError(f"{path}: no file of ONNX: it holds no nodes")
    try:
        onnx.external_data_helper.load_external_data_for_model(model, str(path.parent))
    except Exception as error:  # missing, too short, or outside of the folder
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ReadingError(
            f"{path}: the files with its weights cannot be read ({reason:.200}): put "
            "them beside it"
        ) from error
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    return model


def _contents(onnx, graph, version: int) -> OnnxContents:
    constants = {t.name: _array(onnx, t) for t in graph.initializer}
    if graph.sparse_initializer:
        raise ReadingError("sparse weights are not read: store them dense")
    nodes: list[Node] = []
    for proto in graph.node:
        attributes, tensor = _attributes(onnx, proto)
        if proto.op_type == "Constant":
            value = next(iter(attributes.values())) if tensor is None else tensor
            constants[proto.output[0]] = np.asarray(value)
        elif proto.op_type == "Identity" and proto.input[0] in constants:
            constants[proto.output[0]] = constants[proto.input[0]]
        else:
            if tensor is not None and proto.op_type == "ConstantOfShape":
                attributes |= {"value": tensor.item(), "dtype": str(tensor.dtype)}
            nodes.append(_node(onnx, proto, attributes, version))
    inputs = [_input(onnx, v) for v in graph.input if v.name not in constants]
    _check_order(nodes, {*constants, *(each.name for each in inputs)}, graph.output)
    return OnnxContents(inputs, nodes, [v.name for v in graph.output], constants)


def _array(onnx, tensor) -> np.ndarray:
    array = onnx.numpy_helper.to_array(tensor)
    # Types below float32 are widened: JAX computes in one floating type.
    narrow = ("float16", "bfloat16")
    return array.astype(np.float32) if array.dtype.name in narrow else array


def _attributes(onnx, proto) -> tuple[dict[str, Attribute], np.ndarray | None]:
    """Return the attributes of a node, and its tensor if it has one."""
    found: dict[str, Attribute] = {}
    tensor = None
    for attribute in proto.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, onnx.TensorProto):
            tensor = _array(onnx, value)
        elif isinstance(value, onnx.GraphProto):
            found[attribute.name] = "graph"  # of control flow, which is refused
        elif isinstance(value, bytes):
            found[attribute.name] = value.decode()
        elif isinstance(value, (int, float)):
            found[attribute.name] = value
        else:
            plain = [v.decode() if isinstance(v, bytes) else v for v in value]
            found[attribute.name] = plain
    return found, tensor


def _node(onnx, proto, attributes: dict[str, Attribute], version: int) -> Node:
    operator = proto.op_type
    if proto.domain not in ("", "ai.onnx"):
        operator = f"{proto.domain}.{operator}"
    if operator == "Resize" and version < 11:
        operator = "Upsample"
    if operator in ("Softmax", "LogSoftmax") and version < 13:
        attributes = {"axis": 1, **attributes, "flattened": 1}
    if operator in ("Cast", "CastLike") and "to" in attributes:
        attributes = {**attributes, "to": _type_name(onnx, attributes["to"])}
    if operator == "Split" and version < 18 and len(proto.input) < 2:
        attributes.setdefault("num_outputs", len(proto.output))
        if "split" in attributes:
            attributes.pop("num_outputs")
    notes: Mapping[str, str] = {p.key: p.value for p in proto.metadata_props}
    return Node(
        operator,
        node_path(proto.name, proto.op_type, notes),
        list(proto.input),
        list(proto.output),
        attributes,
    )


def _type_name(onnx, number: Any) -> str:
    name = onnx.helper.tensor_dtype_to_np_dtype(number).name
    return "float32" if name in ("float16", "bfloat16") else name


def _input(onnx, value) -> Input:
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        raise ReadingError(f"input {value.name} is no tensor")
    sizes = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
    return Input(value.name, sizes, _type_name(onnx, tensor.elem_type))


def _check_order(nodes, known: set[str], outputs) -> None:
    """Raise ReadingError if a node uses what no node before it makes."""
    for node in nodes:
        if missing := set(node.inputs) - known - {""}:
            raise ReadingError(
                f"damaged: {node.operator} in {node.scope} uses {min(missing)}, which "
                "nothing before it makes"
            )
        known |= set(node.outputs)
    if missing := {v.name for v in outputs} - known:
        raise ReadingError(f"damaged: nothing makes the output {min(missing)}")
