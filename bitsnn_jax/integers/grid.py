"""The grid that weights are rounded to: a unit for each channel, finer or coarser.

A node counts its sum in a unit, its `sum_unit`: unit / 2**guard, with `unit` as coarse
as the largest weights of a channel let it be. The weights of one term are rounded in
units of unit / 2**exponent, and their products are shifted to the unit of the sum.
"""

import math
from typing import Any

import numpy as np

from bitsnn_jax.integers.folding import fed, scaled
from bitsnn_jax.integers.graph import Lookup, Node, Reshape, Shift, Term
from bitsnn_jax.integers.network import IntegerNode

# Signed bits of a multiplier: what a term without weights, an identity, has one of.
MULTIPLIER_BITS = 16
# Signed bits of a number in a table that is looked up. Nothing is multiplied with it.
TABLE_BITS = 16
# A multiplier has at least these bits where it is not exact: an error below 1 %.
PRECISE_BITS = 6
# Products may be shifted by as many bits: for that, and where weights are large. By
# more only where a term would be rounded away beside the others.
MAX_GUARD = 8
# Channels without large weights would have thresholds that leave 32 bits.
MAX_FRACTION = 12
# A table has thresholds no larger than the sums, and may be finer.
MAX_RESOLUTION = 20


def of_integers(term: Term, source: IntegerNode) -> Term:
    """Return a term of the float network as one of the integers of its source."""
    return fed(term, source.unit, source.shape)


def in_units(term: Term, unit: np.ndarray, source: IntegerNode) -> Term:
    """Return the term counted in units, which may differ from channel to channel."""
    return scaled(term, 1 / unit, source.shape)


def weight_unit(node: IntegerNode, term: Term) -> np.ndarray:
    """Return what a weight of 1 stands for in an integer term of a node."""
    return node.sum_unit * 2.0 ** shift(term)


def shift(term: Term) -> int:
    """Return the bits by which the products of an integer term are shifted."""
    return sum(op.amount for op in term.after if isinstance(op, Shift))


def limit_of(term: Term, limit: int) -> int:
    """Return the largest |number| that a term may have; `limit` is that of a weight."""
    if isinstance(term.weight, Lookup):
        return 2 ** (TABLE_BITS - 1) - 1
    return limit if term.has_kernel else 2 ** (MULTIPLIER_BITS - 1) - 1


def largest(term: Term) -> float:
    """Return the largest |number| of a term."""
    return float(np.abs(term.numbers).max(initial=0))


def keeps_channels(term: Term, channels: int) -> bool:
    """Tell whether the channels of a kernel are those of the node, after its moves."""
    moves = len(term.after) > 1 or not all(isinstance(op, Reshape) for op in term.after)
    return not moves and term.numbers.shape[-1] == channels


def smallest_unit(
    node: Node, terms: list[Term], limit: int, *, per_channel: bool
) -> np.ndarray:
    """Return the smallest unit in which all kernels fit.

    Args:
      node: whose current the terms are.
      terms: of integers.
      limit: largest weight.
      per_channel: one for each channel of the node, unless terms mix them.
    """
    channels, has_channels = node.shape[-1:], True
    sizes = [np.zeros(channels)]
    for term in terms:
        if not term.has_kernel:
            continue
        kernel = np.abs(term.numbers) / limit_of(term, limit)
        if keeps_channels(term, *channels):
            sizes.append(kernel.reshape(-1, *channels).max(0))
        else:
            sizes.append(np.full(channels, kernel.max()))
            has_channels = False
    unit = np.max(sizes, axis=0)
    if not per_channel or not has_channels:
        return unit.max()
    return unit.reshape((1,) * (len(node.shape) - 1) + (-1,))


def largest_fraction(delta: np.ndarray, unit: np.ndarray, most: Any) -> np.ndarray:
    """Return the largest f, for each channel, with delta / 2**f not below the unit."""
    with np.errstate(divide="ignore"):
        return np.minimum(np.floor(np.log2(delta / unit)), most)


def largest_threshold(steps: int) -> int:
    """Return the largest f of which 32 bits have all thresholds, 2**(f + T - t)."""
    return min(MAX_FRACTION, 30 - MAX_GUARD - steps)


def unit_without_delta(terms: list[Term], unit: np.ndarray) -> np.ndarray:
    """Return the unit of a node that is no layer of neurons.

    Without a kernel, multipliers have 7 bits. A dead channel: any unit.
    """
    factors = [term.numbers for term in terms if not term.has_kernel]
    scale = max((float(np.abs(f).max()) for f in factors), default=0.0) or 1.0
    return np.where(unit > 0, unit, scale / 2**7)


def exponent(term: Term, limit: int, *, even: bool) -> int:
    """Return the bits below the unit that the weights of a term are rounded to.

    Multipliers to as many as 16 bits hold. Kernels to none, if `even` or if the largest
    weight has a quarter of the range and is not rounded to 0; else to those it needs.
    """
    size, limit = largest(term), limit_of(term, limit)
    if term.has_kernel and (even or size >= enough(limit)):
        return 0
    return math.floor(np.log2(limit / size)) if size else 0


def enough(limit: int) -> float:
    """Return the units that the largest weight must have at least."""
    return max(limit / 4, 0.5)  # which is rounded to 1


def guard_bits(term: Term) -> int:
    """Return the bits below the unit that multipliers need, unless they are whole."""
    if term.has_kernel:
        return 0
    ratio = np.abs(term.numbers)
    inexact = ratio[np.abs(ratio - np.round(ratio)) > 1e-9 * ratio]
    return PRECISE_BITS - math.floor(np.log2(inexact.min())) if inexact.size else 0
