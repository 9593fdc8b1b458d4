"""What a linear operation makes of sums of terms: a rule for each operation.

A rule is given one operand of an operation that is linear in it, and says which terms
that operand brings to each of the results. The table is `RULES`.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from bitsnn_jax.integers.folding import (
    NotFoldable,
    extended,
    scaled,
    shrunk,
    weighted,
)
from bitsnn_jax.integers.graph import (
    Conv,
    Dense,
    Move,
    Reshape,
    Sum,
    Term,
    Weightless,
    WindowSum,
    out_shape,
)
from bitsnn_jax.tracing.equations import apply_equation
from bitsnn_jax.tracing.linearity import MOVES
from bitsnn_jax.tracing.reading import SpikingError
from bitsnn_jax.tracing.values import Value


class LoweringError(SpikingError):
    """A part of the network that the layer graph has no words for."""


class Affine(NamedTuple):
    """sum of terms + constant."""

    terms: tuple[Term, ...]
    sources: tuple[tuple[int, ...], ...]  # the shape of the source of each term
    constant: np.ndarray  # float64, 1 along axes where it does not change
    shape: tuple[int, ...]
    path: str  # where it was made, for the name of a "sum"

    def sourced(self):
        return zip(self.terms, self.sources, strict=True)


class Operand(NamedTuple):
    """One operand, a sum of terms, among the values that an operation is given."""

    eqn: JaxprEqn
    values: Sequence[Value]
    index: int
    path: str

    @property
    def affine(self) -> Affine:
        return self.values[self.index].value

    @property
    def shape(self) -> tuple[int, ...]:
        aval: Any = self.eqn.invars[self.index].aval
        return aval.shape


Terms = list[Term]
Rule = Callable[[Operand], list[Terms]]


def rule_for(eqn: JaxprEqn, path: str) -> Rule:
    """Return the rule of an operation.

    Raises:
      LoweringError: there is none.
    """
    rule = RULES.get(eqn.primitive.name)
    if rule is None:
        raise LoweringError(
            f"`{eqn.primitive.name}` in {path or 'the program'} cannot be lowered: "
            "a layer graph has convolutions, dense layers, sums and moves. Write "
            "it in terms of these"
        )
    return rule


def folded(
    rule: Rule,
    eqn: JaxprEqn,
    values: Sequence[Value],
    operands: Iterable[int],
    path: str,
) -> list[tuple[Term, ...]] | None:
    """Return the terms of each result; None if a scale finds no kernel to go into."""
    try:
        brought = [rule(Operand(eqn, values, i, path)) for i in operands]
    except NotFoldable:
        return None
    return [
        tuple(term for of_results in brought for term in of_results[j])
        for j in range(len(eqn.outvars))
    ]


def window(eqn: JaxprEqn, path: str) -> tuple[Any, Any, Any]:
    """Return size, strides and padding of a pooling."""
    p = eqn.params
    dilations = (*p["base_dilation"], *p["window_dilation"])
    if any(d != 1 for d in dilations):
        raise LoweringError(f"{path}: a pooling with dilations cannot be lowered")
    padding = tuple(map(tuple, p["padding"]))
    return tuple(p["window_dimensions"]), tuple(p["window_strides"]), padding


def _same(operand: Operand) -> list[Terms]:
    return [list(operand.affine.terms)]


def _negated(operand: Operand) -> list[Terms]:
    if operand.eqn.primitive.name == "sub" and operand.index == 0:
        return _same(operand)
    return [[scaled(t, -np.ones(()), s) for t, s in operand.affine.sourced()]]


def _factor(operand: Operand) -> list[Terms]:
    arrays = [v.value for v in operand.values]
    aval: Any = operand.eqn.invars[operand.index].aval
    # What the operation makes of 1.
    arrays[operand.index] = jnp.ones(aval.shape, aval.dtype)
    [factor] = map(shrunk, apply_equation(operand.eqn, arrays))
    return [[scaled(t, factor, s) for t, s in operand.affine.sourced()]]


def _moved(operand: Operand) -> list[Terms]:
    """Apply an operation that moves values, by the map of places of their numbers."""
    indices = [
        np.asarray(numbers, np.int64) - 1
        for numbers in apply_equation(operand.eqn, _numbered(operand))
    ]
    return [
        [extended(term, Move(index), operand.shape) for term in operand.affine.terms]
        for index in indices
    ]


def _numbered(operand: Operand) -> list[Any]:
    """Give the operand the numbers 1, 2, ..., and 0 to what else is moved."""
    arrays = []
    for i, (value, atom) in enumerate(
        zip(operand.values, operand.eqn.invars, strict=True)
    ):
        aval: Any = atom.aval
        if i == operand.index:
            count = math.prod(aval.shape)
            arrays.append(jnp.arange(1, count + 1).reshape(aval.shape))
        elif jnp.issubdtype(aval.dtype, jnp.floating):
            arrays.append(jnp.zeros(aval.shape, int))
        else:
            arrays.append(value.value)
    return arrays


def _summed(operand: Operand) -> list[Terms]:
    eqn = operand.eqn
    if eqn.primitive.name == "reduce_sum":
        op: Weightless = Sum(tuple(eqn.params["axes"]))
    else:
        op = WindowSum(*window(eqn, operand.path))
    return [[extended(term, op, operand.shape) for term in operand.affine.terms]]


def _convolved(operand: Operand) -> list[Terms]:
    p = operand.eqn.params
    dims = p["dimension_numbers"]
    if operand.index != 0 or p["batch_group_count"] != 1:
        raise LoweringError(f"{operand.path}: a convolution with spikes for its kernel")
    batch, channel, *space = dims.lhs_spec
    kernel = np.asarray(operand.values[1].value, np.float64)
    out, inputs, *places = dims.rhs_spec
    conv = Conv(
        kernel.transpose(*places, inputs, out),
        tuple(p["window_strides"]),
        tuple(map(tuple, p["padding"])),
        tuple(p["lhs_dilation"]),
        tuple(p["rhs_dilation"]),
        p["feature_group_count"],
    )
    channels_last = (batch, *space, channel)
    shape = tuple(operand.shape[axis] for axis in channels_last)
    batch_out, channel_out, *space_out = dims.out_spec
    order = tuple(np.argsort((batch_out, *space_out, channel_out)))
    terms = []
    for term in operand.affine.terms:
        term = _transposed(term, channels_last, operand.shape)
        term = weighted(term, conv, shape)
        terms.append(_transposed(term, order, out_shape(conv, shape)))
    return [terms]


def _dotted(operand: Operand) -> list[Terms]:
    contracted, batch = operand.eqn.params["dimension_numbers"]
    if any(batch):
        raise LoweringError(
            f"{operand.path}: a product with batch dimensions cannot be lowered"
        )
    i, shape = operand.index, operand.shape
    [other] = {0, 1} - {i}
    kernel = np.asarray(operand.values[other].value, np.float64)
    mine, theirs = contracted[i], contracted[other]
    free = [axis for axis in range(len(shape)) if axis not in mine]
    others = [axis for axis in range(kernel.ndim) if axis not in theirs]
    inner = math.prod(shape[axis] for axis in mine)
    dense = Dense(kernel.transpose(*theirs, *others).reshape(inner, -1))
    rows = tuple(shape[axis] for axis in free)
    outputs = tuple(kernel.shape[axis] for axis in others)
    arranged = tuple(shape[axis] for axis in (*free, *mine))
    flat = Reshape((math.prod(rows), inner))
    product = (math.prod(rows), math.prod(outputs))
    terms = []
    for term in operand.affine.terms:
        term = _transposed(term, (*free, *mine), shape)
        term = extended(term, flat, arranged)
        term = weighted(term, dense, flat.shape)
        term = extended(term, Reshape(rows + outputs), product)
        if i == 1:
            order = (*range(len(rows), len(rows + outputs)), *range(len(rows)))
            term = _transposed(term, order, rows + outputs)
        terms.append(term)
    return [terms]


_IDENTITIES = "add add_any convert_element_type copy copy_p optimization_barrier "
RULES: dict[str, Rule] = {
    **dict.fromkeys(MOVES, _moved),
    **dict.fromkeys(
        "concatenate pad select_n stack dynamic_update_slice scatter".split(), _moved
    ),
    **dict.fromkeys((_IDENTITIES + "stop_gradient sharding_constraint").split(), _same),
    "sub": _negated,
    "neg": _negated,
    "mul": _factor,
    "div": _factor,
    "scatter-mul": _factor,
    "reduce_sum": _summed,
    "reduce_window_sum": _summed,
    "conv_general_dilated": _convolved,
    "dot_general": _dotted,
}


def _transposed(term, order, shape):
    if order == tuple(range(len(shape))):
        return term
    places = np.arange(math.prod(shape)).reshape(shape).transpose(order)
    return extended(term, Move(places), shape)
