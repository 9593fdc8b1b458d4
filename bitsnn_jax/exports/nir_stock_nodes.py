"""NIR's own nodes, added layer after layer: weights, constants, neurons.

Needs the package `nir`: the extra `nir`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import nir
import numpy as np

from bitsnn_jax.exports.nir_stock_terms import (
    Layout,
    Weights,
    channels,
    identity,
    squared,
)

# snnTorch's step of time, in seconds. A LIF neuron with this time constant forgets
# everything from step to step, so it needs no reset between examples.
TIME_STEP = 1e-4


def _lif(threshold: np.ndarray) -> nir.LIF:
    ones = np.ones_like(threshold)
    return nir.LIF(TIME_STEP * ones, r=ones, v_leak=0 * ones, v_threshold=threshold)


NEURONS: Mapping[str, Callable[[np.ndarray], Any]] = {
    "Threshold": nir.Threshold,
    "IF": lambda threshold: nir.IF(np.ones_like(threshold), threshold),
    "LIF": _lif,
}


class Plane(NamedTuple):
    """A node that sends 0 or 1 for each neuron of a layer."""

    node: str
    value: int  # of a 1, in the layer


class Layer(NamedTuple):
    """A layer of the network in the graph; its values are sums over its planes."""

    layout: Layout
    planes: tuple[Plane, ...] = ()


Feed = tuple[Layer, Weights]  # a term: each plane of a layer through the same weights


class StockGraph:
    """The nodes and edges of a graph while it grows.

    Attributes:
      nodes, edges: as in `nir.NIRGraph`. Sorted by name, nodes are in the order of
        computation: files sort them, and readers search for long where they are not.
    """

    def __init__(self, neuron: Callable[[np.ndarray], Any]):
        self.neuron = neuron  # makes one of a threshold
        self.nodes: dict[str, nir.NIRNode] = {}
        self.edges: list[tuple[str, str]] = []
        self._pooled: dict[tuple, str] = {}
        self._one = ""

    def add(self, layer: str, role: str, node: Any, *sources: str) -> str:
        """Add a node and the edges that lead to it; return its name."""
        of_letters = re.sub(r"\W", "_", layer)  # all that names of modules may have
        name = f"{len(self.nodes):06}_{of_letters}_{role}"
        self.nodes[name] = node
        self.edges += [(source, name) for source in sources]
        return name

    def weigh(self, layer: str, weights: Weights, *sources: str, bias: Any = 0) -> str:
        """Add weights, behind the pooling that they have, and a bias of channels."""
        if weights.pooling:
            sources = tuple(self._pool(layer, s, weights.pooling) for s in sources)
        kernel = weights.kernel.astype(np.float32)
        bias = np.broadcast_to(bias, len(kernel)).astype(np.float32)
        if kernel.ndim == 2:
            return self.add(layer, "weights", nir.Affine(kernel, bias), *sources)
        _, strides, padding, dilation, _ = weights
        # The shape of the input is inferred when the graph is complete.
        conv = nir.Conv2d(None, kernel, strides, padding, dilation, 1, bias)
        return self.add(layer, "weights", conv, *sources)

    def one(self) -> str:
        """Return a node that always sends a single 1."""
        if not self._one:
            source, node = next(iter(self.nodes.items()))  # the input
            shape = tuple(node.output_type["output"])
            nothing = Weights(np.zeros((1, *shape)))
            nothing = squared(nothing, shape[1:]) or nothing
            self._one = self.weigh("one", nothing, source, bias=1)
        return self._one

    def _pool(self, layer: str, source: str, pooling: tuple) -> str:
        if (source, pooling) not in self._pooled:
            window, strides = map(np.array, pooling)
            node = nir.SumPool2d(window, strides, np.zeros(2, np.int64))
            self._pooled[source, pooling] = self.add(layer, "pool", node, source)
        return self._pooled[source, pooling]


class StockLayer(NamedTuple):
    """Where nodes of a layer are added.

    Attributes:
      graph: that grows.
      name: of the layer.
      layout: of the layer.
    """

    graph: StockGraph
    name: str
    layout: Layout

    def full(self, value: int) -> np.ndarray:
        """Return an integer for each neuron."""
        return np.full(self.layout.places.shape, value, np.int64)

    def times(self, factor: int | np.ndarray) -> Weights:
        """Return weights that multiply each neuron, or each channel of an image."""
        factor = np.broadcast_to(factor, len(self.layout.places))
        return identity(factor, is_vector=self.layout.places.ndim == 1)

    def sums(self, feeds: Sequence[Feed], offset: np.ndarray) -> list[str]:
        """Add the weights of all terms and an offset; return what is to be added up."""
        bias, names = channels(offset), []
        for layer, weights in feeds:
            for plane in layer.planes:
                scaled = weights._replace(kernel=weights.kernel * plane.value)
                first = 0 if names else bias
                names.append(
                    self.graph.weigh(self.name, scaled, plane.node, bias=first)
                )
        if names:  # biases are of channels
            offset = offset - bias.reshape(-1, *(1,) * (offset.ndim - 1))
        if offset.any() or not names:
            names.append(self.constant(offset))
        return names

    def constant(self, numbers: np.ndarray) -> str:
        """Add a node that always sends these numbers.

        Height and width of an image must be both even or both odd.
        """
        size = numbers.shape[1:]
        # A window over a single 1 and the zeros around it shows each of its places.
        kernel = np.flip(numbers, tuple(range(1, numbers.ndim)))[:, None]
        weights = Weights(kernel)
        if size:
            around = weights._replace(padding=(size[0] - 1, size[1] - 1))
            weights = squared(around, (1, 1)) or around
        return self.graph.weigh(self.name, weights, self.graph.one())

    def fire(self, sources: Sequence[str], least: int) -> str:
        """Add neurons that fire where the sources add up to `least` or more."""
        node = self.graph.neuron(self.full(least).astype(np.float32) - 0.5)
        return self.graph.add(self.name, "spikes", node, *sources)

    def gate(
        self, parts: Sequence[tuple[str, Weights]], *, least: int, most: int
    ) -> str:
        """Add neurons that fire where parts of up to `most` are `least` or more."""
        shift = most - 2 * least + 2  # so that `most` stays below twice the threshold
        sources = [
            self.graph.weigh(self.name, weights, source, bias=0 if i else shift)
            for i, (source, weights) in enumerate(parts)
        ]
        return self.fire(sources, least + shift)
