"""Equations of a jaxpr: where they stand, what is inside them, how they are done."""

import contextlib
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, JaxprEqn

# The parameter that holds the body of a call.
BODIES = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}
# Entered only for the neurons in them, since entering loses their own gradient.
OPAQUE_CALLS = ("custom_jvp_call", "custom_vjp_call")


def apply_equation(eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """Do the operation of `eqn` on arrays. Always a list."""
    params = eqn.primitive.get_bind_params(eqn.params)
    result = eqn.primitive.bind(*values, **params)
    return list(result) if eqn.primitive.multiple_results else [result]


def at_precision(eqn: JaxprEqn, precision: Any) -> JaxprEqn:
    """Give the operation this precision, if it has one and asks for none itself."""
    if precision is None or eqn.params.get("precision", precision) is not None:
        return eqn
    asked = {"precision": (precision, precision)}
    return eqn.replace(params=eqn.params | asked)


def shape_of(atom: Any) -> tuple[int, ...]:
    """Return the shape of an operand or a result of an equation."""
    return atom.aval.shape


def body(eqn: JaxprEqn) -> ClosedJaxpr | None:
    """Return the program that a call runs; None for what is no call."""
    param = BODIES.get(eqn.primitive.name)
    return None if param is None else _closed(eqn.params[param])


def parts(eqn: JaxprEqn) -> list[ClosedJaxpr]:
    """List the programs in an operation: a call's body, the branches of a `cond`."""
    programs = []
    for value in eqn.params.values():
        items = value if isinstance(value, (tuple, list)) else (value,)
        programs += [_closed(v) for v in items if hasattr(v, "eqns")]
    return programs


def parts_of_scan(eqn: JaxprEqn) -> tuple[int, int]:
    """Return how many operands of a `scan` are fixed, and how many are its carry.

    The rest are shared out, an entry for each iteration: by this, an axis more outside
    than inside, they are known in every version of JAX.
    """
    [inside] = parts(eqn)

    def shared(outer, inner):
        pairs = zip(outer, inner, strict=True)
        return sum(len(shape_of(a)) > len(shape_of(b)) for a, b in pairs)

    layers = shared(eqn.invars, inside.jaxpr.invars)
    stacked = shared(eqn.outvars, inside.jaxpr.outvars)
    carry = len(eqn.outvars) - stacked
    return len(eqn.invars) - layers - carry, carry


def _closed(jaxpr) -> ClosedJaxpr:
    return jaxpr if isinstance(jaxpr, ClosedJaxpr) else ClosedJaxpr(jaxpr, ())


def module_path(eqn: JaxprEqn) -> tuple[str, ...]:
    """List the modules that an operation stands in, as its own program tells."""
    # Transformations wrap names, as in "vmap(Dense)"; what stands in them is the same.
    stack = re.sub(r"\w+\(|\)", "", str(eqn.source_info.name_stack))
    return tuple(name for name in stack.split("/") if name)


def named(scope: tuple[str, ...]) -> contextlib.AbstractContextManager:
    """Name operations after their modules again, for those who trace a reading."""
    return jax.named_scope("/".join(scope)) if scope else contextlib.nullcontext()
