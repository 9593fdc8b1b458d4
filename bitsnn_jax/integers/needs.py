"""What each layer needs of hardware: bits, connections, messages, neurons."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax.integers.accumulators import bits_for
from bitsnn_jax.integers.graph import (
    NUMBERS,
    ROWS,
    Conv,
    Dense,
    Held,
    Lookup,
    Scale,
    Term,
    apply_term,
)
from bitsnn_jax.integers.network import IntegerNetwork, IntegerNode
from bitsnn_jax.integers.operations import fan_in, term_paths
from bitsnn_jax.integers.products import SUM_BITS

WITHOUT_MEMBRANE = ("input", "maximum")


class LayerNeeds(NamedTuple):
    """What a node with a membrane needs.

    Attributes:
      name, kind: as in `IntegerNode`.
      neurons: entries, each with a membrane.
      weight_bits: with the sign, of the widest number that a connection adds. A power
        of two that all numbers of a term share is a shift, and left out.
      distinct_weights: the most different numbers, other than 0, that one entry adds.
        Those of several terms are counted apart.
      weights: stored numbers, those of a kernel once.
      memory_bits: of these, each term at its own width.
      connections: paths from an entry of a source to an entry of this node.
      fan_in: the most of them that one entry has.
      fan_out: the most that one entry of this node has, to all that it feeds.
      input_bits: of a number that comes from the image; 0 without one.
      message_bits: of what comes from other nodes: a spike has 1, a number of a "sum",
        of a softmax or of a normalised node has 16. 0 without one.
      row_entries: that a routine mixes with each other; 0 without a routine.
      bound: as in `IntegerNode`.
      low, high: the least and the largest membrane, see `sum_range`.
      accumulator_bits: that hold low..high.
    """

    name: str
    kind: str
    neurons: int
    weight_bits: int
    distinct_weights: int
    weights: int
    memory_bits: int
    connections: int
    fan_in: int
    fan_out: int
    input_bits: int
    message_bits: int
    row_entries: int
    bound: int
    low: int
    high: int
    accumulator_bits: int


def layer_needs(network: IntegerNetwork) -> tuple[LayerNeeds, ...]:
    """Read off a network what each of its nodes with a membrane needs."""
    fed: dict[str, Any] = {}
    for name, paths in term_paths(network).items():
        for term, reached in zip(network[name].terms, paths, strict=True):
            fed[term.source] = fed.get(term.source, 0) + reached
    return tuple(
        _needs(node, network, int(np.max(fed.get(node.name, 0))))
        for node in network.nodes
        if node.kind not in WITHOUT_MEMBRANE
    )


def _needs(node: IntegerNode, network: IntegerNetwork, fan_out: int) -> LayerNeeds:
    connected = sum(fan_in(term, network[term.source].shape) for term in node.terms)
    lows, highs = sum_range(node, network)
    low, high = int(lows.min()), int(highs.max())
    widths = [_weight_bits(term, network) for term in node.terms]
    sizes = [_stored(term) for term in node.terms]
    messages = [_message_bits(term.source, network) for term in node.terms]
    from_image = [network[term.source].kind == "input" for term in node.terms]
    return LayerNeeds(
        name=node.name,
        kind=node.kind,
        neurons=math.prod(node.shape),
        weight_bits=max(widths),
        distinct_weights=sum(_distinct(term) for term in node.terms),
        weights=sum(sizes),
        memory_bits=sum(w * n for w, n in zip(widths, sizes, strict=True)),
        connections=int(np.sum(connected)),
        fan_in=int(np.max(connected)),
        fan_out=fan_out,
        input_bits=max(b * i for b, i in zip(messages, from_image, strict=True)),
        message_bits=max(
            b * (not i) for b, i in zip(messages, from_image, strict=True)
        ),
        row_entries=node.shape[-1] if node.kind in ROWS else 0,
        bound=node.bound,
        low=low,
        high=high,
        accumulator_bits=bits_for(low, high),
    )


def sum_range(
    node: IntegerNode, network: IntegerNetwork
) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and the largest membrane that each entry can ever have.

    Weights may be added in any order, and so may the parts of the bias and half. The
    codes of all sources are taken to be free, each from 0 to its top. Then an input and
    an order lead to either end, so that no narrower range is right.

    Args:
      node: with a membrane.
      network: it is in.

    Returns:
      int64 arrays of the shape of the node.
    """
    bias = np.broadcast_to(np.asarray(node.bias, np.float64), node.shape)
    low, high = np.minimum(bias, 0), np.maximum(bias, 0) + node.half
    with jax.enable_x64(True):  # float64 has every integer up to 2**53
        for term in node.terms:
            falling, rising = _term_range(term, network)
            low, high = low + falling, high + rising
    return low.astype(np.int64), high.astype(np.int64)


def _term_range(term: Term, network: IntegerNetwork) -> tuple[np.ndarray, np.ndarray]:
    """Return what a term brings at least and at most while it is added up."""
    full = {name: _filled(name, network, 1) for name in term.sources}
    least = {name: _filled(name, network, -1) for name in term.sources}
    if isinstance(term.weight, Held):
        # What is streamed is a code; what is held may be negative.
        parts = [term.given(values) for values in (least, full)]
        low, high = (apply_term(part, full[term.source]) for part in parts)
        return np.asarray(low), np.asarray(high)
    numbers = term.numbers.astype(np.float64)
    if isinstance(term.weight, Lookup):  # of any row, once
        sides = numbers.min(0, keepdims=True), numbers.max(0, keepdims=True)
        rows = (np.minimum(sides[0], 0), np.maximum(sides[1], 0))
        parts = (term._replace(weight=Lookup(row)) for row in rows)
        low, high = (apply_term(part, full[term.source]) for part in parts)
        return np.asarray(low), np.asarray(high)
    up, down = (
        term.with_numbers(clip(numbers, 0)) for clip in (np.maximum, np.minimum)
    )
    low = apply_term(up, least[term.source]) + apply_term(down, full[term.source])
    high = apply_term(up, full[term.source]) + apply_term(down, least[term.source])
    return np.asarray(low), np.asarray(high)


def _filled(name: str, network: IntegerNetwork, sign: int) -> jax.Array:
    """Return a node at its largest value everywhere, or, for -1, at its least."""
    if sign < 0:
        return jnp.full(network[name].shape, network.low(name), jnp.float64)
    return jnp.asarray(network.full(name), jnp.float64)


def _message_bits(source: str, network: IntegerNetwork) -> int:
    kind = network[source].kind
    if kind == "input":
        return network.white.bit_length()
    return SUM_BITS if kind in NUMBERS else 1


def _weight_bits(term: Term, network: IntegerNetwork) -> int:
    if isinstance(term.weight, Held):
        return _value_bits(term.weight.source, network)
    numbers = term.numbers.astype(np.int64)
    shared = int(np.bitwise_or.reduce(np.abs(numbers), axis=None))
    shift = (shared & -shared).bit_length() - 1 if shared else 0
    numbers = numbers >> shift
    return bits_for(int(numbers.min(initial=0)), int(numbers.max(initial=0)))


def _value_bits(name: str, network: IntegerNetwork) -> int:
    return bits_for(network.low(name), network.top(name))


def _stored(term: Term) -> int:
    return 0 if isinstance(term.weight, Held) else term.numbers.size


def _distinct(term: Term) -> int:
    """Count the different numbers that the term has for one entry, at most."""
    weight = term.weight
    if isinstance(weight, Held):
        return weight.shape[1]  # they come with the input
    if isinstance(weight, Scale):
        return int(np.any(weight.factor))
    if isinstance(weight, Lookup):
        return 1  # of the row that is named
    assert isinstance(weight, Conv | Dense)
    columns = np.sort(weight.kernel.reshape(-1, weight.kernel.shape[-1]), axis=0)
    is_new = np.diff(columns, axis=0, prepend=columns[:1] - 1) != 0
    return int(np.max(np.sum(is_new & (columns != 0), axis=0), initial=0))
