"""Exact in integers: the layer graph with int8 weights and integer thresholds."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax.integers.agreement import drawn, integer_difference
from bitsnn_jax.integers.folding import NotFoldable, fed, scaled
from bitsnn_jax.integers.graph import (
    Graph,
    Node,
    Reshape,
    Scale,
    Shift,
    Term,
    Weight,
    apply_term,
)
from bitsnn_jax.numerics.spikes import check_steps
from bitsnn_jax.runtime.columns import table

# Signed bits of a multiplier: what a term without weights, an identity, has one of.
MULTIPLIER_BITS = 16
# A multiplier has at least these bits where it is not exact: an error below 1 %.
PRECISE_BITS = 6
# Products may be shifted by as many bits: for that, and where weights are large. By
# more only where a term would be rounded away beside the others.
MAX_GUARD = 8
# The largest weight of a term is at least so many units, where the width allows it,
PRECISE = 8
# unless the term brings less than this part of what the largest one can.
FELT = 1 / 256
# Signed bits of a "sum" after rounding.
SUM_BITS = 16
# Channels without large weights would have thresholds that leave 32 bits.
MAX_FRACTION = 12


class FixedPointError(ValueError):
    """A layer that has no integers of the width asked for."""


class IntegerNode(NamedTuple):
    """A node whose numbers are integers. With z = sum of terms + bias, its value is

        "neurons"  code = clip(floor((z + half) / 2**fraction), 0, 2**T - 1), which the
                   neuron finds bit by bit with the thresholds 2**(fraction + T - t)
        "sum"      floor((z + half) / 2**fraction), in 16 bits: z, rounded
        others     z

    Attributes:
      name, kind, shape, terms: as in `graph.Node`; kernels are int8, multipliers int16.
      bias: int32, broadcasts to `shape`.
      fraction: int32, broadcasts to `shape`; 0 where nothing is divided.
      unit: what a value of 1 stands for in the float network, e.g. delta.
      bound: the largest |sum of terms + bias + half| that any input can cause, in any
        order of addition.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    terms: tuple[Term, ...] = ()
    bias: np.ndarray = np.zeros((), np.int32)
    fraction: np.ndarray = np.zeros((), np.int32)
    unit: np.ndarray = np.ones(())
    bound: int = 0

    @property
    def half(self) -> np.ndarray:
        """The half step that makes the floor of Eq. (2) round; 0 at fraction 0."""
        return np.left_shift(1, self.fraction) >> 1


@dataclasses.dataclass(frozen=True)
class IntegerNetwork(Graph):
    """What `fixed_point` makes. `integers.one_shot` and `integers.stepped` run it.

    Attributes:
      nodes: as in `Graph`.
      steps: T.
      bits: of a weight, sign included.
      levels: highest integer of the input.
    """

    nodes: tuple[IntegerNode, ...]
    steps: int
    bits: int
    levels: int

    def top(self, name: str) -> int:
        """The largest |value| of a node."""
        node = self[name]
        if node.kind == "maximum":
            return self.top(node.terms[0].source)
        if node.kind == "sum":
            return (node.bound >> int(node.fraction)) + 1
        return {"input": self.levels, "neurons": 2**self.steps - 1}[node.kind]

    def __str__(self) -> str:
        rows = [("layer", "kind", "fed by", "fraction", "bound", "bits")]
        for node in self.nodes:
            low, high = node.fraction.min(), node.fraction.max()
            sources = ", ".join(term.source for term in node.terms)
            bits = str(node.bound.bit_length() + 1) if node.terms else ""
            spread = f"{low}" if low == high else f"{low}..{high}"
            rows.append(
                (node.name, node.kind, sources, spread, f"{node.bound:,}", bits)
            )
        return table(rows, names=3)


def fixed_point(
    graph: Graph, *, steps: int, bits: int = 8, levels: int = 255, inputs: Any = None
) -> IntegerNetwork:
    """The network in integers; each channel of each layer has a unit of its own.

    A channel of neurons counts its current in units of delta / 2**f. In these, a term
    of the codes k of its source has the weights W = round(w delta_source 2**f / delta),
    and the threshold of step t is the integer 2**(f + T - t). f is the largest with
    |W| < 2**(bits - 1) in the channel. A "sum" has such a unit too, of a size that its
    weights suggest. All channels of an output have the same, so that logits compare.

    Sums of integers are the same in any order. So one pass with codes and T passes with
    spikes have the same codes and the same logits, to the last bit.

    Differs from the float network by the rounding of weights and biases, and of sums to
    16 bits. A "sum", as behind the linear bottleneck of MobileNetV2, is collected for T
    steps, rounded, and enters what it feeds once, as the image does.

    Args:
      graph: of `lowering.lower`. Its input must be integers 0..levels, such as the
        pixels of an image, with the normalisation inside the network.
      steps: T, at least 1.
      bits: of a weight, 2 to 8, sign included.
      levels: highest integer of the input.
      inputs: [n, ...] integers on which each node is compared with that of the graph;
        by default one input is drawn.

    Returns:
      An IntegerNetwork.

    Raises:
      FixedPointError: a sum that could leave 32 bits, weights so large that a spike
        drives a neuron by more codes than `bits` can tell, a term that would be rounded
        away in 32 bits, a scale that differs from place to place, a difference on
        `inputs` that rounding does not explain; with the layer's name.
      ValueError: bits or steps out of range.
    """
    if not 2 <= bits <= 8:
        raise ValueError(f"bits must be 2 to 8, got {bits}")
    check_steps(steps)
    shape = graph.nodes[0].shape
    network = IntegerNetwork(
        (IntegerNode("input", "input", shape, bound=levels),),
        steps,
        bits,
        levels,
    )
    for node in graph.nodes[1:]:
        if node.levels == 2**steps:
            raise FixedPointError(
                f"{node.name}: {node.levels} levels do not fit the codes of {steps} "
                f"steps; train with levels={2**steps - 1}"
            )
        try:
            make = _maximum if node.kind == "maximum" else _integers
            made = make(node, network)
        except NotFoldable as error:
            raise FixedPointError(
                f"{node.name}: a scale of its input has no weight to go into: {error}"
            ) from None
        network = dataclasses.replace(network, nodes=(*network.nodes, made))
    for x in drawn(shape, levels) if inputs is None else np.asarray(inputs):
        if difference := integer_difference(network, graph, x.reshape(shape)):
            raise FixedPointError(f"the integers are another network: {difference}")
    return network


def _maximum(node: Node, network: IntegerNetwork) -> IntegerNode:
    """Codes are compared and not computed with; thresholds must be equal."""
    [term] = node.terms
    source = network[term.source]
    # One for each channel, which no maximum mixes, or one for all.
    unit = _numbers(fed(term, source.unit, source.shape))
    one = term._replace(weight=Scale(np.ones((), np.int16)))
    return IntegerNode(
        node.name, node.kind, node.shape, (one,), unit=unit, bound=source.bound
    )


def _integers(node: Node, network: IntegerNetwork) -> IntegerNode:
    sources = [network[term.source] for term in node.terms]
    terms = [
        fed(term, source.unit, source.shape)
        for term, source in zip(node.terms, sources, strict=True)
    ]
    limit = 2 ** (network.bits - 1) - 1
    smallest = _smallest_unit(terms, node, limit)
    coarse, fraction = _unit(node, terms, smallest, network.steps)
    terms = [
        scaled(term, 1 / coarse, source.shape)
        for term, source in zip(terms, sources, strict=True)
    ]
    guards = [_guard(term) for term in terms]
    least = max(0, -int(fraction.min()), *(min(g, MAX_GUARD) for g in guards))
    # A sum has more values than codes are, and its weights are as much smaller.
    even = len(terms) == 1 and sources[0].kind != "sum"
    exponents = [_exponent(term, limit, even=even) for term in terms]
    finer = [e for e, t in zip(exponents, terms, strict=True) if _has_kernel(t)]
    # As fine as the finest term asks for, if 32 bits hold the thresholds and the sum.
    most = min(max([*guards, *finer, 0]), 30 - network.steps - int(fraction.max()))
    guard = max(least, most)
    while True:
        made = _in_units(node, terms, coarse, guard, exponents, limit)
        bound = largest_sum(made, network)
        if node.kind == "neurons":
            made = made._replace(fraction=(fraction + guard).astype(np.int32))
        elif node.kind == "sum":
            amount = max(0, bound.bit_length() + 1 - SUM_BITS)
            made = made._replace(fraction=np.array(amount, np.int32))
        bound += int(made.half.max())
        if bound < 2**31:
            break
        if guard == least:
            raise FixedPointError(
                f"{node.name}: its sum can reach {bound:,}, which leaves 32 bits; "
                f"fewer bits than {network.bits} would do"
            )
        guard -= 1
    if not even:
        scales = [2.0 ** min(e, guard) for e in exponents]
        _check_felt(node, terms, scales, limit, network)
    return made._replace(unit=coarse / 2**guard * 2.0**made.fraction, bound=bound)


def _in_units(
    node: Node,
    terms: list[Term],
    coarse: np.ndarray,
    guard: int,
    exponents: list[int],
    limit: int,
) -> IntegerNode:
    """The node in units of coarse / 2**guard, given its terms in units of coarse.

    Weights are rounded in units of coarse / 2**exponent, and products shifted.
    """
    rounded = []
    for term, exponent in zip(terms, exponents, strict=True):
        exponent = min(exponent, guard)
        made = _rounded(term, 2.0**exponent, limit, node)
        rounded.append(_shifted(made, guard - exponent))
    bias = np.round(node.bias / (coarse / 2**guard))
    if np.abs(bias).max() >= 2**31:
        raise FixedPointError(f"{node.name}: a bias of {np.abs(bias).max():.3g} units")
    made = IntegerNode(node.name, node.kind, node.shape, tuple(rounded))
    return made._replace(bias=bias.astype(np.int32))


def _check_felt(
    node: Node,
    terms: list[Term],
    scales: list[float],
    limit: int,
    network: IntegerNetwork,
) -> None:
    """FixedPointError if rounding leaves too little of a term that matters."""
    sizes = [float(np.abs(_numbers(term)).max(initial=0)) for term in terms]
    brought = [
        size * network.top(term.source) for size, term in zip(sizes, terms, strict=True)
    ]
    for term, size, scale, most in zip(terms, sizes, scales, brought, strict=True):
        numbers = _numbers(term) * scale
        exact = np.abs(np.round(numbers) - numbers).max(initial=0) <= 1e-9 * size
        enough = min(_enough(limit), PRECISE) if _has_kernel(term) else PRECISE
        if not exact and size * scale < enough and most > FELT * max(brought):
            raise FixedPointError(
                f"{node.name}: in sums of 32 bits, what {term.source} brings is "
                f"rounded to {size * scale:.2g} units at most; put neurons in between, "
                "or scale the terms alike"
            )


def _has_kernel(term: Term) -> bool:
    return not isinstance(term.weight, Scale)


def _numbers(term: Term) -> np.ndarray:
    weight = term.weight
    return weight.factor if isinstance(weight, Scale) else weight.kernel


def _exponent(term: Term, limit: int, *, even: bool) -> int:
    """The bits below the unit that the weights of a term are rounded to.

    Multipliers to as many as 16 bits hold. Kernels to none, if `even` or if the largest
    weight has a quarter of the range and is not rounded to 0; else to those it needs.
    """
    largest = float(np.abs(_numbers(term)).max(initial=0))
    if not _has_kernel(term):
        limit = 2 ** (MULTIPLIER_BITS - 1) - 1
    elif even or largest >= _enough(limit):
        return 0
    return math.floor(np.log2(limit / largest)) if largest else 0


def _smallest_unit(terms: list[Term], node: Node, limit: int) -> np.ndarray:
    """The smallest unit in which all kernels fit: for each channel, or for all."""
    channels = node.shape[-1:]
    found = [np.zeros(channels)]
    for term in terms:
        if isinstance(term.weight, Scale):
            continue
        kernel = np.abs(term.weight.kernel)
        kept = not term.after or (
            isinstance(term.after[-1], Reshape) and len(term.after) == 1
        )
        if kept and kernel.shape[-1:] == channels:
            found.append(kernel.reshape(-1, *channels).max(0))
        else:
            found.append(np.full(channels, kernel.max()))
    mixed = any(term.after for term in terms)
    unit = np.max(found, axis=0) / limit
    per_channel = node.kind != "output" and not mixed
    return (
        unit.reshape((1,) * (len(node.shape) - 1) + (-1,))
        if per_channel
        else unit.max()
    )


def _unit(
    node: Node, terms: list[Term], unit: np.ndarray, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """A unit not below the smallest, and the fraction that goes with it."""
    factors = [t.weight.factor for t in terms if isinstance(t.weight, Scale)]
    if node.kind != "neurons":
        # Without a kernel, a multiplier of 7 bits. A dead channel: any unit.
        scale = max((float(np.abs(f).max()) for f in factors), default=0.0) or 1.0
        return np.where(unit > 0, unit, scale / 2**7), np.zeros(())
    delta = node.theta / (2**steps - 1)
    with np.errstate(divide="ignore"):
        most = min(MAX_FRACTION, 30 - MAX_GUARD - steps)
        fraction = np.minimum(np.floor(np.log2(delta / unit)), most)
    if fraction.min() < -MAX_GUARD:
        raise FixedPointError(
            f"{node.name}: weights overflow: the smallest that this width can tell "
            f"drives a neuron by {float((unit / delta).max()):.3g} codes"
        )
    return delta / 2.0**fraction, fraction


def _enough(limit: int) -> float:
    """Units that the largest weight must have at least."""
    return max(limit / 4, 0.5)  # which is rounded to 1


def _guard(term: Term) -> int:
    """Bits below the unit that multipliers need, unless they are whole."""
    if _has_kernel(term):
        return 0
    ratio = np.abs(_numbers(term))
    inexact = ratio[np.abs(ratio - np.round(ratio)) > 1e-9 * ratio]
    return PRECISE_BITS - math.floor(np.log2(inexact.min())) if inexact.size else 0


def _rounded(term: Term, scale: float, limit: int, node: Node) -> Term:
    """scale * term, with weights of whole units."""
    numbers = _numbers(term) * scale
    integers = np.round(numbers)
    weight: Weight
    if isinstance(term.weight, Scale):
        weight, limit = Scale(integers.astype(np.int16)), 2 ** (MULTIPLIER_BITS - 1) - 1
    else:
        weight = term.weight._replace(kernel=integers.astype(np.int8))
    if np.abs(integers).max(initial=0) > limit:
        raise FixedPointError(
            f"{node.name}: a weight of {np.abs(integers).max():,.0f} units from "
            f"{term.source} overflows; at most {limit} fits"
        )
    return term._replace(weight=weight)


def _shifted(term: Term, amount: int) -> Term:
    return term._replace(after=(*term.after, Shift(amount))) if amount else term


def largest_sum(node: IntegerNode, network: IntegerNetwork) -> int:
    """The largest sum of |terms| and |bias| of a node, borders seen."""
    with jax.enable_x64(True):
        total = np.abs(np.broadcast_to(node.bias, node.shape).astype(np.float64))
        for term in node.terms:
            weight = term.weight
            if isinstance(weight, Scale):
                weight = Scale(np.abs(weight.factor.astype(np.float64)))
            else:
                kernel = np.abs(weight.kernel.astype(np.float64))
                weight = weight._replace(kernel=kernel)
            top = network.top(term.source)
            full = jnp.full(network[term.source].shape, top, jnp.float64)
            total = total + np.asarray(apply_term(term._replace(weight=weight), full))
    return int(total.max(initial=0))
