"""Products of integers, none of them rounded, in whatever numbers a device has fast.

A carrier says what the operands of a product are computed in:

* "float32": floats, each sum small enough to be exact.
* "bfloat16": bfloat16 of 8 bits, added up in float32. Larger integers are taken apart.
* "int8": bytes, added up in int32. What has one byte without a sign, as a pixel, is
  carried 128 lower, and the weights make up for it:

      sum_i w_i x_i = sum_i w_i (x_i - 128) + 128 sum_i w_i.

  What takes more than a byte goes in floats.
* "int32": no floats.

Matrix units at their default precision are exact too, since inputs fit bfloat16
wherever the backend might round them to that; elsewhere float32 is asked for.
"""

import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bitsnn_jax.integers.graph import (
    Conv,
    Lookup,
    Product,
    Scale,
    Sum,
    Weight,
    Weightless,
    WindowSum,
    apply,
    out_shape,
    padded,
)

CARRIERS = ("float32", "int8", "int32", "bfloat16")
# Up to here every integer has a place in the type.
EXACT = {"float32": 2**24, "bfloat16": 2**8}


def checked(carrier: str | None) -> str:
    """Return the carrier, for None the one that is fastest where things are computed.

    That is measured on CPUs only. Elsewhere it is "float32".

    Raises:
      ValueError: no such carrier.
    """
    if carrier is None:
        return "int8" if jax.default_backend() == "cpu" else "float32"
    if carrier not in CARRIERS:
        raise ValueError(
            f"carrier must be one of {', '.join(CARRIERS)}, got {carrier!r}"
        )
    return carrier


def places(before: Iterable[Weightless], shape: tuple[int, ...]) -> int:
    """Count the numbers of an array that are added up, at most, to one."""
    count = 1
    for op in before:
        if isinstance(op, Sum):
            count *= math.prod(shape[axis] for axis in op.axes)
        elif isinstance(op, WindowSum):
            count *= math.prod(op.window)
        shape = out_shape(op, shape)
    return count


def product(
    weight: Weight, x: jax.Array, low: int, high: int, carrier: str, dtype: Any
) -> jax.Array:
    """Apply a weight to integers, without rounding.

    Args:
      weight: the operation.
      x: integers of low..high, in any type that holds them.
      low, high: at most 0, at least 1.
      carrier: of the operands.
      dtype: of the result, float32 or int32, which holds every sum.
    """
    if isinstance(weight, Scale):
        return apply(weight, x.astype(dtype))
    if carrier == "int32" or isinstance(weight, Lookup):
        return apply(weight, x.astype(jnp.int32))
    if carrier == "int8" and _fits_bytes(weight, low, high):
        return _in_bytes(weight, x, high).astype(dtype)
    return _in_parts(weight, x, max(high, -low), carrier, dtype)


def _fits_bytes(weight, low, high) -> bool:
    if isinstance(weight, Product) and not 0 < weight.largest <= 127:
        return False
    has_offset = high > 127
    return (-128 <= low and high <= 127) or (
        has_offset and low >= 0 and high <= 255 and not isinstance(weight, Product)
    )


def _in_bytes(weight, x, high):
    if isinstance(weight, Product) and weight.kernel.shape[1] == 1:
        return apply(weight, x.astype(jnp.int32))  # nothing is added up
    accumulate = {"preferred_element_type": jnp.int32}
    if high <= 127:
        return apply(weight, x.astype(jnp.int8), **accumulate)
    # As bytes, 128 lower is the highest bit turned round.
    lower = lax.bitcast_convert_type(x.astype(jnp.uint8) ^ np.uint8(128), jnp.int8)
    if isinstance(weight, Conv):
        weight, lower = padded(weight, lower, -128)
    sums = weight.kernel.astype(np.int32)
    sums = 128 * sums.reshape(-1, sums.shape[-1]).sum(0)
    return apply(weight, lower, **accumulate) + jnp.asarray(sums)


def _in_parts(weight, x, top, carrier, dtype):
    """Apply the weight in floats, to as many bits at a time as are exact."""
    kind = "bfloat16" if carrier == "bfloat16" else "float32"
    largest = EXACT["float32"] // max(_gain(weight), 1)
    if kind == "bfloat16":
        largest = min(largest, EXACT["bfloat16"])
        if isinstance(weight, Product) and weight.largest > EXACT["bfloat16"]:
            largest = 0  # numbers that are no bfloat16
    if top <= largest:
        return _in_floats(weight, x, top, kind).astype(dtype)
    if largest < 2:  # not even bits would do
        return apply(weight, x.astype(jnp.int32)).astype(dtype)
    # Digits below 2**bits; the last one has the sign, and may be -2**bits.
    bits = largest.bit_length() - 1
    total, rest = jnp.zeros((), jnp.int32), x.astype(jnp.int32)
    for low in range(0, top.bit_length(), bits):
        is_last = low + bits >= top.bit_length()
        digit = rest if is_last else rest & (2**bits - 1)
        y = _in_floats(weight, digit, 2**bits, kind)
        total += y.astype(jnp.int32) << low
        rest = rest >> bits
    return total.astype(dtype)


def _gain(weight):
    """Return the largest |output| for inputs of 1."""
    if isinstance(weight, Product):
        return weight.kernel.shape[1] * weight.largest
    kernel = np.abs(weight.kernel.astype(np.int64))
    return int(kernel.reshape(-1, kernel.shape[-1]).sum(0).max())


def _in_floats(weight, x, top, kind):
    if kind == "bfloat16":
        accumulate = {"preferred_element_type": jnp.float32}
        return apply(weight, x.astype(jnp.bfloat16), **accumulate)
    # A backend may round float32 inputs to bfloat16, unless it is told not to.
    top = max(top, weight.largest) if isinstance(weight, Product) else top
    precision = "highest" if top > EXACT["bfloat16"] else "default"
    with jax.default_matmul_precision(precision):
        return apply(weight, x.astype(jnp.float32))
