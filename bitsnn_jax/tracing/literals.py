"""Numbers that a program itself says, before it is given any variable.

The end of a loop, the branch of a `cond`, the 0 and the 6 of a clip. They are followed
beside the values of a reading, for operations on scalars and for moves.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, jaxpr_as_fun
from jax.interpreters.partial_eval import dce_jaxpr

from bitsnn_jax.tracing.equations import apply_equation
from bitsnn_jax.tracing.linearity import MOVES
from bitsnn_jax.tracing.values import Constant, Waiting


def literal(atom: Literal) -> Constant:
    """Make a constant of a number in the program."""
    aval: Any = atom.aval
    return Constant(atom.val, number=np.asarray(atom.val, aval.dtype))


def number(value: Waiting) -> np.ndarray | None:
    """Return the number that a value is known to be."""
    return value.number if isinstance(value, Constant) else None


def with_number(
    eqn: JaxprEqn, values: Sequence[Waiting], outputs: Sequence[Waiting]
) -> Sequence[Waiting]:
    """Return `outputs` of `eqn`, with the number of a result that is known to be one.

    Args:
      eqn: the operation.
      values: what it was given.
      outputs: what a reading has made of it.
    """
    numbers = [number(v) for v in values]
    if len(outputs) != 1 or not numbers or any(n is None for n in numbers):
        return outputs
    [output] = outputs
    if not isinstance(output, Constant) or output.number is not None:
        return outputs
    result = _number_of(eqn, numbers)
    if result is None:
        return outputs
    return [dataclasses.replace(output, number=np.asarray(result))]


def _number_of(eqn, numbers):
    """Apply the operation to numbers; None unless the result is one number."""
    aval = eqn.outvars[0].aval
    if eqn.effects or not isinstance(aval.dtype, np.dtype):  # as of a random key
        return None
    if eqn.primitive.name == "pvary":  # only says that devices may differ in it
        return numbers[0]
    if aval.shape == () and all(v.aval.shape == () for v in eqn.invars):
        with jax.core.eval_context():
            [result] = apply_equation(eqn, numbers)
        return result
    # Moved or repeated, a number is the same.
    is_moved = eqn.primitive.name in MOVES and len(numbers) == 1
    return numbers[0] if is_moved else None


def known_result(program: ClosedJaxpr, values: Sequence[Waiting]) -> np.ndarray | None:
    """Run a program with one result, if all that the result needs is known."""
    jaxpr, used = dce_jaxpr(program.jaxpr, [True])
    numbers = [number(v) for v, u in zip(values, used, strict=True) if u]
    if program.consts or any(n is None for n in numbers):
        return None
    with jax.core.eval_context():
        [result] = jaxpr_as_fun(ClosedJaxpr(jaxpr, ()))(*numbers)
    return np.asarray(result)
