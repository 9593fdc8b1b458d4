"""Rounding that looks at inputs: no training, a few hundred images, no labels.

The network is rounded node after node. Each is fed what the rounded network sends, and
compared with what the float network has in its place.
"""

from typing import Any, NamedTuple

import numpy as np

from bitsnn_jax.integers.fixed_point import FixedPointError, begun, extended
from bitsnn_jax.integers.graph import Conv, Graph, Node, Term
from bitsnn_jax.integers.grid import weight_unit
from bitsnn_jax.integers.kernels import (
    FINER,
    bounds,
    clipped,
    counted,
    filled,
    has_biases,
    has_one_unit,
    is_fixed,
    on_grid,
    with_kernel,
)
from bitsnn_jax.integers.network import IntegerNetwork
from bitsnn_jax.integers.rounding import damped, rounded_to_inputs, squared_errors
from bitsnn_jax.integers.sent import Sent


class Ingredients(NamedTuple):
    """What `gptq` does; all of it, but to find what each brings.

    Attributes:
      units: a finer unit for a channel, with its largest weights clipped, where the
        error of its sums is smaller.
      feedback: errors of weights that make up for each other, see `rounded_to_inputs`.
      biases: the mean of what a channel lacks, added to its bias.
    """

    units: bool = True
    feedback: bool = True
    biases: bool = True


ALL = Ingredients()


def gptq(
    graph: Graph,
    inputs: Any,
    *,
    steps: int,
    bits: int,
    white: int = 255,
    using: Ingredients = ALL,
) -> Graph:
    """Return a graph whose nearest integers lose little on some inputs.

    `fixed_point` of it has the weights that are found here. For each node in turn,

    1. kernels are rounded by `rounded_to_inputs`, for the inputs x that the rounded
       network sends: on the grid of `fixed_point`, and on those finer by one to three
       bits, where large weights are clipped. Each channel takes the grid on which its
       sums have the least squared error;
    2. its bias takes up the mean of what its sums lack beside the float network. So x
       is counted from its mean in the first step.

    Kernels stay as they are, rounded to the nearest, where a result is moved before it
    is added up, or where terms of unlike size are; so do multipliers, such as those of
    skip connections, and tables that are looked up. Products of two nodes and maxima
    have no numbers of their own, and scores in front of a softmax keep theirs.

    Args:
      graph: of `lowering.lower`, of integers 0..white.
      inputs: [n, ...] of these, such as pixels of the training split.
      steps, bits, white: as in `fixed_point`.
      using: what to do.

    Raises:
      FixedPointError, ValueError: as `fixed_point`.
      ValueError: no inputs, or of another shape.
    """
    shape, inputs = graph.nodes[0].shape[1:], np.asarray(inputs)
    if inputs.shape[1:] != shape or not len(inputs):
        raise ValueError(
            f"expected at least one input, [n, {shape}], got {inputs.shape}"
        )
    network = begun(graph, steps=steps, bits=bits, white=white)
    nodes, sent = [graph.nodes[0]], Sent(graph, inputs)
    for node in graph.nodes[1:]:
        rounded, has_own = node, has_biases(node)
        if has_own and with_kernel(node.terms):
            rounded = _on_best_grid(node, network, sent, using)
        wanted = sent.float_sums(node)
        after = extended(network, rounded)
        found = sent.integer_sums(after[node.name])
        if has_own and using.biases:
            before = after[node.name]
            lack = wanted - found * before.sum_unit.astype(found.dtype)
            lack = lack.mean(tuple(range(lack.ndim - 1)), dtype=np.float64)
            rounded = rounded._replace(bias=before.bias * before.sum_unit + lack)
            after = extended(network, rounded)
            found = sent.integer_sums(after[node.name])
        nodes.append(rounded)
        network = after
        sent.add(node, wanted, network[node.name], found, 2**steps - 1)
    return Graph(tuple(nodes))


def _on_best_grid(
    node: Node, network: IntegerNetwork, sent: Sent, using: Ingredients
) -> Node:
    """Round the kernels of a node; return it as it is where that is not defined."""
    plain = extended(network, node)
    groups = {_groups(term) for term in with_kernel(node.terms)}
    if is_fixed(node, plain[node.name]) or len(groups) > 1:
        return node
    squares = sent.squares(node, centred=using.biases)
    tried = []
    for finer in range(1 + FINER * using.units):
        try:
            made = extended(network, clipped(node, plain, finer))
        except FixedPointError:
            break  # not so fine
        tried.append(_rounded(node, made, squares, using.feedback))
    errors = np.stack([error for _, error in tried])
    if has_one_unit(plain[node.name]):
        errors = np.broadcast_to(errors.sum(1, keepdims=True), errors.shape)
    best = np.argmin(errors, 0)
    kernels = [
        np.stack(each)[best, ..., np.arange(len(best))]
        for each in zip(*(numbers for numbers, _ in tried), strict=True)
    ]
    kernels = [np.moveaxis(k, 0, -1) for k in kernels]
    rounded = node._replace(terms=tuple(filled(node.terms, kernels)))
    return rounded if _stays(rounded, network) else node


def _stays(node: Node, network: IntegerNetwork) -> bool:
    """Tell whether `fixed_point` leaves the kernels as they were rounded."""
    try:
        made = extended(network, node)
    except FixedPointError:
        return False
    kernels = counted(node, made)
    return all(np.abs(np.rint(k) - k).max(initial=0) < 1e-6 for k in kernels)


def _rounded(node, network, squares, feedback):
    """Return kernels on the grid of its integers, and the error of each channel."""
    made, limit = network[node.name], network.largest_weight
    sizes = counted(node, network)
    groups = _groups(with_kernel(node.terms)[0])
    low, high = (
        np.rint(limit * _matrix(side, groups)) for side in bounds(sizes, made, limit)
    )
    weights = _matrix(sizes, groups)
    if feedback:
        integers = rounded_to_inputs(weights, squares, low, high)
    else:
        integers = np.clip(np.round(weights), low, high)
    errors = squared_errors(integers - weights, damped(squares)).reshape(-1)
    errors = errors * _units(node, network) ** 2
    near = on_grid(node, network, _kernels(integers, sizes))
    return [term.numbers for term in with_kernel(near.terms)], errors


def _units(node: Node, network: IntegerNetwork) -> np.ndarray:
    """Return what a weight of 1 is worth in each channel."""
    made = network[node.name]
    unit = weight_unit(made, with_kernel(made.terms)[0])
    return np.broadcast_to(np.reshape(unit, -1), node.shape[-1:])


def _groups(term: Term) -> int:
    return term.weight.groups if isinstance(term.weight, Conv) else 1


def _matrix(kernels, groups: int) -> np.ndarray:
    """Write the kernels of a node below each other: [groups, K, channels of each]."""
    rows = np.concatenate([k.reshape(-1, k.shape[-1]) for k in kernels])
    return np.moveaxis(rows.reshape(len(rows), groups, -1), 1, 0)


def _kernels(matrix: np.ndarray, like) -> list[np.ndarray]:
    """Undo `_matrix`."""
    rows = np.moveaxis(matrix, 0, 1).reshape(matrix.shape[1], -1)
    ends = np.cumsum([k.size // k.shape[-1] for k in like])[:-1]
    parts = np.split(rows, ends)
    return [part.reshape(k.shape) for part, k in zip(parts, like, strict=True)]
