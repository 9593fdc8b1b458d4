"""Products of two nodes in integers: one is streamed spike by spike, the other held.

For codes a = sum_t 2**(T-t) s_a(t) and numbers b,

    a b = sum_t 2**(T-t) s_a(t) b,

so each spike of a adds b, shifted as a weight would be. b is complete by then, since
layers run one after the other. The product is a "sum": a number of 16 bits at most.
"""

import numpy as np

from bitsnn_jax.integers.carriers import places
from bitsnn_jax.integers.folding import NotFoldable, fed, pushed, shrunk
from bitsnn_jax.integers.graph import Held, Node, Product, Scale, Term, out_shape
from bitsnn_jax.integers.network import IntegerNetwork, IntegerNode, largest_sum

# Signed bits of a "sum" after rounding.
SUM_BITS = 16
# Kinds of node that send spikes.
SPIKING = ("neurons", "maximum")


def held(node: Node | IntegerNode) -> Held | None:
    """Return what the node multiplies its one term with, if it is a product."""
    weights = [term.weight for term in node.terms]
    return next((w for w in weights if isinstance(w, Held)), None)


def product_node(node: Node, network: IntegerNetwork) -> IntegerNode:
    """Make the integers of a product: in units of the one times units of the other.

    Raises:
      NotFoldable: units that differ along an axis that is added up, or behind it.
    """
    [term] = node.terms
    made = IntegerNode(node.name, node.kind, node.shape, (term,))
    bound = largest_sum(made, network)
    fraction = np.array(max(0, bound.bit_length() + 1 - SUM_BITS), np.int32)
    unit = _unit(term, network) * 2.0**fraction
    made = made._replace(fraction=fraction, unit=unit)
    return made._replace(bound=bound + int(made.half))


def _unit(term: Term, network: IntegerNetwork) -> np.ndarray:
    """Return what 1 is worth in the product, before it is rounded."""
    streamed, other = network[term.source], term.weight
    assert isinstance(other, Held), "the caller looks"
    groups, inner, outer = other.shape
    one = Term(term.source, term.before, Scale(np.ones(())), ())
    mine = fed(one, streamed.unit, streamed.shape).numbers
    one = Term(other.source, other.before, Scale(np.ones(())), ())
    theirs = fed(one, network[other.source].unit, network[other.source].shape).numbers
    shape = streamed.shape
    for op in term.before:
        shape = out_shape(op, shape)
    mine = _constant(np.broadcast_to(mine, shape).reshape(-1, groups, inner), 2)
    theirs = _constant(np.broadcast_to(theirs, other.shape), 1)
    unit = (mine * theirs[:, 0]).reshape(-1, groups * outer)
    unit, shape = shrunk(unit), (shape[0], groups * outer)
    for op in term.after:
        unit = pushed(op, unit, shape)
        shape = out_shape(op, shape)
    return unit


def _constant(units: np.ndarray, axis: int) -> np.ndarray:
    first = units.take([0], axis)
    if not np.allclose(units, first, rtol=1e-12, atol=0):
        raise NotFoldable("numbers that are added up have different units")
    return first


def with_tops(term: Term, values: dict, network: IntegerNetwork) -> Term:
    """Return the term with the numbers that it holds, and how large they can be."""
    if not isinstance(term.weight, Held):
        return term
    name, before = term.weight.source, term.weight.before
    count = places(before, values[name].shape)
    if count > 1:  # codes may be stored in as few bits as one of them has
        values = values | {name: values[name].astype(np.int32)}
    given, largest = term.given(values), network.top(name) * count
    assert isinstance(given.weight, Product), "it is held"
    return given._replace(weight=given.weight._replace(largest=largest))
