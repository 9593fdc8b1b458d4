"""Run a network of integers: in one pass, or spike by spike."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax.integers import routines, tables
from bitsnn_jax.integers.accumulators import Accumulator
from bitsnn_jax.integers.carriers import EXACT, checked, places, product
from bitsnn_jax.integers.graph import ROWS, Sum, WindowSum, apply_term, batched
from bitsnn_jax.integers.maxima import largest_codes
from bitsnn_jax.integers.network import IntegerNetwork, IntegerNode
from bitsnn_jax.integers.products import with_tops
from bitsnn_jax.numerics.codings import CODINGS, coding_of
from bitsnn_jax.numerics.neurons import collect
from bitsnn_jax.numerics.spikes import code_type
from bitsnn_jax.numerics.stored import stored


class Result(NamedTuple):
    """What both executions give.

    Attributes:
      outputs: name -> int32 [n, ...]; times the unit of its node, the logits.
      codes: name of each layer of neurons -> int32 [n, ...], its spikes packed.
      largest: name of each node with a membrane -> int32 [n], the largest |sum| that an
        `accumulator` was given to hold; None without one.
    """

    outputs: dict[str, jax.Array]
    codes: dict[str, jax.Array]
    largest: dict[str, jax.Array] | None = None


def one_shot(
    network: IntegerNetwork, *, carrier: str | None = None
) -> Callable[[Any], Result]:
    """Run the integer ANN: one pass, with codes.

    Args:
      network: of `fixed_point`.
      carrier: of the numbers, see `carriers`. The result does not depend on it. None
        for the fastest.

    Returns:
      A function of integers [n, ...] in 0..levels, of any type -> Result. Wrap it in
      `jax.jit`.

    Raises:
      ValueError: unknown carrier.
    """
    carrier = checked(carrier)
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
            values[node.name] = value = value_of(node, add(node, terms), network.steps)
            if node.kind == "neurons":
                if carrier == "int8":
                    value = value.astype(code_type(network.steps))
                values[node.name] = codes[node.name] = stored(value)
        return _result(network, values, codes)

    return _checked(network, run)


def stepped(
    network: IntegerNetwork,
    *,
    carrier: str | None = None,
    unroll: bool = True,
    accumulator: Accumulator | None = None,
    coding: str = "bits",
) -> Callable[[Any], Result]:
    """Run the spiking network: T steps of spikes, with integer thresholds.

    Each step brings the weights of the spikes of that step, shifted by T - t, and a
    part of the bias; the image and sums come with the first. Then each layer fires for
    T steps against 2**(fraction + T - t); for signed digits see `fire_digits`.

    Arguments, result and errors are those of `one_shot`, and

      unroll: write the T steps into the program one after the other. False: two
        `lax.scan`s over time for each layer, one that integrates and one that fires, so
        that neither the program nor its temporaries grow with T, up to T = 16, from
        where on a code takes four bytes in place of two. The result is the same.
      accumulator: that holds each membrane, as hardware would. None for one that holds
        every sum. Needs `unroll`.
      coding: as in `spiking`. The result is the same.
    """
    if accumulator is not None and not unroll:
        raise ValueError("an accumulator needs unroll=True: it is applied step by step")
    sends = coding_of(coding)
    times = sends.times(network.steps)
    add = _adder(network, checked(carrier), sends)
    simulate = _unrolled if unroll else _rolled

    def run(x):
        values, codes, trains, largest = {"input": x}, {}, set(), {}
        for node in network.nodes[1:]:
            if node.kind == "maximum":
                values[node.name] = largest_codes(node, values)
                trains.add(node.name)
                continue
            # What a product holds is complete: its layer has fired.
            parts = [
                (with_tops(t, values, network), values[t.source]) for t in node.terms
            ]
            # The image and numbers have no time: they are there at the first step.
            once = [part for part in parts if part[0].source not in trains]
            timed = [part for part in parts if part[0].source in trains]
            start = add(node, once, bias=np.zeros((), np.int32))
            hold = _Register(accumulator)

            def charge(place, node=node, timed=timed):
                """Return what the step t = T - place brings."""
                spikes = [(term, sends.digit(code, place)) for term, code in timed]
                bias = bias_part(node.bias, times - 1 - place, times)
                return add(node, spikes, shift=place, bias=bias)

            membrane, fire = simulate(node, charge, start, network.steps, sends, hold)
            if node.kind == "neurons":
                # Packed, T steps take the space of one; see `readings.Spikes`.
                values[node.name] = codes[node.name] = fire()
                trains.add(node.name)
            else:
                if accumulator is not None:  # the half is an addition too
                    half = jnp.asarray(node.half, membrane.dtype)
                    membrane = hold(membrane + half) - half
                values[node.name] = value_of(node, membrane, network.steps)
            largest[node.name] = hold.largest
        result = _result(network, values, codes)
        return result if accumulator is None else result._replace(largest=largest)

    return _checked(network, run)


class _Register:
    """An accumulator at work, and the largest sum that it was given."""

    def __init__(self, accumulator: Accumulator | None):
        self.accumulator, self.largest = accumulator, jnp.zeros((), jnp.int32)

    def __call__(self, total: jax.Array) -> jax.Array:
        """Return what is left of a sum."""
        if self.accumulator is None:
            return total
        found = jnp.max(jnp.abs(total)).astype(jnp.int32)
        self.largest = jnp.maximum(self.largest, found)
        return self.accumulator.limited(total)


def bias_part(bias: np.ndarray, t: Any, steps: int) -> Any:
    """Return part t = 0..T-1 of T integers, equal as can be, that add up to each bias.

    >>> [bias_part(np.array([7, -7]), t, 4).tolist() for t in range(4)]
    [[2, -1], [2, -2], [2, -2], [1, -2]]
    """
    low, rest = np.divmod(bias, steps)
    return low + (t < rest)


def _unrolled(node, charge, start, steps, coding, hold):
    """Charge the membrane; return it and what fires it by Eq. (10) and packs spikes.

    `hold` is given the sum after each addition, and returns what is left of it.
    """
    membrane = hold(start)
    for place in reversed(range(coding.times(steps))):
        membrane = hold(membrane + charge(place))
    return membrane, lambda: stored(_fired(node, membrane, steps, coding, hold))


def _rolled(node, charge, start, steps, coding, _):
    """Do the same as loops at run time, with a membrane that holds every sum."""
    membrane = collect(charge, start, steps=coding.times(steps))
    return membrane, lambda: _fired(node, membrane, steps, coding, None)


def _fired(node, membrane, steps, coding, hold):
    unroll = hold is not None
    if node.has_table:
        return tables.fired_codes(node, membrane, steps=steps, unroll=unroll)
    u = membrane + jnp.asarray(node.half, membrane.dtype)
    delta = jnp.asarray(np.left_shift(1, node.fraction), u.dtype)
    return coding.fire(hold(u) if hold else u, delta, steps=steps, unroll=unroll)


def value_of(node: IntegerNode, z: jax.Array, steps: int) -> jax.Array:
    """Return what a node sends: a code, numbers, or z; see `IntegerNode`.

    Args:
      node: which is no maximum.
      z: sum of its terms and bias, in any type that holds it.
      steps: T.
    """
    if node.kind == "output":
        return z
    if node.has_table:
        return tables.one_shot_codes(node, z)
    z = z + jnp.asarray(node.half, z.dtype)
    if z.dtype == jnp.int32:
        z = z >> node.fraction
    else:
        z = jnp.floor(z * jnp.asarray(2.0**-node.fraction, z.dtype))
    if node.kind in ROWS:
        # Not computed again for each node that is fed.
        rows = _ROUTINES[node.kind](stored(z.astype(jnp.int32)), *node.routine)
        return stored(rows).astype(z.dtype)
    return jnp.clip(z, 0, 2**steps - 1) if node.kind == "neurons" else z


_ROUTINES = {"softmax": routines.softmax, "normalised": routines.normalise}


def _adder(network, carrier, coding=CODINGS["bits"]):
    """(node, [(term, array)], shift) -> the sum of the terms and the bias."""
    # What the first digits overshoot, the last ones take back.
    beyond = 1 + coding.before
    tops = {n.name: network.top(n.name) for n in network.nodes if n.kind != "output"}

    def add(node, terms, *, shift=0, bias=None):
        fits = beyond * node.bound < EXACT["float32"]
        in_floats = carrier in ("float32", "bfloat16") and fits
        dtype = jnp.float32 if in_floats else jnp.int32
        total = jnp.zeros((1,) * len(node.shape), dtype)
        for term, x in terms:
            total += _brought(term, x, tops[term.source], network, carrier, dtype)
        bias = node.bias if bias is None else bias
        total = total * jnp.asarray(1 << shift, dtype) + jnp.asarray(bias, dtype)
        return total if terms else jnp.broadcast_to(total, node.shape)

    return add


def _brought(term, x, top, network, carrier, dtype):
    """Compute what a term brings, of numbers or of spikes."""
    high, low = top, network.low(term.source)
    if x.dtype in (jnp.bool_, jnp.int8):  # spikes, or signed digits
        high, low = 1, 0 if x.dtype == jnp.bool_ else -1
    count = places(term.before, x.shape)
    adds = any(isinstance(op, Sum | WindowSum) for op in term.before)
    if carrier != "int8" or adds:
        x = x.astype(dtype)
    elif x.dtype == jnp.bool_:
        x = x.astype(jnp.int8)

    def apply_weight(weight, x):
        return product(weight, x, low * count, high * count, carrier, dtype)

    return apply_term(term, x, apply_weight).astype(dtype)


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
