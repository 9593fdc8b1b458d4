"""Run a network of integers: in one pass, or spike by spike."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax.integers import tables
from bitsnn_jax.integers.graph import (
    Product,
    Scale,
    Sum,
    Weight,
    WindowSum,
    apply,
    apply_term,
    batched,
    out_shape,
)
from bitsnn_jax.integers.maxima import largest_codes
from bitsnn_jax.integers.network import IntegerNetwork, IntegerNode
from bitsnn_jax.integers.products import with_tops
from bitsnn_jax.numerics.neurons import collect, fire_codes
from bitsnn_jax.numerics.spikes import pack
from bitsnn_jax.numerics.stored import stored

CARRIERS = ("float32", "int32", "bfloat16")
# Up to here every integer has a place in the type.
_EXACT = {"float32": 2**24, "bfloat16": 2**8}


class Result(NamedTuple):
    """What both executions give.

    Attributes:
      outputs: name -> int32 [n, ...]; times the unit of its node, the logits.
      codes: name of each layer of neurons -> int32 [n, ...], its spikes packed.
    """

    outputs: dict[str, jax.Array]
    codes: dict[str, jax.Array]


def one_shot(
    network: IntegerNetwork, *, carrier: str = "float32"
) -> Callable[[Any], Result]:
    """Run the integer ANN: one pass, with codes.

    * "float32": products of integers in floats, each small enough to be exact; sums in
      float32 where no sum of the layer can leave 24 bits, in int32 else.
    * "bfloat16": inputs of products are bfloat16 of 8 bits, added up in float32. Larger
      integers are taken apart in two.
    * "int32": no floats.

    Matrix units at their default precision are exact too, since inputs fit bfloat16
    wherever the backend might round them to that; elsewhere float32 is asked for.

    Args:
      network: of `fixed_point`.
      carrier: of the numbers, see above. The result does not depend on it.

    Returns:
      A function of integers [n, ...] in 0..levels, of any type -> Result. Wrap it in
      `jax.jit`.

    Raises:
      ValueError: unknown carrier.
    """
    add = _adder(network, carrier)

    def run(x):
        values, codes = {"input": x}, {}
        for node in network.nodes[1:]:
            if node.kind == "maximum":
                values[node.name] = largest_codes(node, values)
                continue
            terms = [
                (with_tops(t, values, network), values[t.source]) for t in node.terms
            ]
            values[node.name] = value = _value(node, add(node, terms), network.steps)
            if node.kind == "neurons":
                values[node.name] = codes[node.name] = stored(value)
        return _result(network, values, codes)

    return _checked(network, run)


def stepped(
    network: IntegerNetwork, *, carrier: str = "float32", unroll: bool = True
) -> Callable[[Any], Result]:
    """Run the spiking network: T steps of spikes, with integer thresholds.

    Each step brings the weights of the spikes of that step, shifted by T - t, and a
    part of the bias; the image and sums come with the first. Then each layer fires for
    T steps against 2**(fraction + T - t).

    Arguments, result and errors are those of `one_shot`, and

      unroll: write the T steps into the program one after the other. False: two
        `lax.scan`s over time for each layer, one that integrates and one that fires, so
        that neither the program nor its temporaries grow with T, up to T = 16, from
        where on a code takes four bytes in place of two. The result is the same.
    """
    add, steps = _adder(network, carrier), network.steps
    simulate = _unrolled if unroll else _rolled

    def run(x):
        values, codes, trains = {"input": x}, {}, set()
        for node in network.nodes[1:]:
            if node.kind == "maximum":
                values[node.name] = largest_codes(node, values)
                trains.add(node.name)
                continue
            # What a product holds is complete: its layer has fired.
            parts = [
                (with_tops(t, values, network), values[t.source]) for t in node.terms
            ]
            # The image and sums have no time: they are there at the first step.
            once = [part for part in parts if part[0].source not in trains]
            timed = [part for part in parts if part[0].source in trains]
            start = add(node, once, bias=np.zeros((), np.int32))

            def charge(place, node=node, timed=timed):
                """Return what the step t = T - place brings."""
                spikes = [
                    (term, (code >> jnp.asarray(place, code.dtype)) & 1 == 1)
                    for term, code in timed
                ]
                bias = bias_part(node.bias, steps - 1 - place, steps)
                return add(node, spikes, shift=place, bias=bias)

            membrane, fire = simulate(node, charge, start, steps)
            if node.kind == "neurons":
                # Packed, T steps take the space of one; see `readings.Spikes`.
                values[node.name] = codes[node.name] = fire()
                trains.add(node.name)
            else:
                values[node.name] = _value(node, membrane, steps)
        return _result(network, values, codes)

    return _checked(network, run)


def bias_part(bias: np.ndarray, t: Any, steps: int) -> Any:
    """Return part t = 0..T-1 of T integers, equal as can be, that add up to each bias.

    >>> [bias_part(np.array([7, -7]), t, 4).tolist() for t in range(4)]
    [[2, -1], [2, -2], [2, -2], [1, -2]]
    """
    low, rest = np.divmod(bias, steps)
    return low + (t < rest)


def _unrolled(node, charge, start, steps):
    """Charge the membrane; return it and what fires it by Eq. (10) and packs spikes."""
    membrane = start
    for place in reversed(range(steps)):
        membrane += charge(place)

    def fire():
        if node.has_table:
            codes = tables.fired_codes(node, membrane, steps=steps, unroll=True)
            return stored(codes)
        u, spikes = membrane + jnp.asarray(node.half, membrane.dtype), []
        for place in reversed(range(steps)):
            threshold = jnp.asarray(np.left_shift(1, node.fraction + place), u.dtype)
            spikes.append(u >= threshold)
            u = jnp.where(spikes[-1], u - threshold, u)
        return stored(pack(jnp.stack(spikes)))

    return membrane, fire


def _rolled(node, charge, start, steps):
    """Do the same as loops at run time."""
    membrane = collect(charge, start, steps=steps)

    def fire():
        if node.has_table:
            return tables.fired_codes(node, membrane, steps=steps, unroll=False)
        half, delta = node.half, np.left_shift(1, node.fraction)
        u = membrane + jnp.asarray(half, membrane.dtype)
        return fire_codes(u, jnp.asarray(delta, u.dtype), steps=steps)

    return membrane, fire


def _value(node: IntegerNode, z, steps: int):
    if node.kind == "output":
        return z
    if node.has_table:
        return tables.one_shot_codes(node, z)
    z = z + jnp.asarray(node.half, z.dtype)
    if z.dtype == jnp.int32:
        z = z >> node.fraction
    else:
        z = jnp.floor(z * jnp.asarray(2.0**-node.fraction, z.dtype))
    return jnp.clip(z, 0, 2**steps - 1) if node.kind == "neurons" else z


def _adder(network, carrier):
    """(node, [(term, array)], shift) -> the sum of the terms and the bias."""
    if carrier not in CARRIERS:
        raise ValueError(
            f"carrier must be one of {', '.join(CARRIERS)}, got {carrier!r}"
        )
    tops = {n.name: network.top(n.name) for n in network.nodes if n.kind != "output"}

    def add(node, terms, *, shift=0, bias=None):
        narrow = carrier != "int32" and node.bound < _EXACT["float32"]
        dtype = jnp.float32 if narrow else jnp.int32
        total = jnp.zeros((1,) * len(node.shape), dtype)
        for term, x in terms:
            top = 1 if x.dtype == jnp.bool_ else tops[term.source]
            top *= _places(term, x.shape)

            def product(weight, x, top=top):
                return _product(weight, x, top, carrier, dtype)

            total += apply_term(term, x.astype(dtype), product).astype(dtype)
        bias = node.bias if bias is None else bias
        total = total * jnp.asarray(1 << shift, dtype) + jnp.asarray(bias, dtype)
        return total if terms else jnp.broadcast_to(total, node.shape)

    return add


def _product(weight: Weight, x, top, carrier, dtype):
    """Apply the weight to integers of at most `top` in size, without rounding."""
    if carrier == "int32" or isinstance(weight, Scale):
        return apply(weight, x)
    largest = _EXACT["float32"] // max(_gain(weight), 1)
    if carrier == "bfloat16":
        largest = min(largest, _EXACT["bfloat16"])
        if isinstance(weight, Product) and weight.largest > _EXACT["bfloat16"]:
            largest = 0  # numbers that are no bfloat16
    if top <= largest:
        return _in_floats(weight, x, top, carrier).astype(dtype)
    if largest < 2:  # not even bits would do
        return apply(weight, x.astype(jnp.int32)).astype(dtype)
    # Digits below 2**bits; the last one has the sign, and may be -2**bits.
    bits = largest.bit_length() - 1
    total, rest = jnp.zeros((), jnp.int32), x.astype(jnp.int32)
    for low in range(0, top.bit_length(), bits):
        is_last = low + bits >= top.bit_length()
        digit = rest if is_last else rest & (2**bits - 1)
        y = _in_floats(weight, digit, 2**bits, carrier)
        total += y.astype(jnp.int32) << low
        rest = rest >> bits
    return total.astype(dtype)


def _places(term, shape):
    """Count the numbers that are added up, at most, before the weight is applied."""
    places = 1
    for op in term.before:
        if isinstance(op, Sum):
            places *= math.prod(shape[axis] for axis in op.axes)
        elif isinstance(op, WindowSum):
            places *= math.prod(op.window)
        shape = out_shape(op, shape)
    return places


def _gain(weight):
    """Return the largest |output| for inputs of 1."""
    if isinstance(weight, Product):
        return weight.kernel.shape[1] * weight.largest
    kernel = np.abs(weight.kernel.astype(np.int64))
    return int(kernel.reshape(-1, kernel.shape[-1]).sum(0).max())


def _in_floats(weight, x, top, carrier):
    if carrier == "bfloat16":
        accumulate = {"preferred_element_type": jnp.float32}
        return apply(weight, x.astype(jnp.bfloat16), **accumulate)
    # A backend may round float32 inputs to bfloat16, unless it is told not to.
    top = max(top, weight.largest) if isinstance(weight, Product) else top
    precision = "highest" if top > _EXACT["bfloat16"] else "default"
    with jax.default_matmul_precision(precision):
        return apply(weight, x.astype(jnp.float32))


def _checked(network: IntegerNetwork, run: Callable) -> Callable[[Any], Result]:
    mapped, shape = batched(run), network.nodes[0].shape[1:]

    def fn(x):
        x = jnp.asarray(x)
        if x.shape[1:] != shape:
            raise ValueError(f"expected inputs [n, {shape}], got {x.shape}")
        return mapped(x.astype(jnp.int32))

    return fn


def _result(network, values, codes) -> Result:
    outputs = {
        node.name: values[node.name].astype(jnp.int32)[0]
        for node in network.of_kind("output")
    }
    return Result(outputs, {k: c.astype(jnp.int32)[0] for k, c in codes.items()})
