"""Trains of spikes that stay trains: moved, joined, padded, scaled, and their maximum.

While a current is the train of one layer of neurons, or of several side by side, each
entry has one threshold, and codes can be compared as values can. What is known of the
thresholds is their shape, see `Current.sizes`. A current that is no single train may
still be *driven* by spikes alone.
"""

import math
from collections.abc import Callable, Sequence

import jax
from jax.extend.core import ClosedJaxpr, JaxprEqn

from bitsnn_jax.tracing.equations import apply_equation, shape_of
from bitsnn_jax.tracing.linearity import EACH, MOVES, PRODUCTS, TOGETHER
from bitsnn_jax.tracing.literals import number
from bitsnn_jax.tracing.values import Constant, Current, Pointwise, Value, Waiting

Sizes = tuple[int, ...]
MAXIMA = ("reduce_max", "reduce_window_max")  # over places


def moved_sizes(eqn: JaxprEqn, values: Sequence[Value]) -> list[Sizes] | None:
    """Return the thresholds' shapes of the results; None if they are no trains.

    The operation moves trains, joins them, pads them with zeros, or scales them by a
    known positive number.
    """
    name = eqn.primitive.name
    if name == "concatenate":
        return _joined(eqn, values)
    first = values[0]
    if name == "mul" and isinstance(first, Constant):
        first, factor = values[1], first
    elif name in ("mul", "div"):
        factor = values[1]
    elif name == "pad":
        factor = None
        if number(values[1]) is None or number(values[1]) != 0:
            return None
    elif name in MOVES or name == "convert_element_type":
        factor = None
    else:
        return None
    if not isinstance(first, Current) or first.sizes is None:
        return None
    if factor is not None:
        known = number(factor)
        if known is None or not (known > 0).all():
            return None
    if first.sizes == ():
        return [()] * len(eqn.outvars)
    rule = _RULES.get(name, _touched)
    return [rule(eqn, first.sizes, shape_of(v)) for v in eqn.outvars]


def merged_sizes(eqn: JaxprEqn, sizes: Sizes | None) -> Sizes | None:
    """Do the same for a maximum: under equal thresholds codes order as values do."""
    if not sizes:
        return sizes
    touched = _pooled(eqn)
    if any(sizes[axis] > 1 for axis in touched):
        return None
    if eqn.primitive.name != "reduce_max":
        return sizes
    return tuple(n for axis, n in enumerate(sizes) if axis not in touched)


def _pooled(eqn: JaxprEqn) -> Sequence[int]:
    """List the axes that a maximum is taken along."""
    p = eqn.params
    if eqn.primitive.name == "reduce_max":
        return p["axes"]
    kinds = "window_dimensions window_strides padding base_dilation".split()
    windows = enumerate(zip(*(p[kind] for kind in kinds), strict=True))
    return [axis for axis, window in windows if window != (1, 1, (0, 0), 1)]


def gated(eqn: JaxprEqn, value: Pointwise) -> tuple[ClosedJaxpr, list[Waiting]] | None:
    """Write the maximum of a train times a gate as a gate times a maximum.

    Args:
      eqn: the maximum.
      value: a product that waits.

    Returns:
      The program, and what it is given; None if the gate differs from place to place,
      or has no places of its own.
    """
    made, axes = value.made, _pooled(eqn)
    shapes = [shape_of(v) for v in made.eqn.invars]
    if made.eqn.primitive.name != "mul" or len(shapes[0]) != len(shapes[1]):
        return None
    gates = [i for i in (0, 1) if all(shapes[i][axis] == 1 for axis in axes)]
    if len(gates) != 1 or shapes[1 - gates[0]] != shape_of(eqn.invars[0]):
        return None
    [gate] = gates

    def fn(train, gate):
        [largest] = apply_equation(eqn, [train])
        gone = axes if eqn.primitive.name == "reduce_max" else ()
        return largest * gate.squeeze(tuple(gone))

    order = 1 - gate, gate
    avals = [made.eqn.invars[i].aval for i in order]
    return jax.make_jaxpr(fn)(*avals), [made.values[i] for i in order]


def is_driven(eqn: JaxprEqn, values: Sequence[Value], operands: Sequence[int]) -> bool:
    """Tell whether the results of a linear operation are made of spikes only.

    Args:
      eqn: the operation.
      values: its operands.
      operands: those that it is linear in.
    """
    name = eqn.primitive.name
    if name in PRODUCTS or (name not in TOGETHER and name not in EACH):
        return False
    return all(_is_driven(values[i]) for i in operands) and all(
        isinstance(v, Constant) for i, v in enumerate(values) if i not in operands
    )


def _is_driven(value) -> bool:
    if isinstance(value, Current):
        return value.driven
    known = number(value)
    return known is not None and not known.any()


def streamed_operand(eqn: JaxprEqn, values: Sequence[Value]) -> int | None:
    """Choose the current of a product whose spikes come step by step.

    One that is a single train before one that is only driven by spikes, and of equals
    the larger one, so that less is held. None if neither is driven.
    """
    choices = [
        (v.sizes is None, -math.prod(shape_of(atom)), i)
        for i, (v, atom) in enumerate(zip(values, eqn.invars, strict=True))
        if isinstance(v, Current) and v.driven
    ]
    return min(choices)[-1] if choices else None


def _joined(eqn, values) -> list[Sizes] | None:
    trains = [getattr(v, "sizes", None) for v in values]
    if any(sizes is None for sizes in trains):
        return None
    [out] = eqn.outvars
    return [
        tuple(
            n
            if axis == eqn.params["dimension"]
            or any(sizes and sizes[axis] > 1 for sizes in trains)
            else 1
            for axis, n in enumerate(out.aval.shape)
        )
    ]


def _kept(eqn, sizes, shape) -> Sizes:
    return sizes


def _cut(eqn, sizes, shape) -> Sizes:
    """Keep the axes, some of them shorter or longer."""
    return tuple(n if size > 1 else 1 for size, n in zip(sizes, shape, strict=True))


def _transposed(eqn, sizes, shape) -> Sizes:
    return tuple(sizes[axis] for axis in eqn.params["permutation"])


def _broadcast(eqn, sizes, shape) -> Sizes:
    places = dict(zip(eqn.params["broadcast_dimensions"], sizes, strict=True))
    return tuple(places.get(axis, 1) for axis in range(len(shape)))


def _reshaped(eqn, sizes, shape) -> Sizes:
    """Keep what is constant along a run of axes that becomes another run of axes."""
    old, new, result = list(eqn.invars[0].aval.shape), list(shape), []
    i = j = 0
    while i < len(old) or j < len(new):
        ends = i, j
        i, j = min(i + 1, len(old)), min(j + 1, len(new))
        while (mine := math.prod(old[ends[0] : i])) != (
            theirs := math.prod(new[ends[1] : j])
        ):
            i, j = (i + 1, j) if mine < theirs else (i, j + 1)
        varies = any(size > 1 for size in sizes[ends[0] : i])
        result += [n if varies else 1 for n in new[ends[1] : j]]
    return tuple(result)


def _touched(eqn, sizes, shape) -> Sizes:
    """Expect thresholds to vary along every axis, unless all are equal."""
    return tuple(shape) if max(sizes) > 1 else (1,) * len(shape)


_RULES: dict[str, Callable[..., Sizes]] = {
    **dict.fromkeys(
        "convert_element_type copy copy_p div mul sharding_constraint rev "
        "stop_gradient".split(),
        _kept,
    ),
    **dict.fromkeys("dynamic_slice pad slice split tile".split(), _cut),
    **dict.fromkeys("expand_dims reshape squeeze".split(), _reshaped),
    "broadcast_in_dim": _broadcast,
    "transpose": _transposed,
}
