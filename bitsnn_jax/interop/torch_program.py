"""A PyTorch module as data: the steps of its program, run by JAX functions.

`from_torch` makes such a program. It needs no torch to run, can be pickled, and is
stored as JSON: it names operators of PyTorch, and holds no code.
"""

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from msgspec import Struct

from bitsnn_jax.interop.program_inputs import Input, check_inputs, floating_type
from bitsnn_jax.interop.torch_activations import ACTIVATIONS
from bitsnn_jax.interop.torch_arithmetic import ARITHMETIC
from bitsnn_jax.interop.torch_layers import LAYERS
from bitsnn_jax.interop.torch_makers import MAKERS
from bitsnn_jax.interop.torch_shapes import SHAPES

# The JAX form of each operator that has one.
OPERATORS: dict[str, Callable[..., Any]] = {
    **ACTIVATIONS,
    **ARITHMETIC,
    **LAYERS,
    **MAKERS,
    **SHAPES,
}


class Ref(Struct, frozen=True, tag=True):
    """The result of an earlier step, or an input."""

    name: str


class DType(Struct, frozen=True, tag=True):
    """A type of PyTorch, by its name there."""

    name: str


class Number(Struct, frozen=True, tag=True):
    """A number that JSON does not have: inf, -inf or nan."""

    text: str


class Items(Struct, frozen=True, tag=True):
    """Several arguments in one."""

    items: list["Argument"]


Argument = None | bool | int | float | str | Ref | DType | Number | Items


class Step(Struct, frozen=True):
    """One operation.

    Attributes:
      name: of its result.
      operator: a name in `OPERATORS`.
      scope: dotted path of the module that it stands in.
      arguments, options: in order and by name.
    """

    name: str
    operator: str
    scope: str
    arguments: list[Argument]
    options: dict[str, Argument]


class Program(Struct, frozen=True):
    """The steps of a module in inference.

    Attributes:
      inputs: what it takes.
      tensors: for each name of a value the variable or constant that it is.
      steps: in order.
      outputs: what it returns.
      keys: of the dictionary that it returns; None for one array or a tuple.
      input_keys: of the dictionary that it takes, likewise.
    """

    inputs: list[Input]
    tensors: dict[str, str]
    steps: list[Step]
    outputs: list[Argument]
    keys: list[str] | None = None
    input_keys: list[str] | None = None


@dataclass(frozen=True, eq=False)
class TorchModule:
    """Run a program: (variables, x) -> output.

    All floating values have one type, that of the variables and inputs together, also
    where the module asks for float32 or float16 in so many words. Thus float64 is
    float64 from end to end. Products are not rounded, as a GPU does to TF32.

    Attributes:
      program: its steps.
      constants: arrays that are no variables, such as indices, by name.
    """

    program: Program
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __call__(self, variables: Mapping[str, Any], x: Any) -> Any:
        program = self.program
        inputs = self._inputs(x)
        with jax.ensure_compile_time_eval():  # numbers, also while this is traced
            constants = {name: jnp.asarray(a) for name, a in self.constants.items()}
        tensors = {**constants, **variables}
        values: dict[str, Any] = {}
        for name, tensor in program.tensors.items():
            if tensor not in tensors:
                raise ValueError(
                    f"variables must hold {tensor}, as those of from_torch do; got "
                    f"{', '.join(list(variables)[:3]) or 'none'}"
                )
            values[name] = tensors[tensor]
        floating = floating_type([*(values[n] for n in program.tensors), *inputs])
        values |= zip((each.name for each in program.inputs), inputs, strict=True)
        with jax.default_matmul_precision("highest"):
            for step in program.steps:
                values[step.name] = _done(step, values, floating)
        outputs = [_value(output, values, floating) for output in program.outputs]
        if program.keys is not None:
            return dict(zip(program.keys, outputs, strict=True))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _inputs(self, x) -> list[Any]:
        """Check the inputs, and list them."""
        expected = self.program.inputs
        given = list(x) if isinstance(x, (tuple, list)) else [x]
        if (keys := self.program.input_keys) is not None:
            if not isinstance(x, Mapping) or x.keys() != set(keys):
                got = list(x) if isinstance(x, Mapping) else type(x).__name__
                raise ValueError(
                    f"this network takes a dictionary of {', '.join(keys)}, got {got}"
                )
            given = [x[key] for key in keys]
        check_inputs(expected, given, said="of the example that from_torch was given")
        return given


def _done(step: Step, values: Mapping[str, Any], floating: Any) -> Any:
    """Do a step; at once if it depends on neither variables nor inputs."""
    arguments = [_value(a, values, floating) for a in step.arguments]
    options = {k: _value(a, values, floating) for k, a in step.options.items()}
    leaves = jax.tree.leaves((arguments, options))
    known = not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
    with jax.named_scope(f"network/{step.scope}"):
        with jax.ensure_compile_time_eval() if known else contextlib.nullcontext():
            return OPERATORS[step.operator](*arguments, **options)


def _value(argument: Any, values: Mapping[str, Any], floating: Any) -> Any:
    if isinstance(argument, Ref):
        return values[argument.name]
    if isinstance(argument, DType):
        return floating if "float" in argument.name else _dtype(argument.name)
    if isinstance(argument, Number):
        return float(argument.text)
    if isinstance(argument, Items):
        return [_value(a, values, floating) for a in argument.items]
    return argument


def _dtype(name: str) -> Any:
    return jax.dtypes.canonicalize_dtype(name)


def encoded(value: Any) -> Argument:
    """Write a plain value as an argument.

    >>> encoded((1, -math.inf))
    Items(items=[1, Number(text='-inf')])
    """
    if isinstance(value, float) and not math.isfinite(value):
        return Number(str(value))
    if isinstance(value, (tuple, list)):
        return Items([encoded(v) for v in value])
    return value
