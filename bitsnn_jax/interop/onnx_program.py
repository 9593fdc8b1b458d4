"""An ONNX file as data: the nodes of its program, run by JAX functions.

`from_onnx` makes such a program. It needs no onnx to run, can be pickled, and is stored
as JSON: it names operators, and holds no code.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from msgspec import structs

from bitsnn_jax.interop.onnx_layers import LAYERS
from bitsnn_jax.interop.onnx_nodes import Node, Program
from bitsnn_jax.interop.onnx_pointwise import POINTWISE
from bitsnn_jax.interop.onnx_quantised import QUANTISED
from bitsnn_jax.interop.onnx_resize import RESIZE
from bitsnn_jax.interop.onnx_shapes import SHAPES
from bitsnn_jax.interop.onnx_statistics import STATISTICS
from bitsnn_jax.interop.onnx_values import is_known
from bitsnn_jax.interop.program_inputs import Input, check_inputs, floating_type

# The JAX form of each operator that has one.
OPERATORS: dict[str, Callable[..., Any]] = {
    **LAYERS,
    **POINTWISE,
    **QUANTISED,
    **RESIZE,
    **SHAPES,
    **STATISTICS,
}


@dataclass(frozen=True, eq=False)
class OnnxNetwork:
    """Run a program: (variables, x) -> output.

    All floating values have one type, that of the variables and inputs together, also
    where the file asks for float32 or float16 in so many words. Thus float64 is float64
    from end to end. Products are not rounded, as a GPU does to TF32.

    Attributes:
      program: its nodes.
      constants: arrays that are no variables, such as sizes, by name.
    """

    program: Program
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __call__(self, variables: Mapping[str, Any], x: Any) -> Any:
        inputs = self._inputs(x)
        needed = {name for node in self.program.nodes for name in node.inputs}
        needed -= {name for node in self.program.nodes for name in node.outputs}
        needed -= {*self.constants, *(each.name for each in self.program.inputs), ""}
        if missing := needed - variables.keys():
            raise ValueError(
                f"variables must hold {min(missing)}, as those of from_onnx do; got "
                f"{', '.join(list(variables)[:3]) or 'none'}"
            )
        count = np.shape(inputs[0])[0] if np.ndim(inputs[0]) else 1
        if self.program.batch == "mapped" and count != 1:
            outputs = jax.vmap(
                lambda *one: self._run(variables, [a[None] for a in one])
            )(*inputs)
            outputs = [y[:, 0] if y.shape[1:2] == (1,) else y for y in outputs]
        else:
            outputs = self._run(variables, inputs)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _run(self, variables, inputs) -> list[Any]:
        floating = floating_type([*variables.values(), *inputs])
        values: dict[str, Any] = {"": None}
        for name, array in self.constants.items():
            is_float = np.issubdtype(array.dtype, np.floating)
            values[name] = array.astype(floating) if is_float else array
        values |= {name: _as(floating, a) for name, a in variables.items()}
        for each, array in zip(self.program.inputs, inputs, strict=True):
            is_float = np.issubdtype(np.dtype(each.dtype), np.floating)
            array = jnp.asarray(array)
            values[each.name] = array.astype(floating) if is_float else array
        with jax.default_matmul_precision("highest"):
            for node in self.program.nodes:
                results = _done(node, [values[name] for name in node.inputs])
                values |= zip(node.outputs, results, strict=False)
        return [jnp.asarray(values[name]) for name in self.program.outputs]

    def _inputs(self, x) -> list[Any]:
        """Check the inputs, and list them."""
        expected = self.program.inputs
        if isinstance(x, Mapping):
            names = [each.name for each in expected]
            if sorted(x) != sorted(names):
                raise ValueError(
                    f"this network takes inputs of the names {', '.join(names)}; got "
                    f"{', '.join(map(str, x)) or 'none'}"
                )
            given = [x[name] for name in names]
        else:
            given = list(x) if isinstance(x, (tuple, list)) else [x]
        if self.program.batch != "fixed":
            expected = [_of_any_batch(each) for each in expected]
        check_inputs(expected, given, said="that the file says")
        return given


def _of_any_batch(each: Input) -> Input:
    return structs.replace(each, shape=[None] * bool(each.shape) + each.shape[1:])


def _as(floating, array) -> Any:
    array = jnp.asarray(array)
    return array.astype(floating) if array.dtype != floating else array


def _done(node: Node, operands: Sequence[Any]) -> Sequence[Any]:
    try:
        with jax.named_scope(f"network/{node.scope}"):
            result = OPERATORS[node.operator](*operands, **node.attributes)
    except (ValueError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{node.operator} in {node.scope} fails: {reason:.300}"
        ) from error
    results = result if isinstance(result, (tuple, list)) else [result]
    return [np.asarray(y) if is_known(y) else y for y in results]
