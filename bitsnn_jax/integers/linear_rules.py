"""What a linear operation makes of sums of terms: a rule for each operation.

A rule is given one operand of an operation that is linear in it, and says which terms
that operand brings to each of the results. The table is `RULES`.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn

from bitsnn_jax.integers.contractions import contraction
from bitsnn_jax.integers.folding import (
    NotFoldable,
    extended,
    scaled,
    shrunk,
    transposed,
    weighted,
)
from bitsnn_jax.integers.graph import (
    Conv,
    Dense,
    Move,
    Reshape,
    Sum,
    Term,
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


def pooled(
    term: Term, eqn: JaxprEqn, shape: tuple[int, ...], kinds: tuple[Any, Any]
) -> Term:
    """Apply a pooling over windows to a term of `shape`.

    Args:
      term: without a weight, where the pooling is a maximum.
      eqn: the pooling.
      shape: that it has until then.
      kinds: of operation over windows, and over axes.
    """
    p = eqn.params
    sizes, strides = tuple(p["window_dimensions"]), tuple(p["window_strides"])
    padding = tuple(map(tuple, p["padding"]))
    base, dilation = p["base_dilation"], p["window_dilation"]
    over_windows, over_axes = kinds
    if all(d == 1 for d in (*base, *dilation)):
        return extended(term, over_windows(sizes, strides, padding), shape)
    # Each place of the window on an axis of its own; what is padded is 0, or no code.
    edges = [(low, high, d - 1) for (low, high), d in zip(padding, base, strict=True)]
    places = np.arange(math.prod(shape)).reshape(shape)
    index = np.asarray(lax.pad(jnp.asarray(places), -1, edges))
    windows = np.lib.stride_tricks.sliding_window_view(
        index, [(n - 1) * d + 1 for n, d in zip(sizes, dilation, strict=True)]
    )
    windows = windows[tuple(slice(None, None, n) for n in (*strides, *dilation))]
    index = windows.reshape(*windows.shape[: len(shape)], -1)
    term = extended(term, Move(index), shape)
    return extended(term, over_axes((len(shape),)), index.shape)


def _same(operand: Operand) -> list[Terms]:
    """Pass the terms on, repeated along axes of 1 that the result has longer."""
    terms, shape = list(operand.affine.terms), operand.shape
    aval: Any = operand.eqn.outvars[0].aval
    if aval.shape == shape:
        return [terms]
    index = np.broadcast_to(np.arange(math.prod(shape)).reshape(shape), aval.shape)
    return [[extended(term, Move(index), shape) for term in terms]]


def _negated(operand: Operand) -> list[Terms]:
    if operand.eqn.primitive.name == "sub" and operand.index == 0:
        return _same(operand)
    sources, minus = operand.affine.sources, -np.ones(())
    terms = zip(*_same(operand), sources, strict=True)
    return [[scaled(term, minus, source) for term, source in terms]]


def _factor(operand: Operand) -> list[Terms]:
    arrays = [v.value for v in operand.values]
    aval: Any = operand.eqn.invars[operand.index].aval
    # What the operation makes of 1.
    arrays[operand.index] = jnp.ones(aval.shape, aval.dtype)
    [factor] = map(shrunk, apply_equation(operand.eqn, arrays))
    terms = zip(*_same(operand), operand.affine.sources, strict=True)
    return [[scaled(term, factor, source) for term, source in terms]]


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
    terms, eqn = operand.affine.terms, operand.eqn
    if eqn.primitive.name == "reduce_sum":
        op = Sum(tuple(eqn.params["axes"]))
        return [[extended(term, op, operand.shape) for term in terms]]
    return [[pooled(t, eqn, operand.shape, (WindowSum, Sum)) for t in terms]]


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
        term = transposed(term, channels_last, operand.shape)
        term = weighted(term, conv, shape)
        terms.append(transposed(term, order, out_shape(conv, shape)))
    return [terms]


def _dotted(operand: Operand) -> list[Terms]:
    form = contraction(operand.eqn, operand.index)
    kernel = np.asarray(operand.values[1 - operand.index].value, np.float64)
    kernel = kernel.transpose(form.kernel_order)
    kernel = kernel.reshape(form.groups, form.inner, form.outer)
    arranged = tuple(operand.shape[axis] for axis in form.order)
    flat: tuple[int, ...] = form.rows, form.groups * form.inner
    if form.groups == 1:
        weight = Dense(kernel[0])
    else:  # each group its own weights, as in a convolution of a row of places
        flat = 1, *flat
        rows = kernel.swapaxes(0, 1).reshape(1, form.inner, -1)
        weight = Conv(rows, (1,), ((0, 0),), (1,), (1,), form.groups)
    terms = []
    for term in operand.affine.terms:
        term = transposed(term, form.order, operand.shape)
        term = extended(term, Reshape(flat), arranged)
        term = weighted(term, weight, flat)
        term = extended(term, Reshape(form.result), out_shape(weight, flat))
        terms.append(transposed(term, form.result_order, form.result))
    return [terms]


def _accumulated(operand: Operand) -> list[Terms]:
    """Add up what comes before each place: a window as long as the axis."""
    axis, shape = operand.eqn.params["axis"], operand.shape
    rest = shape[axis] - 1
    ends = (0, rest) if operand.eqn.params["reverse"] else (rest, 0)
    window = tuple(n if i == axis else 1 for i, n in enumerate(shape))
    padding = tuple(ends if i == axis else (0, 0) for i in range(len(shape)))
    op = WindowSum(window, (1,) * len(shape), padding)
    return [[extended(term, op, shape) for term in operand.affine.terms]]


def _added_to(operand: Operand) -> list[Terms]:
    """Add updates to places, of which several may be the same."""
    if operand.index == 0:
        return _same(operand)
    avals: list[Any] = [v.aval for v in operand.eqn.invars]
    target, updates = avals[0].shape, avals[2]

    def scattered(updates):
        arrays = [jnp.zeros(target, updates.dtype), operand.values[1].value, updates]
        [result] = apply_equation(operand.eqn, arrays)
        return result

    # Transposed, it says where each update goes; 0 for those that go nowhere. Floats of
    # any type have integers of eight bits.
    back = jax.linear_transpose(scattered, updates)
    places = np.arange(1, math.prod(target) + 1).reshape(target)
    landed = -1
    for bits in range(0, places.size.bit_length(), 8):
        [digit] = back(jnp.asarray(places >> bits & 255, avals[0].dtype))
        landed = landed + (np.abs(np.asarray(digit, np.int64)).reshape(-1) << bits)
    index = _gathered(np.asarray(landed), places.size).reshape(*target, -1)
    sign = np.asarray(1.0 if operand.eqn.primitive.name == "scatter-add" else -1.0)
    terms = []
    for term, source in operand.affine.sourced():
        term = extended(term, Move(index), operand.shape)
        term = extended(term, Sum((index.ndim - 1,)), index.shape)
        terms.append(scaled(term, sign, source))
    return [terms]


def _gathered(landed: np.ndarray, places: int) -> np.ndarray:
    """Turn where each entry goes into what each place gets: [places, most], or -1."""
    order = np.argsort(landed, kind="stable")
    order = order[landed[order] >= 0]
    count = np.bincount(landed[order], minlength=places)
    nth = np.arange(len(order)) - np.repeat(np.cumsum(count) - count, count)
    index = np.full((places, max(1, count.max(initial=0))), -1)
    index[landed[order], nth] = order
    return index


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
    "cumsum": _accumulated,
    "scatter-add": _added_to,
    "scatter-sub": _added_to,
    "reduce_sum": _summed,
    "reduce_window_sum": _summed,
    "conv_general_dilated": _convolved,
    "dot_general": _dotted,
}
