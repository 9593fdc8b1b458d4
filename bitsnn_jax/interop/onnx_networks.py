"""Any network of an ONNX file, as a JAX function of its variables and inputs."""

import inspect
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import msgspec
import numpy as np

from bitsnn_jax.interop.onnx_files import read_onnx
from bitsnn_jax.interop.onnx_names import unused, weight_name
from bitsnn_jax.interop.onnx_nodes import Node, Program
from bitsnn_jax.interop.onnx_pointwise import POINTWISE
from bitsnn_jax.interop.onnx_program import OPERATORS, OnnxNetwork
from bitsnn_jax.interop.onnx_quantised import (
    QuantisedFileError,
    without_quantised_types,
)
from bitsnn_jax.interop.onnx_shapes import KNOWN
from bitsnn_jax.interop.program_inputs import traced
from bitsnn_jax.runtime.reading import ReadingError

Arrays = dict[str, np.ndarray]
_CONTROL_FLOW = ("If", "Loop", "Scan")
# What may have several results that are used.
_SEVERAL = ("Split",)


def from_onnx(path: str | os.PathLike) -> tuple[OnnxNetwork, Arrays]:
    """Turn an ONNX file into (apply_fn, variables).

    Neurons are named after the nodes of their activations, such as `layer1.0.relu`,
    and variables have the names that the file has for its weights. Arrays have the
    layout of the file, mostly channels first, and the input is what the file expects,
    normalised or not. A batch may have any size if the file has a symbolic first axis,
    and also if it has a fixed one that nothing depends on.

        apply_fn, variables = from_onnx("resnet18.onnx")
        quantised = quantise(apply_fn, variables, batches, levels=15)

    Quantised files in the QDQ format become networks with QCFS: their scales are
    thresholds, and `convert` takes them as they are.

    Gradient: that of JAX, with respect to variables and inputs.

    Args:
      path: of the file. Weights in files beside it are read too.

    Returns:
      apply_fn(variables, x), which can be pickled and needs no onnx, with x an array,
      or a tuple or dictionary of several; and the variables by name, NumPy arrays.

    Raises:
      ReadingError: no onnx, a file that is missing, damaged, of another kind or too
        old, weights that are missing, operators without a JAX form, all of them named.
    """
    contents = read_onnx(path)
    constants = contents.constants
    try:
        nodes, thetas = without_quantised_types(contents.nodes, constants)
    except QuantisedFileError as error:
        raise ReadingError(f"{path}: {error}") from error
    _check_operators(path, nodes, contents.outputs)
    nodes, variables = _with_variables(nodes, constants, thetas)
    used = {*(name for node in nodes for name in node.inputs), *contents.outputs}
    fixed = {k: v for k, v in constants.items() if k in used and k not in variables}
    program = Program(contents.inputs, nodes, contents.outputs)
    return _for_any_batch(program, fixed, variables), variables


def _check_operators(path, nodes: Sequence[Node], outputs: Sequence[str]) -> None:
    """Raise ReadingError if there are any without a JAX form, with all of them."""
    flow = [node for node in nodes if node.operator in _CONTROL_FLOW]
    if flow:
        raise ReadingError(
            f"{path}: {flow[0].operator} in {flow[0].scope} decides by values what is "
            "computed: export the network without control flow, or simplify it for "
            "fixed shapes"
        )
    used = {*outputs, *(name for node in nodes for name in node.inputs)}
    unknown: dict[str, str] = {}
    for node in nodes:
        if lacking := _lacking(node, used):
            unknown.setdefault(lacking, node.scope)
    if unknown:
        named = ", ".join(f"{name} (in {unknown[name]})" for name in sorted(unknown))
        raise ReadingError(
            f"{path}: no JAX form for {named}: export the network without them"
        )


def _lacking(node: Node, used: set[str]) -> str:
    """Name the operator, with what it is asked for, if it has no such form."""
    fn = OPERATORS.get(node.operator)
    if fn is None:
        return node.operator
    if node.operator not in _SEVERAL and used & {*node.outputs[1:]} - {""}:
        return f"{node.operator} with {len(node.outputs)} results"
    try:
        inspect.signature(fn).bind(*node.inputs, **node.attributes)
    except TypeError as error:
        return f"{node.operator} ({error})"
    return ""


def _with_variables(
    nodes: Sequence[Node], constants: Mapping[str, np.ndarray], thetas: set[str]
) -> tuple[list[Node], Arrays]:
    """Choose the variables among the constants, and name them.

    Biases that several nodes share become one for each, since `convert` shifts each as
    its own layer needs it.
    """
    fixed = _fixing_shapes(nodes)
    variables: Arrays = {}
    taken = {name for node in nodes for name in node.outputs}
    names: dict[str, str] = {}
    renamed = []
    for node in nodes:
        inputs = list(node.inputs)
        for i, name in enumerate(node.inputs):
            array = constants.get(name)
            if array is None or name in fixed or not _is_weight(array, node):
                continue
            if name in names and array.ndim != 1:
                inputs[i] = names[name]
                continue
            wanted = f"{node.scope}.{name.rpartition('.')[2]}"
            if name not in thetas:
                wanted = weight_name(name, node.operator, i, node.scope)
            new = names[name] = unused(wanted, taken)
            taken.add(new)
            variables[new] = np.asarray(array)
            inputs[i] = new
        renamed.append(msgspec.structs.replace(node, inputs=inputs))
    return renamed, variables


def _is_weight(array: np.ndarray, node: Node) -> bool:
    """Tell whether a constant is one that training would change."""
    if not np.issubdtype(array.dtype, np.floating):
        return False
    return (
        array.size > 1
        or node.operator == "QCFS"
        or bool(array.ndim and node.operator not in POINTWISE)
    )


def _fixing_shapes(nodes: Sequence[Node]) -> set[str]:
    """Name the values that must be known when the network is traced."""
    needed: set[str] = set()
    for node in reversed(nodes):
        places = KNOWN.get(node.operator, ())
        needed |= {node.inputs[i] for i in places if i < len(node.inputs)}
        if needed & set(node.outputs) and node.operator not in ("Shape", "Size"):
            needed |= set(node.inputs)
    return needed


def _for_any_batch(
    program: Program, constants: Arrays, variables: Arrays
) -> OnnxNetwork:
    """Find out whether a file for a fixed batch takes any other."""
    network = OnnxNetwork(program, constants)
    sizes = {each.shape[0] if each.shape else 0 for each in program.inputs}
    count = max(n or 0 for n in sizes)
    if None in sizes:
        return network
    one, more = (_shapes(network, variables, n) for n in (count, count + 1))
    if len(sizes) == 1 and one and one == more:
        return network
    is_one = sizes == {1}
    return _of_batch(program, constants, "mapped" if is_one else "fixed")


def _of_batch(program: Program, constants: Arrays, batch: Any) -> OnnxNetwork:
    return OnnxNetwork(msgspec.structs.replace(program, batch=batch), constants)


def _shapes(network: OnnxNetwork, variables: Arrays, count: int) -> Any:
    """Return the shapes of the results for each example of a batch.

    None if the batch does not go through, or a result has another.
    """
    x = tuple(
        jax.ShapeDtypeStruct(
            (count, *(2 if n is None else n for n in each.shape[1:])), each.dtype
        )
        for each in network.program.inputs
    )
    results = traced(network, variables, x)
    if results is None:
        return None
    shapes = [y.shape for y in jax.tree.leaves(results)]
    return [s[1:] for s in shapes] if all(s[:1] == (count,) for s in shapes) else None
