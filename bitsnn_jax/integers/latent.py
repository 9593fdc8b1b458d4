"""Real numbers behind the weights of an integer network, for fine-tuning.

`latent` makes them of a float graph, `rounded` makes integers of them, `written_back`
a float graph again. The grid is that of `fixed_point`, or up to three bits finer, on
which large weights are clipped.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.integers.graph import ROWS, Graph, Node
from bitsnn_jax.integers.kernels import (
    FINER,
    bounds,
    clipped,
    counted,
    grouped,
    is_fixed,
    on_grid,
    with_kernel,
)
from bitsnn_jax.integers.network import IntegerNetwork, IntegerNode
from bitsnn_jax.integers.products import held

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
      FixedPointError, ValueError: as `fixed_point`; a graph with softmax or normalised
        rows.
    """
    check_trainable(graph)
    options = {"steps": steps, "bits": bits, "white": white}
    first = fixed_point(graph, **options)
    limit = first.largest_weight
    closer = [_clipped(node, first) for node in graph.nodes]
    network = fixed_point(Graph(tuple(closer)), **options)
    params, low, high = {}, {}, {}
    for node, near in zip(graph.nodes[1:], closer[1:], strict=True):
        integers = network[node.name]
        if node.kind == "maximum" or held(node):  # nothing of its own to train
            continue
        if is_fixed(node, integers):
            start = [t.numbers / limit for t in with_kernel(integers.terms)]
            sides = start, start
        else:
            sizes = counted(node, network)
            start = [value / limit for value in counted(near, network)]
            sides = bounds(sizes, integers, limit)
        size = _bias_size(integers, network)
        for tree, kernels, bias in (
            (params, start, integers.bias / size),
            (low, sides[0], np.full((), -np.inf)),
            (high, sides[1], np.full((), np.inf)),
        ):
            tree[node.name] = {
                "kernels": [np.asarray(k, np.float32) for k in kernels],
                "bias": np.asarray(bias, np.float32),
            }
    return Latent(network, params, low, high)


def check_trainable(graph: Graph) -> None:
    """Raise ValueError if a graph has nodes that fine-tuning does not know."""
    if rows := graph.of_kind(*ROWS):
        raise ValueError(
            f"{rows[0].name}: weights behind a node of kind {rows[0].kind!r} cannot be "
            "fine-tuned in integers; round them, without qat_epochs"
        )


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
        if not is_fixed(node, made):
            node = on_grid(node, network, trained["kernels"])
        nodes.append(node)
    return Graph(tuple(nodes))


def _clipped(node: Node, network: IntegerNetwork) -> Node:
    """Clip large weights where the others gain by it, in the sum of squares."""
    if not with_kernel(node.terms) or is_fixed(node, network[node.name]):
        return node
    limit = network.largest_weight
    groups = np.abs(grouped(counted(node, network), network[node.name]))
    errors = []
    for bits in range(FINER + 1):
        grid = np.minimum(np.round(groups * 2.0**bits), limit) / 2.0**bits
        errors.append(np.square(grid - groups).sum(0))
    # A grid that is not bound by the largest weight does not become finer.
    best = np.where(groups.max(0) > limit / 2, np.argmin(errors, 0), 0)
    return clipped(node, network, best)


def _bias_size(node: IntegerNode, network: IntegerNetwork) -> np.ndarray:
    """Return what a bias is counted in: the threshold of neurons, or one large term."""
    top = 2**network.steps - 1
    if node.kind == "neurons":
        size = top * 2.0**node.fraction
    else:
        size = np.asarray(top * 2.0 ** (network.bits - 1))
    return np.asarray(size, np.float32)
