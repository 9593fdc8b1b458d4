"""The kernels of a node on its grid: counted in units, clipped, and written back.

`fixed_point` takes the grid of a channel from its largest weight. Here a kernel is put
on a finer one, by clipping that weight, or given integers that another has found.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from bitsnn_jax.integers.graph import Held, Lookup, Node, Term
from bitsnn_jax.integers.grid import (
    in_units,
    keeps_channels,
    of_integers,
    shift,
    weight_unit,
)
from bitsnn_jax.integers.network import IntegerNetwork, IntegerNode

# A grid finer by so many bits is tried for each channel, its largest weights clipped.
FINER = 3
# Weights lie so much inside of their grid that no logarithm rounds down to another.
_INSIDE = 1 - 2.0**-40


def with_kernel(terms: Iterable[Term]) -> list[Term]:
    """Return the terms that have weights of their own, tables that are looked up not.

    No sum of several numbers comes of these, so each is rounded for itself.
    """
    return [term for term in terms if _is_multiplied(term)]


def _is_multiplied(term: Term) -> bool:
    return term.has_kernel and not isinstance(term.weight, Lookup)


def has_biases(node: Node) -> bool:
    """Tell whether a bias may take up what the sums of a channel lack.

    The last axis of scores has no channels, but the places that a row looks at.
    """
    weights = [term.weight for term in node.terms]
    is_product = any(isinstance(weight, Held) for weight in weights)
    return node.kind not in ("maximum", "softmax") and not is_product


def filled(terms: Iterable[Term], kernels: Iterable[Any]) -> list[Term]:
    """Give the terms other kernels."""
    rest = iter(kernels)
    return [
        term.with_numbers(next(rest)) if _is_multiplied(term) else term
        for term in terms
    ]


def is_fixed(node: Node, made: IntegerNode) -> bool:
    """Tell whether its kernels stay: channels or terms of unlike size share a unit."""
    kernels, channels = with_kernel(node.terms), node.shape[-1]
    moved = not all(keeps_channels(term, channels) for term in kernels)
    return moved or len(set(map(shift, with_kernel(made.terms)))) > 1


def factors(node: Node, network: IntegerNetwork) -> list[np.ndarray]:
    """Return what kernels are multiplied with before they are rounded."""
    made = network[node.name]
    found = []
    for term, integer in zip(node.terms, made.terms, strict=True):
        if not _is_multiplied(term):
            continue
        source = network[term.source]
        one = of_integers(term.with_numbers(np.ones(term.numbers.shape)), source)
        found.append(in_units(one, weight_unit(made, integer), source).numbers)
    return found


def counted(node: Node, network: IntegerNetwork) -> list[np.ndarray]:
    """Return the kernels before they are rounded."""
    kernels = [term.numbers for term in with_kernel(node.terms)]
    return [
        kernel * factor
        for kernel, factor in zip(kernels, factors(node, network), strict=True)
    ]


def on_grid(node: Node, network: IntegerNetwork, kernels: Iterable[Any]) -> Node:
    """Give the node kernels that are rounded to these integers, on the same grid."""
    numbers = [
        np.float64(kernel) * _INSIDE / factor
        for kernel, factor in zip(kernels, factors(node, network), strict=True)
    ]
    return node._replace(terms=tuple(filled(node.terms, numbers)))


def clipped(node: Node, network: IntegerNetwork, finer: Any) -> Node:
    """Clip the kernels to what a grid holds that is finer by so many bits.

    Args:
      node: of the float graph.
      network: with its integers.
      finer: bits; for each channel, or one number.
    """
    most = network.largest_weight * _INSIDE / 2.0 ** np.asarray(finer)
    kernels = [
        np.clip(kernel, -most, most) / factor
        for kernel, factor in zip(
            counted(node, network), factors(node, network), strict=True
        )
    ]
    return node._replace(terms=tuple(filled(node.terms, kernels)))


def has_one_unit(node: IntegerNode) -> bool:
    """Tell whether all channels of a node count in the same unit."""
    return np.size(node.sum_unit) == 1


def grouped(kernels: list[np.ndarray], node: IntegerNode) -> np.ndarray:
    """Group weights that share a unit: [weights, groups]."""
    channels = 1 if has_one_unit(node) else kernels[0].shape[-1]
    return np.concatenate([k.reshape(-1, channels) for k in kernels])


def bounds(
    kernels: list[np.ndarray], node: IntegerNode, limit: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return bounds: -1..1, but for the largest weight that a unit comes from.

    Args:
      kernels: counted in units, not clipped.
      node: in integers.
      limit: the largest weight, which is 1 here.
    """
    if not kernels:
        return [], []
    groups = grouped(kernels, node)
    low, high = np.full(groups.shape, -1.0), np.ones(groups.shape)
    index = np.argmax(np.abs(groups), 0), np.arange(groups.shape[1])
    largest = groups[index]
    # Half of the range would fit a finer grid. Other units are exactly the largest's.
    need = (limit + 1) / 2 / limit if node.kind == "neurons" else 1.0
    bound = np.abs(largest) > limit / 2
    low[index] = np.where(bound & (largest > 0), need, -1.0)
    high[index] = np.where(bound & (largest < 0), -need, 1.0)
    ends = np.cumsum([k.size // groups.shape[1] for k in kernels])[:-1]
    low, high = (
        [
            part.reshape(k.shape)
            for part, k in zip(np.split(side, ends), kernels, strict=True)
        ]
        for side in (low, high)
    )
    return low, high
