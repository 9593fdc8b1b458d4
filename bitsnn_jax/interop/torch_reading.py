"""From a program of `torch.export` to one of ours."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from bitsnn_jax.interop.program_inputs import Input
from bitsnn_jax.interop.torch_program import (
    OPERATORS,
    Argument,
    DType,
    Items,
    Program,
    Ref,
    Step,
    TorchModule,
    encoded,
)

Variables = dict[str, np.ndarray]
# Options that say where a tensor lies, which JAX decides.
_PLACES = frozenset("device layout memory_format non_blocking pin_memory".split())


def read_exported(
    torch: Any, exported: Any, input_keys: list[str] | None = None
) -> tuple[TorchModule, Variables]:
    """Read an exported program as (apply_fn, variables).

    Args:
      torch: the package, which this file does not import.
      exported: a `torch.export.ExportedProgram` in the operators of `OPERATORS`.
      input_keys: of the dictionary that it takes.

    Raises:
      ValueError: operators without a JAX form.
    """
    signature = exported.graph_signature
    held = {**exported.constants, **exported.state_dict}
    nodes = {node.name: node for node in exported.graph.nodes}
    inputs, tensors = [], {}
    for spec in signature.input_specs:
        if spec.kind.name == "USER_INPUT":
            inputs.append(_input(nodes[spec.arg.name]))
        elif isinstance(held.get(spec.target), torch.Tensor):
            tensors[spec.arg.name] = spec.target
    [returned] = [node for node in nodes.values() if node.op == "output"]
    outputs = [
        _argument(torch, value)
        for value, spec in zip(returned.args[0], signature.output_specs, strict=True)
        if spec.kind.name == "USER_OUTPUT"
    ]
    steps = _needed(_steps(torch, nodes.values()), outputs)
    _check_operators(steps)
    used = _names(outputs).union(*map(_used, steps))
    tensors = {name: target for name, target in tensors.items() if name in used}
    arrays = {target: _array(torch, held[target]) for target in tensors.values()}
    variables = {k: a for k, a in arrays.items() if np.issubdtype(a.dtype, np.floating)}
    constants = {k: a for k, a in arrays.items() if k not in variables}
    program = Program(
        inputs=inputs,
        tensors=tensors,
        steps=steps,
        outputs=outputs,
        keys=_keys(exported.call_spec.out_spec, len(outputs)),
        input_keys=input_keys,
    )
    return TorchModule(program, constants), variables


def _input(node) -> Input:
    value = node.meta["val"]
    shape = [n if isinstance(n, int) else None for n in value.shape]
    return Input(node.name, shape, str(value.dtype).removeprefix("torch."))


def _steps(torch, nodes) -> list[Step]:
    return [
        Step(
            name=node.name,
            operator=_operator(node.target),
            scope=_scope(node),
            arguments=[_argument(torch, a) for a in node.args],
            options={
                name: _argument(torch, a)
                for name, a in node.kwargs.items()
                if name not in _PLACES
            },
        )
        for node in nodes
        if node.op == "call_function"
    ]


def _operator(target) -> str:
    """Name an operator as `OPERATORS` does."""
    if hasattr(target, "_schema"):
        return str(target)
    module = getattr(target, "__module__", "").lstrip("_")
    return f"{module}.{getattr(target, '__name__', target)}"


def _scope(node) -> str:
    """Name the module that a node stands in; at the top, the operator itself."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    # The second call of a module is named path@1; neurons count for themselves.
    path = paths[-1].split("@")[0].replace("/", ".") if paths else ""
    return path or _operator(node.target).split(".")[1].strip("_")


def _argument(torch, value) -> Argument:
    if isinstance(value, torch.fx.Node):
        return Ref(value.name)
    if isinstance(value, (tuple, list)):
        return Items([_argument(torch, v) for v in value])
    if isinstance(value, torch.dtype):
        return DType(str(value).removeprefix("torch."))
    if isinstance(value, (torch.device, torch.layout, torch.memory_format)):
        return None
    return encoded(value)


def _names(arguments: Iterable[Argument]) -> set[str]:
    """List the values that arguments refer to."""
    names = set()
    for argument in arguments:
        if isinstance(argument, Ref):
            names.add(argument.name)
        elif isinstance(argument, Items):
            names |= _names(argument.items)
    return names


def _used(step: Step) -> set[str]:
    return _names([*step.arguments, *step.options.values()])


def _needed(steps: list[Step], outputs: list[Argument]) -> list[Step]:
    """Leave out steps that no output needs, such as checks of sizes."""
    needed, kept = _names(outputs), []
    for step in reversed(steps):
        if step.name in needed:
            needed |= _used(step)
            kept.append(step)
    return kept[::-1]


def _check_operators(steps: list[Step]) -> None:
    unknown: dict[str, str] = {}
    for step in steps:
        if step.operator not in OPERATORS:
            unknown.setdefault(step.operator, step.scope)
    if unknown:
        found = ", ".join(f"{name} in {scope}" for name, scope in unknown.items())
        raise ValueError(
            f"the module has operators without a JAX form: {found}; replace them, or "
            "leave that part out"
        )


def _keys(spec, count: int) -> list[str] | None:
    """List the keys of a dictionary of tensors that the module returns."""
    context = spec.context
    keys = list(context) if isinstance(context, (list, tuple)) else []
    if count == 1 or len(keys) != count or not all(isinstance(k, str) for k in keys):
        return None
    return keys


def _array(torch, tensor) -> np.ndarray:
    """Copy a tensor; floats narrower than float32 become float32."""
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point() and tensor.itemsize < 4:
        tensor = tensor.float()
    return np.array(tensor.numpy())
