"""Checks that a program, its layer graph and its integers are the same network.

Each layer is compared on the inputs that the float network gives it, so that a code
moved by rounding in one layer does not affect the next.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax.integers.execution import value_of
from bitsnn_jax.integers.graph import (
    NUMBERS,
    ROWS,
    Conv,
    Graph,
    Held,
    Lookup,
    Node,
    Product,
    Scale,
    Term,
    apply,
    apply_term,
    collected,
)
from bitsnn_jax.integers.network import IntegerNetwork
from bitsnn_jax.numerics.qcfs import codes, qcfs
from bitsnn_jax.tracing.program import ApplyFn, read, trace
from bitsnn_jax.tracing.reading import Reading
from bitsnn_jax.tracing.values import Analog


def drawn(shape: tuple[int, ...], white: int = 255) -> np.ndarray:
    """Draw integers 0..white, always the same ones: an input when none is given."""
    return np.random.default_rng(0).integers(0, white, shape, endpoint=True)


def graph_difference(
    graph: Graph, apply_fn: ApplyFn, variables: Any, x: Any
) -> str | None:
    """Name the first node that is not what the network computes there.

    Args:
      graph: of this network.
      apply_fn, variables: the network.
      x: [1, ...] an input.

    Returns:
      None where all nodes agree up to rounding: sqrt(eps) of the largest term.
    """
    program, _ = trace(apply_fn, variables, x)
    network = _Recorded()
    results = read(network, program, jax.tree.leaves(variables), [x])
    charges, activations = zip(*network.seen, strict=True) if network.seen else ((), ())
    wanted = [*charges, *(r.value for r in results)]
    eps = max((float(jnp.finfo(z.dtype).eps) for z in wanted), default=0.0)
    nodes = graph.of_kind("neurons", "output")
    found = dict(zip((node.name for node in nodes), wanted, strict=True))
    with jax.enable_x64(True):
        values: dict[str, Any] = {"input": jnp.asarray(np.asarray(x, np.float64))}
        sent = iter(activations)
        for node in graph.nodes[1:]:
            terms = [apply_term(t.given(values), values[t.source]) for t in node.terms]
            z = collected(node, values, jnp.float64)
            if node.kind == "neurons":
                z = node.charge(z)
                values[node.name] = jnp.asarray(_as_stored(next(sent), node))
            else:
                values[node.name] = node.number(z)
            if node.name in found:
                want = _as_stored(found[node.name], node)
                apart = np.abs(np.asarray(z) - want).max(initial=0)
                size = sum(float(jnp.max(jnp.abs(t), initial=0)) for t in terms)
                size += np.abs(node.bias).max(initial=0)
                if not apart <= np.sqrt(eps) * size:
                    return f"{node.name} is off by {apart:.3g}, its terms by {size:.3g}"
    return None


def _as_stored(value: Any, node: Node) -> np.ndarray:
    array = np.asarray(value, np.float64)
    return array.transpose(node.order) if node.order else array.reshape(node.shape)


class _Recorded(Reading):
    """The network itself, keeping what its neurons are fed and what they send."""

    def __init__(self):
        super().__init__()
        self.seen: list[tuple[Any, Any]] = []

    def neuron(self, site, z, theta):
        charge = jnp.broadcast_to(z.value, site.shape)
        a = qcfs(charge, theta.value, levels=site.levels)
        self.seen.append((charge, a))
        return Analog(a)


def integer_difference(network: IntegerNetwork, graph: Graph, x: Any) -> str | None:
    """Name the first node whose integers rounding cannot explain.

    With inputs k and weights W, rounded from w, the sum of W k may be off by half a
    unit for each |k|, for each weight of an input that was rounded itself, and for the
    bias:

        |sum W k + B - (sum w k + b)| <= (sum |k| + sum_rounded |W| + 1) / 2

    An entry that is looked up in a table has one weight, which is off by half a unit.
    What a routine makes of rows is compared with the function of the same integers, and
    may be off by as much as `routines` promise.

    Args:
      network: of the graph.
      graph: in floats.
      x: [1, ...] integers 0..white.

    Returns:
      None if every node stays within this bound.
    """
    top = 2**network.steps - 1
    with jax.enable_x64(True):
        floats: dict[str, Any] = {"input": jnp.asarray(np.asarray(x, np.float64))}
        integers = dict(floats)
        for node, made in zip(graph.nodes[1:], network.nodes[1:], strict=True):
            z = collected(node, floats, jnp.float64)
            if node.kind == "neurons":
                theta = jnp.asarray(node.theta, z.dtype)
                code = codes(node.charge(z), theta, levels=top).astype(z.dtype)
                floats[node.name], integers[node.name] = code * (theta / top), code
            else:
                floats[node.name] = value = node.number(z)
                integers[node.name] = jnp.round(value / made.unit)
            if node.kind == "maximum":
                continue
            sums = collected(made, integers, jnp.float64)
            apart = jnp.abs(sums - z / made.sum_unit)
            bound = 0.5 + sum(
                _half(term, jnp.abs(integers[term.source]), graph)
                + _of_rounded(term, integers[term.source], graph[term.source].kind)
                for term in made.terms
            )
            # For sums in float64, whose terms may be much larger than the result.
            slack = 1e-9 * (made.bound + 1)
            worst = float(jnp.max(apart - bound, initial=-jnp.inf))
            if not worst <= slack:
                return (
                    f"{node.name} is off by {float(jnp.max(apart)):,.0f} units, where "
                    f"rounding explains {float(jnp.max(bound)):,.0f}"
                )
            if node.kind in ROWS:
                given = jnp.round(z / made.row_unit)
                wanted = node.number(given * made.row_unit) / made.unit
                found = value_of(made, given * 2.0**made.fraction, network.steps)
                apart, bound = jnp.max(jnp.abs(found - wanted)), _promised(node)
                if not float(apart) <= bound:
                    return (
                        f"{node.name}: its routine is off by {float(apart):,.1f} "
                        f"units, where {bound:.1f} are promised"
                    )
    return None


def _promised(node: Node) -> float:
    """Return how many units a routine may be off; see `routines`."""
    entries = node.shape[-1]
    if node.kind == "softmax":
        return 4 if entries <= 128 else 8
    return 1 + 3 * entries**0.5 / 32


def _half(term: Term, sizes, graph: Graph):
    """Add up half a unit for each input that each result has."""
    for op in term.before:
        sizes = apply(op, sizes)
    weight = term.weight
    if isinstance(weight, Held):  # codes are not rounded
        half = 0.5 * (graph[weight.source].kind in NUMBERS)
        sizes = apply(Product(np.full(weight.shape, half)), sizes)
    elif isinstance(weight, Scale):
        sizes = jnp.broadcast_to(
            sizes / 2, np.broadcast_shapes(sizes.shape, np.shape(weight.factor))
        )
    elif isinstance(weight, Lookup):
        shape = (*sizes.shape, weight.kernel.shape[-1])
        sizes = jnp.full(shape, 0.5, sizes.dtype)
    else:
        # All outputs of a group see the same inputs, so one of them is enough.
        groups = weight.groups if isinstance(weight, Conv) else 1
        *window, outputs = weight.kernel.shape
        halves = weight._replace(kernel=np.full((*window, groups), 0.5))
        sizes = jnp.repeat(apply(halves, sizes), outputs // groups, axis=-1)
    for op in term.after:
        sizes = apply(op, sizes)
    return sizes


def _of_rounded(term: Term, values, kind: str):
    """Add up half a unit of each input, where inputs are rounded and not codes."""
    if kind not in NUMBERS:
        return 0.0
    term = term.with_numbers(np.abs(term.numbers.astype(np.float64)))
    return apply_term(term, jnp.full(values.shape, 0.5))
