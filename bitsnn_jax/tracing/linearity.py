"""Tables of the operations that are linear, and in which operands.

An affine map may be applied to a spike train step by step. Operations that are not in
these two tables may not.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax.extend.core import JaxprEqn


def _first(eqn) -> tuple[int, ...]:
    return (0,)


def _all(eqn) -> tuple[int, ...]:
    return tuple(range(len(eqn.invars)))


def _unfilled(eqn) -> tuple[int, ...]:
    # A fill other than zero would be added again at each step.
    return (0,) if not eqn.params["fill_value"] else ()


def _cases(eqn) -> tuple[int, ...]:
    return tuple(range(1, len(eqn.invars)))


# Linear in these operands taken together; the others are indices, predicates, sizes.
TOGETHER: dict[str, Callable[[JaxprEqn], Sequence[int]]] = {
    "add": _all,
    "add_any": _all,
    "sub": _all,
    "neg": _all,
    "concatenate": _all,
    "pad": _all,
    "select_n": _cases,
    "broadcast_in_dim": _first,
    "convert_element_type": _first,
    "copy": _all,
    "copy_p": _all,
    "cumsum": _all,
    "dynamic_slice": _first,
    "dynamic_update_slice": lambda eqn: (0, 1),
    "expand_dims": _all,
    "gather": _unfilled,
    "optimization_barrier": _all,
    "reduce_sum": _all,
    "reduce_window_sum": _all,
    "reshape": _first,
    "rev": _all,
    "scatter": lambda eqn: (0, 2),
    "scatter-add": lambda eqn: (0, 2),
    "scatter-sub": lambda eqn: (0, 2),
    "sharding_constraint": _all,
    "slice": _all,
    "split": _all,
    "squeeze": _all,
    "stack": _all,
    "stop_gradient": _all,
    "tile": _first,
    "transpose": _all,
}

# Linear in any one of these operands while the others are held.
EACH: dict[str, tuple[int, ...]] = {
    "mul": (0, 1),
    "div": (0,),
    "scatter-mul": (0,),
    "dot_general": (0, 1),
    "conv_general_dilated": (0, 1),
}

# Synapses: a weight for each pair of an input and an output.
PRODUCTS = ("conv_general_dilated", "dot_general")

# Moves values and changes none.
MOVES = frozenset(
    "broadcast_in_dim copy copy_p dynamic_slice expand_dims gather reshape rev "
    "sharding_constraint slice split squeeze stop_gradient tile transpose".split()
)


def linear_operands(
    eqn: JaxprEqn, is_current: Sequence[bool], *, integers: bool = False
) -> Sequence[int] | None:
    """Find the operands that the operation of `eqn` is linear in, taken together.

    None if it is not linear in its currents, or makes anything but floats of them;
    `integers`: or integers of integers.
    """
    name = eqn.primitive.name
    currents = [i for i, timed in enumerate(is_current) if timed]
    if not _is_floating(eqn) and not (integers and _is_of_integers(eqn, currents)):
        return None
    if name in EACH:
        alone = len(currents) == 1 and currents[0] in EACH[name]
        return currents if alone else None
    operands = TOGETHER.get(name, lambda eqn: ())(eqn)
    return operands if set(currents) <= set(operands) else None


def is_product(eqn: JaxprEqn, is_current: Sequence[bool]) -> bool:
    """Tell whether `eqn` is linear in each of several currents, the others held."""
    currents = {i for i, timed in enumerate(is_current) if timed}
    operands = EACH.get(eqn.primitive.name, ())
    return len(currents) > 1 and currents <= set(operands) and _is_floating(eqn)


def _is_of_integers(eqn, currents: Sequence[int]) -> bool:
    """Tell whether it makes integers of integers, and rounds none."""
    atoms: list[Any] = [*(eqn.invars[i] for i in currents), *eqn.outvars]
    whole = all(jnp.issubdtype(a.aval.dtype, jnp.integer) for a in atoms)
    return whole and eqn.primitive.name != "div"


def _is_floating(eqn) -> bool:
    avals: list[Any] = [v.aval for v in eqn.outvars]
    return all(jnp.issubdtype(a.dtype, jnp.floating) for a in avals)
