"""Exact in integers: the layer graph with int8 weights and integer thresholds."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bitsnn_jax.integers import routines
from bitsnn_jax.integers.agreement import drawn, integer_difference
from bitsnn_jax.integers.folding import NotFoldable
from bitsnn_jax.integers.graph import NUMBERS, Graph, Node, Scale, Shift, Term
from bitsnn_jax.integers.grid import (
    MAX_GUARD,
    MAX_RESOLUTION,
    enough,
    exponent,
    guard_bits,
    in_units,
    largest,
    largest_fraction,
    largest_threshold,
    limit_of,
    of_integers,
    smallest_unit,
    unit_without_delta,
)
from bitsnn_jax.integers.maxima import merged_units
from bitsnn_jax.integers.network import IntegerNetwork, IntegerNode, largest_sums
from bitsnn_jax.integers.products import SUM_BITS, held, product_node
from bitsnn_jax.integers.tables import TableError, resolution, table
from bitsnn_jax.numerics.spikes import check_steps

# The largest weight of a term is at least so many units, where the width allows it,
PRECISE = 8
# unless the term brings less than this part of what the largest one can.
FELT = 1 / 256
# Scores in front of a softmax have units of 2**-18, where 32 bits hold them.
SCORE_BITS = 18


class FixedPointError(ValueError):
    """A layer that has no integers of the width asked for."""


def fixed_point(
    graph: Graph, *, steps: int, bits: int = 8, white: Any = 255, inputs: Any = None
) -> IntegerNetwork:
    """Put the network into integers; each channel of each layer has a unit of its own.

    A channel of neurons counts its current in units of delta / 2**f. In these, a term
    of the codes k of its source has the weights W = round(w delta_source 2**f / delta),
    and the threshold of step t is the integer 2**(f + T - t). f is the largest with
    |W| < 2**(bits - 1) in the channel. A "sum" has such a unit too, of a size that its
    weights suggest. All channels of an output have the same, so that logits compare.

    Sums of integers are the same in any order. So one pass with codes and T passes with
    spikes have the same codes and the same logits, to the last bit.

    Differs from the float network by the rounding of weights and biases, and of sums to
    16 bits. A "sum", as behind the linear bottleneck of MobileNetV2, is collected for T
    steps, rounded, and enters what it feeds once, as the image does. So do softmax and
    normalised rows, which `routines` compute of integers, with errors of their own.

    Args:
      graph: of `lowering.lower`. Its input must be integers 0..white, such as the
        pixels of an image, with the normalisation inside the network.
      steps: T, at least 1.
      bits: of a weight, 2 to 8, sign included.
      white: highest integer of the input; or of each place of it, integers that
        broadcast to its shape, for an input such as word ids and a mask side by side.
      inputs: [n, ...] integers on which each node is compared with that of the graph;
        by default one input is drawn.

    Returns:
      An IntegerNetwork.

    Raises:
      FixedPointError: a sum that could leave 32 bits, weights so large that a spike
        drives a neuron by more codes than `bits` can tell, a term that would be rounded
        away in 32 bits, a scale that differs from place to place, a difference on
        `inputs` that rounding does not explain; with the layer's name.
      ValueError: bits, steps or white out of range.
    """
    network = begun(graph, steps=steps, bits=bits, white=white)
    for node in graph.nodes[1:]:
        network = extended(network, node)
    shape = graph.nodes[0].shape
    for x in drawn(shape, white) if inputs is None else np.asarray(inputs):
        if difference := integer_difference(network, graph, x.reshape(shape)):
            raise FixedPointError(f"the integers are another network: {difference}")
    return network


def begun(graph: Graph, *, steps: int, bits: int, white: Any) -> IntegerNetwork:
    """Make an integer network of the input alone.

    Raises:
      ValueError: bits, steps or white out of range.
    """
    if not 2 <= bits <= 8:
        raise ValueError(f"bits must be 2 to 8, got {bits}")
    check_steps(steps)
    shape, tops = graph.nodes[0].shape, np.asarray(white, np.int64)
    try:
        np.broadcast_to(tops, shape)
    except ValueError:
        raise ValueError(
            f"white has the shape {tops.shape}, expected one that broadcasts to "
            f"{shape}, that of the input"
        ) from None
    if tops.min() < 1:
        raise ValueError(f"white must be at least 1, got {tops.min()}")
    node = IntegerNode("input", "input", shape, bound=int(tops.max()))
    places = tops if tops.ndim else None
    return IntegerNetwork((node,), steps, bits, node.bound, places)


def extended(network: IntegerNetwork, node: Node) -> IntegerNetwork:
    """Put one more node into integers; all that feed it are there.

    Raises:
      FixedPointError: see `fixed_point`.
    """
    if node.levels == 2**network.steps:
        raise FixedPointError(
            f"{node.name}: {node.levels} levels do not fit the codes of "
            f"{network.steps} steps; train with levels={2**network.steps - 1}"
        )
    try:
        make = product_node if held(node) else _MAKERS[node.kind]
        made = make(node, network)
    except NotFoldable as error:
        raise FixedPointError(
            f"{node.name}: a scale of its input has no weight to go into: {error}"
        ) from None
    except TableError as error:
        raise FixedPointError(f"{node.name}: {error}") from None
    if made.bound >= 2**31:
        raise FixedPointError(
            f"{node.name}: its sum can reach {made.bound:,}, which leaves 32 bits; "
            "fewer steps would do"
        )
    return dataclasses.replace(network, nodes=(*network.nodes, made))


def _maximum(node: Node, network: IntegerNetwork) -> IntegerNode:
    """Keep codes, which are compared, not computed with; thresholds must be equal."""
    # One for each channel, which no maximum mixes, or one for all.
    unit = merged_units(node, network)
    one = Scale(np.ones((), np.int16))
    terms = tuple(term._replace(weight=one) for term in node.terms)
    bound = max(network[term.source].bound for term in terms)
    return IntegerNode(node.name, node.kind, node.shape, terms, unit=unit, bound=bound)


def _neurons(node: Node, network: IntegerNetwork) -> IntegerNode:
    """Count a channel in units of delta / 2**f, so that thresholds are powers of 2.

    With a function in front of the code they are the numbers of a table, and the unit
    is as fine as this takes.
    """
    terms = _of_integers(node, network)
    least = smallest_unit(node, terms, network.largest_weight, per_channel=True)
    levels = 2**network.steps - 1
    delta = node.theta / levels
    most, wanted = largest_threshold(network.steps), 0
    if node.fn is not None:
        wanted = resolution(node.fn, node.theta, levels, len(node.shape))
        wanted = min(max(0, wanted), MAX_RESOLUTION)
        most = np.where(least > 0, MAX_RESOLUTION, wanted)  # 0: no weights
    fraction = largest_fraction(delta, least, most)
    if fraction.min() < -MAX_GUARD:
        raise FixedPointError(
            f"{node.name}: weights overflow: the smallest that this width can tell "
            f"drives a neuron by {float((least / delta).max()):.3g} codes"
        )

    def finer(guard, bound):
        return (fraction + guard).astype(np.int32)

    wanted = min(wanted - int(fraction.min()), MAX_GUARD)
    sums = _Sums(delta / 2.0**fraction, fraction, finer, wanted)
    made = _fitted(node, terms, sums, network)
    if node.fn is None:
        return made
    rank, bound = len(node.shape), made.bound - int(made.half.max())
    theta, unit = (
        np.reshape(x, (1,) * (rank - np.ndim(x)) + np.shape(x))
        for x in (node.theta, made.sum_unit)
    )
    rise, fall = table(node.fn, theta, unit, steps=network.steps, reach=bound)
    return made._replace(rise=rise, fall=fall, bound=bound)


def _sum(node: Node, network: IntegerNetwork) -> IntegerNode:
    """Count each channel in a unit of its own, if that can be; round to 16 bits."""

    def to_16_bits(guard, sums):
        bits = int(sums.max()).bit_length() + 1
        return np.array(max(0, bits - SUM_BITS), np.int32)

    per_channel = not node.has_one_unit
    return _without_delta(node, network, to_16_bits, per_channel=per_channel)


def _output(node: Node, network: IntegerNetwork) -> IntegerNode:
    """Count all channels in one unit, so that logits compare; round nothing."""

    return _without_delta(node, network, _unrounded, per_channel=False)


def _unrounded(guard: int, sums: np.ndarray) -> np.ndarray:
    return np.zeros((), np.int32)


def _softmax(node: Node, network: IntegerNetwork) -> IntegerNode:
    """Count scores in one unit, a power of two unless they have weights of their own.

    What a mask brings may be far larger than what scores differ by, so the unit does
    not follow the largest factor.
    """
    _check_rows(node, routines.MOST_SCORES)
    terms = _of_integers(node, network)
    least = smallest_unit(node, terms, network.largest_weight, per_channel=False)
    wanted = 0 if least > 0 else SCORE_BITS
    one = np.where(least > 0, least, 1.0)
    sums = _Sums(one, np.zeros(()), _unrounded, wanted, most=routines.LARGEST_SCORE)
    made = _fitted(node, terms, sums, network)
    unit = float(made.unit)
    return made._replace(
        unit=np.array(2.0**-routines.PROBABILITY_BITS),
        routine=routines.softmax_units(unit),
        row_unit=unit,
    )


def _normalised(node: Node, network: IntegerNetwork) -> IntegerNode:
    """Count each channel in a unit of its own, and round all of a row to one.

    The units are powers of two apart, so shifts round them.
    """
    _check_rows(node, routines.MOST_FEATURES)
    terms = _of_integers(node, network)
    least = smallest_unit(node, terms, network.largest_weight, per_channel=True)
    unit = unit_without_delta(terms, np.max(least))
    finer = largest_fraction(unit, least, np.where(least > 0, MAX_GUARD, 0))
    limit = routines.largest_to_normalise(node.shape[-1])

    def to_one_unit(guard, sums):
        fraction = (finer - finer.min()).astype(np.int32)
        while ((sums >> fraction) + 1 > limit).any():
            fraction = fraction + 1
        return fraction

    sums = _Sums(unit / 2.0**finer, finer, to_one_unit)
    made = _fitted(node, terms, sums, network)
    unit = float(np.max(made.unit))
    return made._replace(
        unit=np.array(2.0**-routines.NORMALISED_BITS),
        routine=routines.epsilon_units(node.epsilon, unit, node.shape[-1]),
        row_unit=unit,
    )


def _without_delta(
    node: Node,
    network: IntegerNetwork,
    rounds: Callable[[int, np.ndarray], np.ndarray],
    *,
    per_channel: bool,
) -> IntegerNode:
    """Make a node whose weights alone suggest its unit."""
    terms = _of_integers(node, network)
    limit = network.largest_weight
    least = smallest_unit(node, terms, limit, per_channel=per_channel)
    sums = _Sums(unit_without_delta(terms, least), np.zeros(()), rounds)
    return _fitted(node, terms, sums, network)


def _check_rows(node: Node, most: int) -> None:
    if node.shape[-1] > most:
        raise FixedPointError(
            f"{node.name}: rows of {node.shape[-1]} numbers, and the integer routine "
            f"takes {most} at most"
        )


# How the integers of a node are made, by its kind.
_MAKERS: dict[str, Callable[[Node, IntegerNetwork], IntegerNode]] = {
    "neurons": _neurons,
    "maximum": _maximum,
    "sum": _sum,
    "softmax": _softmax,
    "normalised": _normalised,
    "output": _output,
}


def _of_integers(node: Node, network: IntegerNetwork) -> list[Term]:
    return [of_integers(term, network[term.source]) for term in node.terms]


class _Sums(NamedTuple):
    """How a node counts its sums.

    Attributes:
      unit: the coarsest one it may have.
      fraction: that goes with it.
      rounds: (bits below that unit, largest sums) -> the fraction of the node.
      wanted: bits below that unit, where 32 bits have them.
      most: largest sum that it may have.
    """

    unit: np.ndarray
    fraction: np.ndarray
    rounds: Callable[[int, np.ndarray], np.ndarray]
    wanted: int = 0
    most: int = 2**31 - 1


def _fitted(
    node: Node, terms: list[Term], sums: _Sums, network: IntegerNetwork
) -> IntegerNode:
    """Make the node with the finest unit that its terms need and 32 bits hold.

    The terms are of integers.
    """
    limit = network.largest_weight
    sources = [network[term.source] for term in terms]
    terms = [
        in_units(term, sums.unit, source)
        for term, source in zip(terms, sources, strict=True)
    ]
    guards = [guard_bits(term) for term in terms]
    least = max(0, -int(sums.fraction.min()), *(min(g, MAX_GUARD) for g in guards))
    # A sum has more values than codes are, and its weights are as much smaller.
    even = len(terms) == 1 and sources[0].kind not in NUMBERS
    exponents = [exponent(term, limit, even=even) for term in terms]
    finer = [e for e, t in zip(exponents, terms, strict=True) if t.has_kernel]
    # As fine as the finest term asks for, if 32 bits hold the thresholds and the sum.
    most = 30 - network.steps - int(sums.fraction.max())
    guard = max(least, min(max([*guards, *finer, sums.wanted]), most))
    while True:
        made = _rounded_node(node, terms, sums.unit, guard, exponents, limit)
        each = largest_sums(made, network)
        made = made._replace(fraction=sums.rounds(guard, each))
        bound = int(each.max(initial=0)) + int(made.half.max())
        if bound <= sums.most:
            break
        if guard == least:
            raise FixedPointError(
                f"{node.name}: its sum can reach {bound:,}, which leaves "
                f"{sums.most.bit_length() + 1} bits; fewer bits than {network.bits} "
                "would do"
            )
        guard -= 1
    if not even:
        scales = [2.0 ** min(e, guard) for e in exponents]
        _check_felt(node, terms, scales, limit, network)
    return made._replace(unit=sums.unit / 2**guard * 2.0**made.fraction, bound=bound)


def _rounded_node(
    node: Node,
    terms: list[Term],
    unit: np.ndarray,
    guard: int,
    exponents: list[int],
    limit: int,
) -> IntegerNode:
    """Make the node in units of unit / 2**guard, from terms in units of unit.

    Weights are rounded in units of unit / 2**exponent, and products shifted.
    """
    whole = []
    for term, bits in zip(terms, exponents, strict=True):
        bits = min(bits, guard)
        whole.append(_shifted(_rounded(term, 2.0**bits, limit, node), guard - bits))
    bias = np.round(node.bias / (unit / 2**guard))
    if np.abs(bias).max() >= 2**31:
        raise FixedPointError(f"{node.name}: a bias of {np.abs(bias).max():.3g} units")
    made = IntegerNode(node.name, node.kind, node.shape, tuple(whole))
    return made._replace(bias=bias.astype(np.int32))


def _rounded(term: Term, scale: float, limit: int, node: Node) -> Term:
    """Compute scale * term, with weights of whole units."""
    integers, limit = np.round(term.numbers * scale), limit_of(term, limit)
    if np.abs(integers).max(initial=0) > limit:
        raise FixedPointError(
            f"{node.name}: a weight of {np.abs(integers).max():,.0f} units from "
            f"{term.source} overflows; at most {limit} fits"
        )
    return term.with_numbers(integers.astype(np.int8 if limit < 2**7 else np.int16))


def _shifted(term: Term, amount: int) -> Term:
    return term._replace(after=(*term.after, Shift(amount))) if amount else term


def _check_felt(
    node: Node,
    terms: list[Term],
    scales: list[float],
    limit: int,
    network: IntegerNetwork,
) -> None:
    """Raise FixedPointError if rounding leaves too little of a term that matters."""
    brought = [largest(term) * network.top(term.source) for term in terms]
    for term, scale, most in zip(terms, scales, brought, strict=True):
        size, rounded = largest(term), term.numbers * scale
        is_exact = np.abs(np.round(rounded) - rounded).max(initial=0) <= 1e-9 * size
        wanted = min(enough(limit), PRECISE) if term.has_kernel else PRECISE
        if not is_exact and size * scale < wanted and most > FELT * max(brought):
            raise FixedPointError(
                f"{node.name}: in sums of 32 bits, what {term.source} brings is "
                f"rounded to {size * scale:.2g} units at most; put neurons in between, "
                "or scale the terms alike"
            )
