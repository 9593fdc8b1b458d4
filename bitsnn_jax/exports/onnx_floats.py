"""The network before its conversion, in floats, as an ONNX file.

jax2onnx turns the operations of JAX into those of ONNX. QCFS is a primitive of this
package, so it is written out first: divide, add 1/2, floor, clip, multiply. Another
program adds up floats in another order, so a few codes may be a step apart. Integers
are exact: `onnx_writer` writes them.

Needs the package `jax2onnx`: the extra `jax2onnx`.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from jax import lax
from jax.extend.core import ClosedJaxpr, JaxprEqn
from jax2onnx import to_onnx

from bitsnn_jax.numerics.convolutions import convolution_p
from bitsnn_jax.numerics.mixing import FORWARD
from bitsnn_jax.numerics.qcfs import qcfs_forward, qcfs_p
from bitsnn_jax.runtime.files import write_files
from bitsnn_jax.tracing.equations import apply_equation, body, parts


class OnnxFloatsError(ValueError):
    """A network that cannot be written."""


def write(
    path: str | os.PathLike,
    apply_fn: Callable[[Any, Any], Any],
    variables: Any,
    example: Any,
    *,
    activations: bool = False,
    opset: int = 21,
) -> None:
    """Write a network of floats as an ONNX file for any batch size.

    The model takes `input`, float32 [n, ...], and returns `output_0` and so on, the
    leaves of what `apply_fn` returns.

    Args:
      path: of the file.
      apply_fn: (variables, x) -> arrays with a batch axis.
      variables: constants of the file.
      example: float32 [n, ...], or its `jax.ShapeDtypeStruct`; n does not matter.
      activations: also return what each QCFS returns, as `activation_0` and so on, in
        the order of computation.
      opset: version of ONNX's operators.

    Raises:
      OnnxFloatsError: an example of another type, neurons in a loop, or an operation
        that jax2onnx does not know. Nothing is written then.
    """
    path = Path(path)
    if str(example.dtype) != "float32":
        raise OnnxFloatsError(f"the example must be float32, got {example.dtype}")
    program = Program(apply_fn, variables, example, activations=activations)
    jax.eval_shape(program, jax.ShapeDtypeStruct(example.shape, "float32"))
    try:
        model = to_onnx(
            program,
            [("B", *example.shape[1:])],
            model_name="bitsnn",
            opset=opset,
            input_names=["input"],
            output_names=program.names,
        )
    except OnnxFloatsError:
        raise
    except Exception as error:  # jax2onnx has no class of its own for them
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise OnnxFloatsError(
            f"{path}: jax2onnx cannot write this network: {reason:.300}"
        ) from error
    write_files({path.name: model.SerializeToString()}, path.parent)


class Program:
    """A function of x, the one that `write` writes, without primitives of this package.

    Its results are the leaves of those of `apply_fn` and, if asked for, what each QCFS
    returns. Arguments are those of `write`.
    """

    def __init__(self, apply_fn, variables, example, *, activations: bool = False):
        self.fn, self.activations = lambda x: apply_fn(variables, x), activations
        self.seen: list[Any] = []
        self.names: list[str] = []  # of the results of the last call
        # While it works, jax2onnx has modules of Flax do operations of its own.
        one = jax.ShapeDtypeStruct((1, *example.shape[1:]), "float32")
        self.of_one = jax.make_jaxpr(self.fn)(one)

    def __call__(self, x: jax.Array) -> tuple[Any, ...]:
        try:
            program = jax.make_jaxpr(self.fn)(x)
        except Exception:  # a network may ask for a size that an open batch has not
            return self._mapped(x)
        return self._results(program, x)

    def _mapped(self, x: jax.Array) -> tuple[Any, ...]:
        """Map the program of one example over the batch; ONNX has more nodes then."""

        def run(example):
            return [array[0] for array in self._results(self.of_one, example[None])]

        return tuple(jax.vmap(run)(x))

    def _results(self, program: ClosedJaxpr, x: Any) -> tuple[Any, ...]:
        self.seen = []
        results = self._run(program, [x])
        seen = self.seen if self.activations else []
        self.names = [f"output_{i}" for i in range(len(results))]
        self.names += [f"activation_{i}" for i in range(len(seen))]
        return (*results, *seen)

    def _run(self, program: ClosedJaxpr, args: Sequence[Any]) -> list[Any]:
        jaxpr = program.jaxpr
        values = dict(zip(jaxpr.constvars, program.consts, strict=True))
        values |= dict(zip(jaxpr.invars, args, strict=True))

        def value(atom):
            return atom.val if hasattr(atom, "val") else values[atom]

        for eqn in jaxpr.eqns:
            results = self._done(eqn, [value(atom) for atom in eqn.invars])
            values |= dict(zip(eqn.outvars, results, strict=True))
        return [value(atom) for atom in jaxpr.outvars]

    def _done(self, eqn: JaxprEqn, args: list[Any]) -> list[Any]:
        if eqn.primitive is qcfs_p:
            self.seen.append(qcfs_forward(*args, **eqn.params))
            return self.seen[-1:]
        if eqn.primitive in FORWARD:
            return [FORWARD[eqn.primitive](*args, **eqn.params)]
        if eqn.primitive is convolution_p:
            return [lax.conv_general_dilated_p.bind(*args, **eqn.params)]
        if eqn.primitive.name == "platform_index":
            return [0]
        if eqn.params.get("branches_platforms"):  # all compute the same
            return self._run(eqn.params["branches"][-1], args[1:])
        inside = body(eqn)
        if inside is not None:
            return self._run(inside, args)
        if any(map(_has_own, parts(eqn))):
            raise OnnxFloatsError(
                f"operations of this package in a {eqn.primitive.name} cannot be "
                "written: write the loop out in Python"
            )
        return apply_equation(eqn, args)


def _has_own(program: ClosedJaxpr) -> bool:
    return any(
        eqn.primitive in (qcfs_p, convolution_p, *FORWARD)
        or any(map(_has_own, parts(eqn)))
        for eqn in program.jaxpr.eqns
    )
