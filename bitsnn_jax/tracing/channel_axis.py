"""Where the channels of a value are: followed from the layers that make them."""

import math
from collections.abc import Sequence

from jax.extend.core import JaxprEqn

from bitsnn_jax.tracing.values import Analog, Constant, Value


def channel_axis(eqn: JaxprEqn, values: Sequence[Value]) -> int | None:
    """Find the axis of the channels in the first result of an operation.

    The layout of a convolution tells it, and the axis that a dense layer's weights
    bring. Other operations keep it, move it or lose it.

    Args:
      eqn: the operation.
      values: its operands; `Analog.channels` is the axis of each, None if unknown.

    Returns:
      The axis, None if unknown.
    """
    rule = _RULES.get(eqn.primitive.name)
    if rule is not None:
        return rule(eqn, values)
    out = _ndim(eqn.outvars[0])
    kept = {
        v.channels
        for v, atom in zip(values, eqn.invars, strict=True)
        if isinstance(v, Analog) and v.channels is not None and _ndim(atom) == out
    }
    return kept.pop() if len(kept) == 1 else None


def _ndim(atom) -> int:
    return len(atom.aval.shape)


def _of_convolution(eqn, values) -> int | None:
    return eqn.params["dimension_numbers"].out_spec[1]


def _of_product(eqn, values) -> int | None:
    contracted, batch = eqn.params["dimension_numbers"]
    weights = [i for i, v in enumerate(values) if isinstance(v, Constant)]
    if len(weights) != 1:
        return None
    [i] = weights
    free = _ndim(eqn.invars[i]) - len(contracted[i]) - len(batch[i])
    # Axes of the result: the batch, the free axes of the left, those of the right.
    return (len(batch[i]), _ndim(eqn.outvars[0]) - 1)[i] if free == 1 else None


def _of_transpose(eqn, values) -> int | None:
    axis = values[0].channels
    return None if axis is None else eqn.params["permutation"].index(axis)


def _of_broadcast(eqn, values) -> int | None:
    axis = getattr(values[0], "channels", None)
    return None if axis is None else eqn.params["broadcast_dimensions"][axis]


def _of_reshape(eqn, values) -> int | None:
    axis = values[0].channels
    if axis is None:
        return None
    old, new = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    same = [
        i
        for i, n in enumerate(new)
        if n == old[axis] and math.prod(new[:i]) == math.prod(old[:axis])
    ]
    return same[0] if same else None


def _of_reduction(eqn, values) -> int | None:
    axis, gone = values[0].channels, eqn.params["axes"]
    if axis is None or axis in gone:
        return None
    return axis - sum(a < axis for a in gone)


_RULES = {
    "conv_general_dilated": _of_convolution,
    "dot_general": _of_product,
    "transpose": _of_transpose,
    "broadcast_in_dim": _of_broadcast,
    **dict.fromkeys(("reshape", "squeeze", "expand_dims"), _of_reshape),
    **dict.fromkeys(
        "reduce_sum reduce_max reduce_min reduce_prod argmax argmin".split(),
        _of_reduction,
    ),
}
