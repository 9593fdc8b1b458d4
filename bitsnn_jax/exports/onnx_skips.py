"""Skip connections that come behind the rounding of a layer, as whole codes.

The multiplier of a skip connection may be m 2**f with a whole m, as where thresholds
are tied by `integers.ties`. Then what it brings is not rounded,

    floor((z + m 2**f k + half) / 2**f) = c + m k,   c = floor((z + half) / 2**f),

and a code is clip(c + m k, 0, top). c needs no more channels: it is one QLinearConv,
and the sum is one QLinearAdd, which onnxruntime makes of three standard operators.

c has a sign. Its bytes hold c + m K, where K is the largest k, if this and the codes
fit a byte: (m K + top) <= 255, up to T = 7 for m = 1. Smaller c make the code 0, larger
ones make it top, and bytes that saturate do the same. For T = 8 there are two of them,
max(c, 0) and min(c, 0), of which one is 0, and m must be 1: so the sums in between
saturate where the code does.
"""

from collections.abc import Mapping

import numpy as np

from bitsnn_jax.exports.onnx_builder import Builder, Value
from bitsnn_jax.exports.onnx_bytes import limited, rounded
from bitsnn_jax.exports.onnx_operations import applied
from bitsnn_jax.integers.graph import Scale, Shift, Term
from bitsnn_jax.integers.network import IntegerNode


def with_skip_behind(
    builder: Builder, node: IntegerNode, values: Mapping[str, Value], top: int
) -> Value | None:
    """Write a layer of neurons with one skip connection; None where it is not so."""
    skips = [term for term in node.terms if isinstance(term.weight, Scale)]
    if len(skips) != 1:
        return None
    [skip] = skips
    times = _times(skip, node)
    offsets = _offsets(times, values[skip.source].high, top)
    rest = node._replace(terms=tuple(t for t in node.terms if t is not skip))
    name = ""
    for offset in offsets:
        part = rounded(builder, rest, values, 255, offset=offset)
        if part is None or part.shape != node.shape:
            return None
        if not name:
            code = applied(builder, skip.before, values[skip.source])
            if code.shape != node.shape or not code.is_byte:
                return None
            name = builder.form(code, "u8", first=True)
        made = builder.form(part, "u8", first=True)
        name = _added(builder, (name, times, 0), (made, 1, offset))
        times = 1  # once is enough
    if not name:
        return None
    code = Value(node.shape, 0, 255, forms={("u8", True): name})
    return limited(builder, node, code, top)


def _times(skip: Term, node: IntegerNode) -> int:
    """Return m of a skip connection; 0 if it is not whole, or not one."""
    if any(not isinstance(op, Shift) for op in skip.after):
        return 0
    shift = sum(op.amount for op in skip.after if isinstance(op, Shift))
    times = np.asarray(skip.numbers * 2.0 ** (shift - node.fraction))
    whole = np.all(times == np.rint(times)) and times.min() == times.max()
    return max(0, int(times.max())) if whole else 0


def _offsets(times: int, largest: int, top: int) -> tuple[int, ...]:
    """Return what is added to c in each QLinearConv; none where codes do not fit."""
    if times and times * largest + top <= 255:
        return (times * largest,)
    return (0, 255) if times == 1 and largest <= 255 else ()


def _added(builder: Builder, *parts: tuple[str, int, int]) -> str:
    """Add up scale (byte - zero point), saturated to a byte."""
    floats = [
        builder.add(
            "DequantizeLinear",
            name,
            builder.constant(scale, np.float32),
            builder.constant(zero, np.uint8),
        )
        for name, scale, zero in parts
    ]
    one, none = builder.constant(1, np.float32), builder.constant(0, np.uint8)
    return builder.add("QuantizeLinear", builder.add("Add", *floats), one, none)
