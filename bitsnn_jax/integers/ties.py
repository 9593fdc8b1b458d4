"""Thresholds tied by powers of two along skip connections.

A skip connection brings the codes of one layer into the sum of a later one, times

    M = c theta_source / theta_target 2**f,

where c is the factor of the connection, 1 for an identity. With thetas that are all
2**n of one base along a chain of such connections, M is a power of two: spikes are
shifted there, and never multiplied. The thetas are other ones than those that were
trained, so this is an approximation of the trained network.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax.conversion.readings import snn_levels
from bitsnn_jax.integers.graph import Graph, Node, Scale, Term, observed
from bitsnn_jax.numerics.qcfs import qcfs

# Bases that are tried in an octave: theta is found to 0.6 %.
BASES = 64
# For each of them, every theta may be the power of two next to the trained one, or one
# above or below.
_POWERS = (-1, 0, 1)
# Entries of a layer that are looked at, over all inputs.
_ENTRIES = 2**16
# Inputs in memory at once.
_BATCH = 32
# Factors such as 1/9 are float32 where the network computes them.
_SAME = 1e-6


class Skip(NamedTuple):
    """A connection that has a factor and no weights.

    Attributes:
      source, target: layers of neurons; a maximum has the unit of its own source.
      octave: log2 of its factor; of the largest one, where others are powers of two of
        that.
    """

    source: str
    target: str
    octave: float


class Untied(NamedTuple):
    """A connection whose multiplier stays as it is, and why."""

    source: str
    target: str
    reason: str


class Chain(NamedTuple):
    """Layers whose thetas are powers of two of each other.

    Attributes:
      layers: names, in the order of the graph.
      octaves: what log2 theta of each is beyond a whole number, with the first at 0.
    """

    layers: tuple[str, ...]
    octaves: tuple[float, ...]


class Tied(NamedTuple):
    """What `tied` gives.

    Attributes:
      graph: with other thetas, all else as it was.
      chains: that are tied.
      untied: connections that keep a multiplier.
    """

    graph: Graph
    chains: tuple[Chain, ...]
    untied: tuple[Untied, ...]


def tied(graph: Graph, *, steps: int, inputs: Any = None) -> Tied:
    """Tie thetas so that multipliers of skip connections are powers of two.

    For each chain of layers that skip connections join, thetas are 2**(b + n): b of the
    chain, n whole numbers of the layers. Those are taken with which the layers, on what
    the network as trained sends them, have the least squared error beside that network,

        sum over layers of mean (qcfs(z, theta) - qcfs(z, trained theta))**2,

    or, without inputs, thetas of the least squared log2(theta / trained theta).

    A connection into or from a "sum" or the input stays untied: these have no theta. So
    does one whose factors are no powers of two of each other, or whose layer's codes
    are compared with those of other layers, where thetas must be equal.

    Args:
      graph: of `lowering.lower`.
      steps: T, whose levels are looked at.
      inputs: [n, ...] integers, such as pixels of the training split; None for none.

    Raises:
      ValueError: no inputs, or of another shape.
    """
    skips, untied = _skips(graph)
    chains, torn = _chains(graph, skips)
    names = [name for chain in chains for name in chain.layers]
    charges = {}
    if chains and inputs is not None:
        charges = _charges(graph, inputs, names, steps)
    thetas = {}
    for chain in chains:
        thetas |= _thetas(graph, chain, charges, steps)
    nodes = [
        node._replace(theta=thetas[node.name]) if node.name in thetas else node
        for node in graph.nodes
    ]
    return Tied(Graph(tuple(nodes)), chains, (*untied, *torn))


def _skips(graph: Graph) -> tuple[list[Skip], list[Untied]]:
    """Find the connections that can be tied, and the others."""
    compared = {
        _sender(graph, term.source)
        for node in graph.of_kind("maximum")
        if len(node.terms) > 1
        for term in node.terms
    }
    skips, untied = [], []
    for node in graph.nodes:
        if node.kind == "maximum":
            continue
        for term in filter(_is_skip, node.terms):
            source = _sender(graph, term.source)
            octave = _octave(term.numbers)
            ends = [graph[source], node]
            if other := [end.kind for end in ends if end.kind != "neurons"]:
                reason = f"a node of kind {other[0]} has no threshold"
            elif any(not _is_of_channels(end) for end in ends):
                reason = "thresholds differ from place to place"
            elif compared & {source, node.name}:
                reason = "codes are compared with those of other layers"
            elif octave is None:
                reason = "its factors are no powers of two of each other"
            else:
                skips.append(Skip(source, node.name, octave))
                continue
            untied.append(Untied(term.source, node.name, reason))
    return skips, untied


def _is_skip(term: Term) -> bool:
    """Tell whether a term has a factor, and no weights."""
    return isinstance(term.weight, Scale) and bool(np.any(term.numbers))


def _sender(graph: Graph, name: str) -> str:
    """Return the layer whose codes a maximum sends; others are their own."""
    node = graph[name]
    while node.kind == "maximum" and len(node.terms) == 1:
        node = graph[node.terms[0].source]
    return node.name


def _is_of_channels(node: Node) -> bool:
    return node.theta.size in (1, node.theta.shape[-1])


def _octave(factor: np.ndarray) -> float | None:
    """Return log2 of the largest |factor|; None if others are no powers of 2 apart."""
    octaves = np.log2(np.abs(factor[factor != 0]))
    return float(octaves.max()) if _is_whole(octaves - octaves.max()).all() else None


def _is_whole(octaves: Any) -> np.ndarray:
    return np.abs(octaves - np.round(octaves)) < _SAME


def _chains(
    graph: Graph, skips: Iterable[Skip]
) -> tuple[tuple[Chain, ...], list[Untied]]:
    """Join layers to chains; a skip that contradicts the others is untied."""
    chain_of: dict[str, dict[str, float]] = {}  # name -> octaves of all of its chain
    torn = []
    for skip in skips:
        ours = chain_of.setdefault(skip.source, {skip.source: 0.0})
        theirs = chain_of.setdefault(skip.target, {skip.target: 0.0})
        apart = ours[skip.source] + skip.octave - theirs[skip.target]
        if ours is not theirs:
            for name, octave in theirs.items():
                ours[name] = octave + apart
                chain_of[name] = ours
        elif not _is_whole(apart):
            reason = "other skip connections ask for another threshold"
            torn.append(Untied(skip.source, skip.target, reason))
    chains = []
    for node in graph.nodes:
        octaves = chain_of.get(node.name, {})
        names = [each.name for each in graph.nodes if each.name in octaves]
        if names and names[0] == node.name:
            start = octaves[node.name]
            chains.append(Chain(tuple(names), tuple(octaves[n] - start for n in names)))
    return tuple(chains), torn


def _thetas(
    graph: Graph, chain: Chain, charges: dict[str, np.ndarray], steps: int
) -> dict[str, np.ndarray]:
    """Choose the thetas of a chain."""
    tried, errors = {}, {}
    for name, octave in zip(chain.layers, chain.octaves, strict=True):
        node = graph[name]
        tried[name] = _candidates(node, octave)
        errors[name] = _errors(node, tried[name], charges.get(name), steps)
    # Of each base, with the best powers.
    total = sum(error.min(1).mean(1) for error in errors.values())
    best, thetas = np.argmin(total), {}
    for name in chain.layers:
        power = np.argmin(errors[name][best], 0, keepdims=True)
        theta = np.take_along_axis(tried[name][best], power, 0)
        thetas[name] = theta.reshape(graph[name].theta.shape)
    return thetas


def _candidates(node: Node, octave: float) -> np.ndarray:
    """Return thetas, [bases, powers, channels or 1]."""
    base = octave + np.arange(BASES)[:, None, None] / BASES
    nearest = np.round(np.log2(node.theta.reshape(-1)) - base)
    return 2.0**base * 2.0 ** (nearest + np.reshape(_POWERS, (-1, 1)))


def _errors(
    node: Node, thetas: np.ndarray, charges: np.ndarray | None, steps: int
) -> np.ndarray:
    """Return the error of each of the thetas."""
    trained = node.theta.reshape(-1)
    if charges is None:
        return np.log2(thetas / trained) ** 2
    levels = snn_levels(node.levels, steps)
    wanted = qcfs(charges, trained.astype(np.float32), levels=levels)

    @jax.jit
    def error(theta):
        lost = (qcfs(charges, theta, levels=levels) - wanted) ** 2
        return jnp.mean(lost, 0 if len(trained) > 1 else (0, 1))

    flat = thetas.reshape(-1, len(trained)).astype(np.float32)
    found = jax.lax.map(error, flat)
    return np.asarray(found, np.float64).reshape(thetas.shape)


def _charges(
    graph: Graph, inputs: Any, names: Sequence[str], steps: int
) -> dict[str, np.ndarray]:
    """Sample what the codes of layers are of: [entries, channels]."""
    shape, inputs = graph.nodes[0].shape[1:], np.asarray(inputs)
    if inputs.shape[1:] != shape or not len(inputs):
        raise ValueError(
            f"expected at least one input, [n, {shape}], got {inputs.shape}"
        )
    rng = np.random.default_rng(0)
    rows = {}
    for name in names:
        *space, channels = graph[name].shape
        count = math.prod(space)
        most = math.ceil(_ENTRIES / channels / len(inputs))
        rows[name] = np.sort(rng.permutation(count)[:most])

    def sample(node, charge, levels):
        if node.name not in rows:
            return ()
        return charge.reshape(-1, charge.shape[-1])[rows[node.name]]

    @jax.jit
    def run(x):
        return observed(graph, x, sample, steps=steps)[1]

    seen = [
        run(inputs[first : first + _BATCH].astype(np.float32))
        for first in range(0, len(inputs), _BATCH)
    ]
    return {
        name: np.concatenate([_rows(batch[name]) for batch in seen]) for name in names
    }


def _rows(charges: Any) -> np.ndarray:
    return np.asarray(charges).reshape(-1, charges.shape[-1])
