"""What a float network and its integers send, side by side, on the same inputs."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax.integers.execution import value_of
from bitsnn_jax.integers.graph import (
    ROWS,
    Conv,
    Graph,
    Node,
    Term,
    apply,
    collected,
    padded,
)
from bitsnn_jax.integers.kernels import with_kernel
from bitsnn_jax.integers.network import IntegerNode
from bitsnn_jax.numerics.qcfs import qcfs

# Entries of inputs, as a product sees them, that are in memory at once.
_ENTRIES = 2**23
# Inputs of a product that are looked at, where a layer has many places.
_ROWS = 2**16

# name of a node -> [n, 1, ...], what it sends for each input
Values = dict[str, np.ndarray]


class Sent:
    """What both networks send on all inputs, as far as it is still needed.

    Arrays are [n, 1, ...]; the integers are floats too.
    """

    def __init__(self, graph: Graph, inputs: np.ndarray):
        start = inputs[:, None].astype(np.float32)
        self.floats: Values = {"input": start}
        self.integers: Values = {"input": start}
        self.left = [
            name for node in graph.nodes for t in node.terms for name in t.sources
        ]

    def squares(self, node: Node, *, centred: bool) -> np.ndarray:
        """Add up x x^T over x that the kernels of a node are fed: [groups, K, K]."""
        terms = with_kernel(node.terms)

        def one(values):
            parts = [columns(term, values[term.source]) for term in terms]
            return jnp.concatenate(parts, -1)

        values = _sources(node, self.integers)
        rows, size = _size(one, values)
        apart = max(1, rows * len(self.integers[terms[0].source]) // _ROWS)
        count, total, mean = 0, np.zeros(()), np.zeros(())
        for x in _in_batches(one, values, size):
            x = x.reshape(-1, *x.shape[2:])[::apart]
            x = np.ascontiguousarray(np.moveaxis(x, 1, 0))
            # Of integers: as long as floats hold them, sums are exact.
            if np.abs(x).max(initial=0) ** 2 * x.shape[1] >= 2**24:
                x = x.astype(np.float64)
            count += x.shape[1]
            total = total + np.stack([each.T @ each for each in x]).astype(np.float64)
            mean = mean + x.sum(1, dtype=np.float64)[:, :, None]
        if not centred:
            return total
        return total - mean @ mean.swapaxes(1, 2) / count

    def float_sums(self, node: Node) -> np.ndarray:
        """Add up what a node is fed in the float network."""
        values = _sources(node, self.floats)
        return _all(partial(_collected, node), values, math.prod(node.shape))

    def integer_sums(self, made: IntegerNode) -> np.ndarray:
        """Add up what it is fed in integers, without rounding."""
        # Above, float32 does not hold all of them.
        dtype = np.float32 if made.bound < 2**24 else np.float64
        values = _sources(made, self.integers)
        values = {name: x.astype(dtype) for name, x in values.items()}
        with jax.enable_x64(dtype == np.float64):
            return _all(partial(_collected, made), values, math.prod(made.shape))

    def add(
        self,
        node: Node,
        sums: np.ndarray,
        made: IntegerNode,
        found: np.ndarray,
        top: int,
    ) -> None:
        """Add what a node sends in both networks; forget what nothing else needs."""

        def code(z):
            theta = jnp.asarray(node.theta, z.dtype)
            return qcfs(node.charge(z), theta, levels=top)

        def value(z):
            return value_of(made, z, top.bit_length())

        size = math.prod(node.shape)
        if node.kind == "neurons":
            sums = _all(code, sums, size)
        elif node.kind in ROWS:
            sums = _all(node.number, sums, size)
        if node.kind != "maximum":
            with jax.enable_x64(found.dtype == np.float64):
                found = _all(value, found, size).astype(np.float32)
        self.floats[node.name], self.integers[node.name] = sums, found
        for name in (name for term in node.terms for name in term.sources):
            self.left.remove(name)
            if name not in self.left:
                del self.floats[name], self.integers[name]


def _sources(node: Node | IntegerNode, values: Values) -> Values:
    return {name: values[name] for term in node.terms for name in term.sources}


def _in_batches(one: Callable, values: Any, entries: int) -> Iterator[np.ndarray]:
    """Yield what `one` makes of the values of each input, so many entries each."""
    count = len(jax.tree.leaves(values)[0])
    size = 2 ** int(math.log2(max(1, _ENTRIES // entries)))
    for first in range(0, count, size):
        part = jax.tree.map(lambda x, i=first: x[i : i + size], values)
        # Compiled operation by operation, which many nodes have in common.
        yield np.asarray(jax.vmap(one)(part))


def _all(one: Callable, values: Any, entries: int) -> np.ndarray:
    return np.concatenate(list(_in_batches(one, values, entries)))


def _size(one: Callable, values: Values) -> tuple[int, int]:
    """Return the rows and the entries of what `one` makes of one input."""
    shapes = {n: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for n, x in values.items()}
    shape = jax.eval_shape(one, shapes).shape
    return shape[0], math.prod(shape)


def _collected(node: Node | IntegerNode, values: Any) -> jax.Array:
    dtype = next(iter(values.values())).dtype
    return jnp.broadcast_to(collected(node, values, dtype), node.shape)


def columns(term: Term, x: jax.Array) -> jax.Array:
    """Return what each result is a product with: [rows, groups, K]."""
    for op in term.before:
        x = apply(op, x)
    weight = term.weight
    if not isinstance(weight, Conv):
        return x[:, None]
    weight, x = padded(weight, x)
    *window, inputs, _ = weight.kernel.shape
    parts = []
    for place in np.ndindex(*window):
        start = np.multiply(place, weight.rhs_dilation)
        reach = np.multiply(np.subtract(window, 1), weight.rhs_dilation)
        stop = start + np.subtract(x.shape[1:-1], reach)
        parts.append(
            jax.lax.slice(
                x,
                (0, *start.tolist(), 0),
                (1, *stop.tolist(), x.shape[-1]),
                (1, *weight.strides, 1),
            )
        )
    x = jnp.stack(parts, -2)
    x = x.reshape(-1, len(parts), weight.groups, inputs)
    return x.swapaxes(1, 2).reshape(len(x), weight.groups, -1)
