"""Control flow with neurons in it, written out: each iteration, the branch taken.

Every rule is given `interpret`, which runs a program on values of a reading. None from
a rule: what it asks cannot be known when the program is traced.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn

from bitsnn_jax.tracing.equations import parts_of_scan
from bitsnn_jax.tracing.literals import known_result, number
from bitsnn_jax.tracing.values import Constant, Waiting

Scope = tuple[str, ...]


class Interpret(Protocol):
    """Run a program, whose modules stand in those of `scope`, on values."""

    def __call__(
        self, program: ClosedJaxpr, inputs: Sequence[Waiting], scope: Scope
    ) -> list[Waiting]: ...


def unrolled_scan(
    interpret: Interpret, eqn: JaxprEqn, values: Sequence[Waiting], scope: Scope
) -> list[Waiting]:
    """Run the body of a scan once for each layer."""
    p = eqn.params
    num_fixed, num_carry = parts_of_scan(eqn)
    fixed, carry = values[:num_fixed], values[num_fixed : num_fixed + num_carry]
    layers = values[num_fixed + num_carry :]
    avals = [v.aval for v in eqn.invars[num_fixed + num_carry :]]
    results = []
    for i in reversed(range(p["length"])) if p["reverse"] else range(p["length"]):
        inputs = [
            _call(interpret, lambda x, i=i: x[i], [aval], [layer], scope)
            for aval, layer in zip(avals, layers, strict=True)
        ]
        inputs = [*fixed, *carry, *inputs]
        outputs = interpret(p["jaxpr"], inputs, (*scope, f"{i}"))
        carry = outputs[:num_carry]
        results.append(outputs[num_carry:])
    if p["reverse"]:
        results.reverse()
    avals = [v.aval for v in p["jaxpr"].jaxpr.outvars[num_carry:]]
    return [*carry, *_stacked(interpret, results, avals, scope)]


def _stacked(interpret, results, avals, scope):
    """Stack the results of all iterations, one array for each."""
    if not results:
        return [Constant(jnp.zeros((0, *aval.shape), aval.dtype)) for aval in avals]
    return [
        _call(interpret, lambda *xs: jnp.stack(xs), [aval] * len(of_all), of_all, scope)
        for aval, of_all in zip(avals, zip(*results, strict=True), strict=True)
    ]


def _call(interpret, fn, avals, values, scope):
    """Apply `fn` of arrays to values of a reading."""
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals]
    return interpret(jax.make_jaxpr(fn)(*shapes), list(values), scope)[0]


def taken_branch(
    interpret: Interpret, eqn: JaxprEqn, values: Sequence[Waiting], scope: Scope
) -> list[Waiting] | None:
    """Run the branch of a `cond` or `switch` that the program has decided for."""
    index, *operands = values
    known = number(index)
    if known is None:
        return None
    branches = eqn.params["branches"]
    taken = int(np.clip(known, 0, len(branches) - 1))
    return interpret(branches[taken], operands, scope)


def unrolled_while(
    interpret: Interpret, eqn: JaxprEqn, values: Sequence[Waiting], scope: Scope
) -> Sequence[Waiting] | None:
    """Run the body of a loop whose length the program knows, each time.

    The iterations are numbered as those of a scan.
    """
    p = eqn.params
    ends = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
    asked, fixed, carry = values[: ends[0]], values[slice(*ends)], values[ends[1] :]
    count = 0
    while True:
        goes_on = known_result(p["cond_jaxpr"], [*asked, *carry])
        if goes_on is None:
            return None
        if not goes_on:
            return carry
        carry = interpret(p["body_jaxpr"], [*fixed, *carry], (*scope, f"{count}"))
        count += 1


CONTROL_FLOW: dict[str, Callable[..., Sequence[Waiting] | None]] = {
    "scan": unrolled_scan,
    "cond": taken_branch,
    "while": unrolled_while,
}
