"""Maxima of spikes: the codes of one layer, or of several side by side."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax.integers.folding import NotFoldable, fed, shrunk
from bitsnn_jax.integers.graph import Graph, Node, apply_term


def largest_codes(node: Any, codes: Mapping[str, jax.Array]) -> jax.Array:
    """Return the largest of the codes that the terms of a node bring."""
    terms = [apply_term(term, codes[term.source]) for term in node.terms]
    return functools.reduce(jnp.maximum, terms)


def merged_units(node: Node, network: Graph) -> np.ndarray:
    """Return the units of a maximum: those of the layers that it compares.

    Raises:
      NotFoldable: codes of different units are compared.
    """
    if len(node.terms) == 1:
        [term] = node.terms
        source = network[term.source]
        return fed(term, source.unit, source.shape).numbers
    with jax.enable_x64(True):
        # Where a layer does not reach, its units are 0 and never the largest.
        largest, inverse = (
            functools.reduce(
                np.maximum, [_spread(term, network, power) for term in node.terms]
            )
            for power in (1, -1)
        )
    used = largest > 0
    if not np.allclose(largest[used] * inverse[used], 1, rtol=1e-12):
        raise NotFoldable("a maximum compares codes of different units")
    return shrunk(np.where(used, largest, 1.0), used)


def _spread(term, network, power) -> np.ndarray:
    source = network[term.source]
    unit = np.broadcast_to(source.unit, source.shape) ** float(power)
    term = term.with_numbers(np.asarray(term.numbers) ** float(power))
    return np.asarray(apply_term(term, jnp.asarray(unit)))
