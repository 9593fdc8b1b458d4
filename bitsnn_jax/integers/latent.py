"""Real numbers behind the weights of an integer network, for fine-tuning.

`latent` makes them of a float graph, `rounded` makes integers of them, `written_back`
a float graph again. The grid is that of `fixed_point`, or up to three bits finer, on
which large weights are clipped.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.integers.graph import Graph, Node, Term
from bitsnn_jax.integers.grid import (
    in_units,
    of_integers,
    shift,
    weight_unit,
)
from bitsnn_jax.integers.network import IntegerNetwork, IntegerNode
from bitsnn_jax.integers.products import held

# A grid finer by so many bits is tried for each channel, its largest weights clipped.
FINER = 3
# Weights lie so much inside of their grid that no logarithm rounds down to another.
_INSIDE = 1 - 2.0**-40

# name of a node -> {"bias": array, "kernels": one array for each term with a kernel}
Params = dict[str, dict[str, Any]]


class Latent(NamedTuple):
    """An integer network, and the real numbers that its weights are rounded from.

    Attributes:
      network: of which everything but kernels and biases stays as it is.
      params: kernels are W / (2**(bits - 1) - 1), so in -1..1; biases of neurons are in
        units of theta.
      low, high: where the kernels must stay. A kernel that has a channel's largest
        weight keeps that one large: the unit would be another without it.
    """

    network: IntegerNetwork
    params: Params
    low: Params
    high: Params


def latent(graph: Graph, *, steps: int, bits: int, white: int = 255) -> Latent:
    """Start a training: find a grid for each channel, and clip weights to it.

    `fixed_point` has the finest grid which the largest weight of a channel fits. With
    few bits, a finer one on which large weights are clipped is often nearer to most of
    them: of these, the one with the least squared error is taken.

    Args:
      graph, steps, bits, white: as in `fixed_point`.

    Raises:
      FixedPointError, ValueError: as `fixed_point`.
    """
    options = {"steps": steps, "bits": bits, "white": white}
    first = fixed_point(graph, **options)
    limit = first.largest_weight
    clipped = [_clipped(node, first, limit) for node in graph.nodes]
    network = fixed_point(Graph(tuple(clipped)), **options)
    params, low, high = {}, {}, {}
    for node, near in zip(graph.nodes[1:], clipped[1:], strict=True):
        integers = network[node.name]
        if node.kind == "maximum" or held(node):  # nothing of its own to train
            continue
        if _is_fixed(node, integers):
            start = [t.numbers / limit for t in _with_kernel(integers.terms)]
            bounds = start, start
        else:
            sizes = _counted(node, network)
            start = [value / limit for value in _counted(near, network)]
            bounds = _bounds(sizes, integers, limit)
        size = _bias_size(integers, network)
        for tree, kernels, bias in (
            (params, start, integers.bias / size),
            (low, bounds[0], np.full((), -np.inf)),
            (high, bounds[1], np.full((), np.inf)),
        ):
            tree[node.name] = {
                "kernels": [np.asarray(k, np.float32) for k in kernels],
                "bias": np.asarray(bias, np.float32),
            }
    return Latent(network, params, low, high)


def rounded(network: IntegerNetwork, params: Params) -> Params:
    """Return the integers of the parameters, as floats. Gradient: straight through."""
    limit = network.largest_weight
    return {
        name: {
            "kernels": [straight_through(jnp.round, k * limit) for k in of["kernels"]],
            "bias": straight_through(
                jnp.round, of["bias"] * _bias_size(network[name], network)
            ),
        }
        for name, of in params.items()
    }


def straight_through(fn: Callable, x: jax.Array) -> jax.Array:
    """Return fn(x), with the gradient of x."""
    return x + jax.lax.stop_gradient(fn(x) - x)


def written_back(graph: Graph, network: IntegerNetwork, params: Params) -> Graph:
    """Return the float graph with the rounded parameters for weights and biases.

    `fixed_point` of it has the weights, thresholds and biases of the training. Only the
    rounding of a "sum" to 16 bits follows the size of the sum, which training changes.
    """
    integers = jax.tree.map(np.asarray, rounded(network, params))
    nodes = []
    for node in graph.nodes:
        if node.name not in integers:
            nodes.append(node)
            continue
        made, trained = network[node.name], integers[node.name]
        node = node._replace(bias=np.float64(trained["bias"]) * made.sum_unit)
        if not _is_fixed(node, made):
            kernels = [
                np.float64(w) * _INSIDE / factor
                for w, factor in zip(
                    trained["kernels"], _factors(node, network), strict=True
                )
            ]
            node = node._replace(terms=tuple(filled(node.terms, kernels)))
        nodes.append(node)
    return Graph(tuple(nodes))


def _with_kernel(terms):
    return [term for term in terms if term.has_kernel]


def filled(terms: Iterable[Term], kernels: Iterable[Any]) -> list[Term]:
    """Give the terms other kernels."""
    rest = iter(kernels)
    return [
        term.with_numbers(next(rest)) if term.has_kernel else term for term in terms
    ]


def _is_fixed(node: Node, made: IntegerNode) -> bool:
    """Tell whether its kernels stay: channels or terms of unlike size share a unit."""
    moved = any(term.after for term in node.terms)
    return moved or len(set(map(shift, _with_kernel(made.terms)))) > 1


def _factors(node: Node, network: IntegerNetwork) -> list[np.ndarray]:
    """Return what kernels are multiplied with before they are rounded."""
    made = network[node.name]
    factors = []
    for term, integer in zip(node.terms, made.terms, strict=True):
        if not term.has_kernel:
            continue
        source = network[term.source]
        one = of_integers(term.with_numbers(np.ones(term.numbers.shape)), source)
        factors.append(in_units(one, weight_unit(made, integer), source).numbers)
    return factors


def _counted(node: Node, network: IntegerNetwork) -> list[np.ndarray]:
    """Return the kernels before they are rounded."""
    kernels = [term.numbers for term in _with_kernel(node.terms)]
    return [
        kernel * factor
        for kernel, factor in zip(kernels, _factors(node, network), strict=True)
    ]


def _grouped(kernels, kind) -> np.ndarray:
    """Group weights that share a unit: [weights, groups]."""
    if kind == "output":
        return np.concatenate([k.reshape(-1, 1) for k in kernels])
    return np.concatenate([k.reshape(-1, k.shape[-1]) for k in kernels])


def _clipped(node: Node, network: IntegerNetwork, limit: int) -> Node:
    kept = _with_kernel(node.terms)
    if not kept or _is_fixed(node, network[node.name]):
        return node
    kernels = _counted(node, network)
    groups = np.abs(_grouped(kernels, node.kind))
    errors = []
    for bits in range(FINER + 1):
        grid = np.minimum(np.round(groups * 2.0**bits), limit) / 2.0**bits
        errors.append(np.square(grid - groups).sum(0))
    # A grid that is not bound by the largest weight does not become finer.
    best = np.where(groups.max(0) > limit / 2, np.argmin(errors, 0), 0)
    most = limit * _INSIDE / 2.0**best
    kernels = [
        np.clip(k, -most, most) / factor
        for k, factor in zip(kernels, _factors(node, network), strict=True)
    ]
    return node._replace(terms=tuple(filled(node.terms, kernels)))


def _bounds(kernels, node: IntegerNode, limit: int):
    """Return bounds: -1..1, but for the largest weight that a unit comes from."""
    if not kernels:
        return [], []
    groups = _grouped(kernels, node.kind)
    low, high = np.full(groups.shape, -1.0), np.ones(groups.shape)
    index = np.argmax(np.abs(groups), 0), np.arange(groups.shape[1])
    largest = groups[index]
    # Half of the range would fit a finer grid. Other units are exactly the largest's.
    need = (limit + 1) / 2 / limit if node.kind == "neurons" else 1.0
    bound = np.abs(largest) > limit / 2
    low[index] = np.where(bound & (largest > 0), need, -1.0)
    high[index] = np.where(bound & (largest < 0), -need, 1.0)
    ends = np.cumsum([k.size // groups.shape[1] for k in kernels])[:-1]
    return tuple(
        [
            part.reshape(k.shape)
            for part, k in zip(np.split(side, ends), kernels, strict=True)
        ]
        for side in (low, high)
    )


def _bias_size(node: IntegerNode, network: IntegerNetwork) -> np.ndarray:
    """Return what a bias is counted in: the threshold of neurons, or one large term."""
    top = 2**network.steps - 1
    if node.kind == "neurons":
        size = top * 2.0**node.fraction
    else:
        size = np.asarray(top * 2.0 ** (network.bits - 1))
    return np.asarray(size, np.float32)
