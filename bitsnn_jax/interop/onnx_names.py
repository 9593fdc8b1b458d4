"""Names for the nodes and weights of an ONNX file: dotted paths of modules."""

import ast
import re
from collections.abc import Container, Mapping

# What PyTorch's exporter notes about a node: the modules that it stands in, then the
# operation.
SCOPES = "pkg.torch.onnx.name_scopes"
# Names that exporters make up for what has none.
_MADE_UP = re.compile(r"onnx::.*|_?v_\d+|val_\d+|\d+|.*Constant(_\d+)?_output_\d+")
_NORM = {1: "weight", 2: "bias", 3: "running_mean", 4: "running_var"}
_ROLES = {
    "Add": {0: "bias", 1: "bias"},
    "BatchNormalization": _NORM,
    "PRelu": {1: "slope"},
}


def node_path(name: str, operator: str, notes: Mapping[str, str]) -> str:
    """Name the module that a node stands in, or the node if none is known.

    Args:
      name: of the node; exporters write the modules into it.
      operator: that the node does.
      notes: `metadata_props` of the node.

    >>> node_path("/layer1/layer1.0/relu/Relu", "Relu", {})
    'layer1.0.relu'
    >>> node_path("/net/layer1/layer1.0/conv/Conv_3", "Conv", {})
    'net.layer1.0.conv'
    >>> node_path("node_relu_1", "Relu", {SCOPES: "['', 'layer1.0', 'relu_1']"})
    'layer1.0'
    >>> node_path("", "Relu", {})
    'Relu'
    """
    parts = _noted(notes) or [part for part in name.split("/") if part]
    if len(parts) > 1 and re.fullmatch(rf"{operator}(_\d+)?", parts[-1]):
        parts.pop()
    path, before = "", ""
    for part in parts:  # those in a list repeat its name: layer1, layer1.0
        repeats = bool(before) and part.startswith(f"{before}.")
        new = part.removeprefix(before) if repeats else f".{part}"
        path, before = path + new, part
    path = path.removeprefix(".")
    return re.sub(r"[()]", "", path) or operator


def _noted(notes: Mapping[str, str]) -> list[str]:
    """List the modules of a node, the innermost last; none if nothing is noted."""
    try:
        scopes = ast.literal_eval(notes.get(SCOPES, "[]"))
        *modules, _ = [str(scope) for scope in scopes if scope]
    except (ValueError, SyntaxError, TypeError):  # other programs write it too
        return []
    return modules[-1:]


def weight_name(name: str, operator: str, position: int, path: str) -> str:
    """Name a weight after the node that uses it, unless the file has a name for it.

    >>> weight_name("onnx::Conv_117", "Conv", 1, "layer1.0.conv1")
    'layer1.0.conv1.weight'
    >>> weight_name("fc.bias", "Gemm", 2, "fc")
    'fc.bias'
    """
    name = re.sub(r"_DequantizeLinear_Output.*", "", name)
    if not _MADE_UP.fullmatch(name):
        return name
    roles = _ROLES.get(operator, {0: "weight", 1: "weight", 2: "bias"})
    return f"{path}.{roles.get(position, f'input_{position}')}"


def unused(name: str, taken: Container[str]) -> str:
    """Return the name, with a number behind it if it is taken.

    >>> unused("bias", {"bias"})
    'bias@2'
    """
    count = 2
    new = name
    while new in taken:
        new, count = f"{name}@{count}", count + 1
    return new
