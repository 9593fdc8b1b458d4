"""The network of integers in NIR, made of NIR's own nodes only: T bits side by side.

Each bit of a layer is a node of neurons of its own, so the graph has no state and one
step of time computes the whole network. With u the sum of a neuron and
theta(t) = 2**(fraction + T - t), bit t is

    s(t) = H(u - theta(1) s(1) - ... - theta(t-1) s(t-1) - theta(t))

* u comes from each bit of each source through weights times 2**(T - t).
* Each bit but the last inhibits those behind it by its own threshold.
* All neurons of a node have the same threshold, an integer and a half: no sum is ever
  equal to it, where readers differ. What differs between neurons is in the biases.
* Sums stay below twice the threshold. So a neuron fires once, also where a reader lets
  it fire several times in a step.

Rounded sums, tables and maxima become bits too. Only products of two nodes have no such
form. All sums are exact in float32; if not, the error names the layer.

Needs the packages `nir` and `h5py`: the extra `nir`.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import nir
import numpy as np

from bitsnn_jax.exports import check
from bitsnn_jax.exports.nir_nodes import NIRError
from bitsnn_jax.exports.nir_stock_nodes import (
    NEURONS,
    Feed,
    Layer,
    Plane,
    StockGraph,
    StockLayer,
)
from bitsnn_jax.exports.nir_stock_terms import (
    Layout,
    Weights,
    candidates,
    channels,
    convolution,
    flat,
    image,
    matrix,
)
from bitsnn_jax.exports.node_checks import check_no_rows
from bitsnn_jax.integers.carriers import EXACT
from bitsnn_jax.integers.graph import Held, Term
from bitsnn_jax.integers.network import IntegerNetwork, IntegerNode
from bitsnn_jax.integers.tables import NEVER
from bitsnn_jax.numerics.spikes import weights

FORMAT = "bitsnn_jax unrolled in space"


def to_stock_nir(network: IntegerNetwork, *, neuron: str = "Threshold") -> nir.NIRGraph:
    """Turn the network into a NIR graph of nodes that readers of NIR know.

    Args:
      network: of `fixed_point`.
      neuron: the type of neurons, of `NEURONS`. Readers differ in those that they have.
        "IF" keeps its membrane: set it to 0 between examples.

    Returns:
      A graph of Input, Conv2d, SumPool2d, Affine, Output and neurons. The values of a
      layer are sums over nodes whose metadata have its name as "layer" and, as "value",
      what a spike is worth.

    Raises:
      NIRError: a product of two nodes, a softmax, normalised rows, rows of a table,
        sums that float32 does not hold, a term of too many weights; with the layer's
        name.
      ValueError: an unknown type of neurons.
    """
    if neuron not in NEURONS:
        raise ValueError(f"neuron must be one of {', '.join(NEURONS)}, got {neuron!r}")
    check_no_rows(network, "NIR", NIRError)
    graph = StockGraph(NEURONS[neuron])
    unrolled = _Unrolled(network, graph)
    for node in network.nodes:
        unrolled.layers[node.name] = layer = unrolled.layer(node)
        for plane in layer.planes:
            facts = {"layer": node.name, "value": plane.value}
            graph.nodes[plane.node].metadata = facts
    metadata = {"format": FORMAT, "steps": network.steps, "levels": network.white}
    return nir.NIRGraph(graph.nodes, graph.edges, metadata)


def write(
    network: IntegerNetwork, vectors: Mapping[str, np.ndarray], folder: Path
) -> None:
    """Write a file for each type of neurons, test vectors, and `check.py`.

    Args:
      network: of `fixed_point`.
      vectors: as in `bundle_writer.load_vectors`; may be none.
      folder: where the files go.

    Raises:
      NIRError: as `to_stock_nir`.
    """
    for neuron in NEURONS:
        path = folder / f"{neuron.lower()}.nir"
        nir.write(path, to_stock_nir(network, neuron=neuron))
    check.complete(folder, vectors)


class _Unrolled:
    """The layers of a network that are in a graph."""

    def __init__(self, network: IntegerNetwork, graph: StockGraph):
        self.network, self.graph = network, graph
        self.layers: dict[str, Layer] = {}

    def layer(self, node: IntegerNode) -> Layer:
        """Add what a node becomes."""
        if node.kind == "input":
            return self._input(node)
        if any(isinstance(term.weight, Held) for term in node.terms):
            factors = " and ".join(node.terms[0].sources)
            raise NIRError(f"{node.name}: NIR has no product of nodes ({factors})")
        terms = node.terms
        if node.kind == "maximum":
            terms = [
                candidate
                for term in node.terms
                for candidate in candidates(term, self.network[term.source].shape)
            ]
        layout = self._layout(node, terms)
        feeds = [self._feed(node, term, layout) for term in terms]
        at = StockLayer(self.graph, node.name, layout)
        if node.kind == "maximum":
            return _largest(at, feeds, self.network.steps)
        bias, half, fraction = (
            layout.full(x, node.shape) for x in (node.bias, node.half, node.fraction)
        )
        if node.kind == "output":
            return self._output(node, at, feeds, bias)
        if node.has_table:
            return self._table(node, at, feeds, bias)
        offset, reach = bias + half, self._reach(node)
        if node.kind == "sum":
            top = self.network.top(node.name)
            return _rounded(at, feeds, offset, fraction, reach, top)
        return _bits(at, feeds, offset, fraction, reach, self.network.steps)

    def _input(self, node: IntegerNode) -> Layer:
        layout = image(node.shape)
        if len(node.shape) == 2:
            layout = flat(node.shape, vector=True)
        if layout is None:
            raise NIRError(f"input: expected [1, n] or an image, got {node.shape}")
        made = nir.Input({"input": np.array(layout.places.shape)})
        return Layer(layout, (Plane(self.graph.add(node.name, "input", made), 1),))

    def _output(self, node: IntegerNode, at: StockLayer, feeds, bias) -> Layer:
        _check(at, self._reach(node) + 2 * _spread(bias))
        sums = at.sums(feeds, bias)
        # Weights in between, since readers do not add up what leads to an output.
        total = self.graph.weigh(node.name, at.times(1), *sums)
        made = nir.Output({"output": np.array(at.layout.places.shape)})
        unit = np.broadcast_to(node.unit, node.shape).reshape(-1)[at.layout.places]
        made.metadata = {"layer": node.name, "unit": unit}
        self.graph.add(node.name, "output", made, total)
        return Layer(at.layout)

    def _table(self, node: IntegerNode, at: StockLayer, feeds, bias) -> Layer:
        """Add neurons for each row of a table, and the bits of how many of them fire.

        A code counts from where it rises on, and no more from where it falls on.
        """
        rows = [(+1, side) for side in node.rise]
        if (node.fall != NEVER).any():
            ends = np.maximum(*np.broadcast_arrays(node.rise, node.fall))
            rows += [(-1, side) for side in ends]
        reach = self._reach(node) + 1
        edges = [np.clip(side.astype(np.int64), -reach, reach) for _, side in rows]
        shift = 2 * reach + 1
        _check(at, 2 * reach + shift + 2 * _spread(bias))
        sums = at.sums(feeds, bias + shift)
        planes = []
        for (sign, _), edge in zip(rows, edges, strict=True):
            minus = at.constant(-at.layout.full(edge, node.shape))
            planes.append(Plane(at.fire([*sums, minus], shift), sign))
        counted = [(Layer(at.layout, tuple(planes)), at.times(1))]
        zero = at.full(0)
        return _bits(at, counted, zero, zero, len(planes), self.network.steps)

    # Layouts and terms.

    def _layout(self, node: IntegerNode, terms: Sequence[Term]) -> Layout:
        """Lay out a layer as an image if all its terms are convolutions of images."""
        is_vector = self.layers["input"].layout.places.ndim == 1
        layout = None if is_vector else image(node.shape)
        if layout is None or not all(self._convolution(term) for term in terms):
            return flat(node.shape, vector=is_vector)
        fraction, bias = (
            layout.full(x, node.shape) for x in (node.fraction, node.bias)
        )
        _, height, width = layout.places.shape
        needs_constants = _spread(bias) or node.has_table or not terms
        if _spread(fraction) or (needs_constants and (height - width) % 2):
            return flat(node.shape, vector=False)
        return layout

    def _convolution(self, term: Term) -> Weights | None:
        if not self.layers[term.source].layout.is_image:
            return None
        return convolution(term, self.network[term.source].shape)

    def _feed(self, node: IntegerNode, term: Term, layout: Layout) -> Feed:
        source = self.layers[term.source]
        made = self._convolution(term) if layout.is_image else None
        if made is None:
            shape = self.network[term.source].shape
            made = matrix(term, shape, source.layout, name=node.name)
        return source, made

    def _reach(self, node: IntegerNode) -> int:
        """Return the largest |sum| of a node, in any order of addition."""
        ratio = 1.0
        for term in node.terms:
            source = self.network[term.source]
            if source.kind == "sum":  # its planes reach further than its values
                values = [plane.value for plane in self.layers[source.name].planes]
                reach = sum(map(abs, values))
                ratio = max(ratio, reach / self.network.top(source.name))
        return math.ceil(node.bound * ratio)


def _bits(
    at: StockLayer, feeds: Sequence[Feed], offset, fraction, reach: int, steps: int
) -> Layer:
    """Add the bits of clip((u + offset) >> fraction, 0, 2**steps - 1)."""
    first = 1 << (fraction + steps - 1)
    reach += 2 * int(first.max())
    shift = reach + 1
    _check(at, reach + shift + 2 * _spread(offset))
    sums, bits = at.sums(feeds, offset - first + shift), []
    for t, value in enumerate(weights(steps)):
        bits.append(Plane(at.fire(sums, shift), value))
        if value > 1:  # the bias leads on to the next threshold, which is half of this
            theta = channels(first >> t)
            inhibition = at.times(-theta)
            bias = theta // 2
            sums.append(at.graph.weigh(at.name, inhibition, bits[-1].node, bias=bias))
    return Layer(at.layout, tuple(bits))


def _rounded(
    at: StockLayer, feeds: Sequence[Feed], offset, fraction, reach: int, top: int
) -> Layer:
    """Add the bits of (u + offset) >> fraction, `top` at most, in two's complement."""
    steps = top.bit_length() + 1
    half = 1 << (fraction + steps - 1)
    reach += int(half.max())
    first, *others = _bits(at, feeds, offset + half, fraction, reach, steps).planes
    # The first bit says that it is not negative.
    not_first = [(first.node, at.times(-1))]
    sign = at.gate(not_first, least=0, most=0)
    return Layer(at.layout, (Plane(sign, -first.value), *others))


def _largest(at: StockLayer, feeds: Sequence[Feed], steps: int) -> Layer:
    """Add the bits of the largest code, most significant first.

    A candidate stays in the race until the largest has a bit that it does not have.
    """
    racing: list[list[str]] = [[] for _ in feeds]  # of each the node that says so
    bits: list[Plane] = []
    for t, value in enumerate(weights(steps)):
        brought = [(layer.planes[t].node, made) for layer, made in feeds]
        ahead = []
        for part, race in zip(brought, racing, strict=True):
            parts = [part, *((name, at.times(1)) for name in race)]
            count = len(parts)
            ahead.append(at.gate(parts, least=count, most=count))
        parts = [(name, at.times(1)) for name in ahead]
        largest = at.gate(parts, least=1, most=len(parts))
        bits.append(Plane(largest, value))
        if value == 1:
            break
        for i, (part, race) in enumerate(zip(brought, racing, strict=True)):
            # In the race before, and with this bit, or nobody has it.
            parts = [part, (largest, at.times(-1))]
            parts += [(name, at.times(2)) for name in race]
            least = 2 * len(race)
            racing[i] = [at.gate(parts, least=least, most=least + 1)]
    return Layer(at.layout, tuple(bits))


def _check(at: StockLayer, reach: int) -> None:
    limit = EXACT["float32"]
    if reach > limit:
        raise NIRError(
            f"{at.name}: sums of up to {reach:,} are not exact in float32, which ends "
            f"at {limit:,}: take fewer steps"
        )


def _spread(full: np.ndarray) -> int:
    """Return how far numbers are from the first of their channel."""
    rows = full.reshape(len(full), -1)
    return int(np.abs(rows - rows[:, :1]).max())
