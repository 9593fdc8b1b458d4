"""The network of integers from a NIR graph of `nir_writer.to_nir`, without any loss.

A graph may come from anywhere, so everything is checked: format, types of nodes,
shapes, thresholds, and that no sum leaves 32 bits. Bounds are not in the graph; they
are computed again.

Needs the package `nir`: the extra `nir`.
"""

import math

import nir
import numpy as np

from bitsnn_jax.exports.nir_nodes import (
    FORMAT,
    KINDS,
    VERSION,
    BitSerialGather,
    BitSerialPool,
    BitSerialProduct,
    BitSerialTable,
    NIRError,
    channels_last,
    ints,
    nir_places,
    nir_shape,
    thresholds,
    unquoted,
)
from bitsnn_jax.exports.node_checks import (
    check_node,
    check_numbers,
    check_shape,
    check_term,
    made_shape,
)
from bitsnn_jax.integers.folding import shrunk, simplified
from bitsnn_jax.integers.graph import (
    Conv,
    Dense,
    Held,
    Move,
    Reshape,
    Scale,
    Shift,
    Term,
    Weight,
    Weightless,
    WindowMax,
    WindowSum,
)
from bitsnn_jax.integers.network import IntegerNetwork, IntegerNode, largest_sum
from bitsnn_jax.numerics.spikes import weights
from bitsnn_jax.runtime.reading import ReadingError


def from_nir(graph: nir.NIRGraph) -> IntegerNetwork:
    """Read the network of a graph of `to_nir`.

    Raises:
      NIRError: another graph or format version, an unknown node, thresholds that do not
        halve, numbers out of range.
    """
    try:
        return _from_nir(graph)
    except ReadingError as error:
        raise NIRError(str(error)) from None


def _from_nir(graph: nir.NIRGraph) -> IntegerNetwork:
    meta = graph.metadata
    if meta.get("format") != FORMAT:
        raise NIRError(f"a NIR graph of format {meta.get('format')!r}, not {FORMAT!r}")
    if meta.get("format_version") != VERSION:
        raise NIRError(
            f"format version {meta.get('format_version')}, expected {VERSION}"
        )
    steps, bits, white = (
        int(_exact(meta[key], np.int64, key)) for key in ("steps", "bits", "levels")
    )
    chains = {
        name: _chains(graph, name)
        for name, node in graph.nodes.items()
        if type(node) in KINDS
    }
    check_numbers(steps, bits, white, where="metadata")
    network = IntegerNetwork((), steps, bits, white)
    for name in _ordered(graph, chains):
        node = _from_anchor(name, graph.nodes[name], steps, white)
        terms = []
        for source, links in chains[name]:
            ops = [(link, graph.nodes[link]) for link in links]
            feeding = network[unquoted(source)]
            term = _term(feeding.name, feeding.shape, ops, network)
            check_term(term, network, name=node.name, shape=node.shape)
            terms.append(term)
        node = node._replace(terms=tuple(terms))
        if node.kind == "maximum":
            bound = max((network[term.source].bound for term in terms), default=0)
            node = node._replace(bound=bound)
        elif node.kind != "input":
            node = node._replace(
                bound=largest_sum(node, network) + int(node.half.max())
            )
            if node.bound >= 2**31:
                raise NIRError(f"{node.name}: its sum leaves 32 bits: {node.bound:,}")
        check_node(node, network)
        network = IntegerNetwork((*network.nodes, node), steps, bits, white)
    return network


def _chains(graph, name) -> list[tuple[str, list[str]]]:
    """Follow each edge into a node back to its start, through the nodes on its way."""
    feeding: dict[str, list[str]] = {}
    for a, b in graph.edges:
        feeding.setdefault(b, []).append(a)
    chains = []
    for before in sorted(feeding.get(name, [])):
        links: list[str] = []
        while type(graph.nodes[before]) not in KINDS:
            links.insert(0, before)
            if len(feeding.get(before, [])) != 1 or len(links) > len(graph.nodes):
                raise NIRError(
                    f"{before}: expected one edge into it, got "
                    f"{len(feeding.get(before, []))}"
                )
            [before] = feeding[before]
        chains.append((before, links))
    return chains


def _needed(graph, chains) -> list[str]:
    """List the nodes that chains start from, and those that products hold."""
    links = [link for _, links in chains for link in links]
    held = [getattr(graph.nodes[link], "held", None) for link in links]
    return [*(source for source, _ in chains), *(name for name in held if name)]


def _ordered(graph, chains) -> list[str]:
    """Order nodes so that sources come before what they feed."""
    ordered: list[str] = []
    left = sorted(chains, key=lambda name: (bool(chains[name]), name))
    while left:
        ready = [n for n in left if {*ordered} >= {*_needed(graph, chains[n])}]
        if not ready:
            raise NIRError(f"a loop of {', '.join(left)}")
        ordered += ready
        left = [n for n in left if n not in ready]
    return ordered


def _from_anchor(name, node, steps, white) -> IntegerNode:
    kind, name = KINDS[type(node)], unquoted(name)
    sizes = ints(node.output_type["output"])
    # As `channels_last` returns it, before an array of any size exists.
    shape = (1, *sizes[1:], *sizes[:1])
    check_shape(name, kind, shape)
    if kind == "input":
        return IntegerNode(name, kind, shape, bound=white)

    def small(x, dtype=np.int32):
        if np.shape(x) != sizes:
            raise NIRError(f"{name}: an array of {np.shape(x)}, expected {sizes}")
        return _exact(shrunk(channels_last(x)), dtype, name)

    made = IntegerNode(name, kind, shape, unit=small(node.unit, np.float64))
    if kind == "maximum":
        return made
    made = made._replace(bias=small(node.bias))
    if kind == "output":
        return made
    if isinstance(node, BitSerialTable):
        if not np.array_equal(node.spike, weights(steps)):
            raise NIRError(f"{name}: spikes that do not halve down to 1")
        rise, fall = (_table(side, sizes, name) for side in (node.rise, node.fall))
        return made._replace(fraction=small(node.fraction), rise=rise, fall=fall)
    if kind == "sum":
        fraction = _exact(node.shift, np.int32, name)
    else:
        with np.errstate(divide="ignore", invalid="ignore"):
            halvings = np.log2(node.v_threshold[-1])
        fraction = np.nan_to_num(halvings, nan=-1, neginf=-1).astype(np.int32)
    if not ((fraction >= 0) & (fraction < 31)).all():
        raise NIRError(f"{name}: thresholds must be 2**0 to 2**30")
    if kind != "sum":
        if not (
            np.array_equal(node.spike, weights(steps))
            and np.array_equal(node.v_threshold, thresholds(fraction, node.spike))
        ):
            raise NIRError(
                f"{name}: thresholds or spikes that do not halve {steps - 1}"
                " times, down to a power of two and to 1"
            )
    made = made._replace(fraction=small(fraction))
    if not np.array_equal(node.v_init, np.left_shift(1, fraction) >> 1):
        raise NIRError(f"{name}: v_init is not half of the last threshold")
    return made


def _table(side: np.ndarray, sizes: tuple[int, ...], name: str) -> np.ndarray:
    """Return a side of a table, one entry along each axis where it is constant."""
    if np.ndim(side) < 1 or np.shape(side)[1:] != sizes:
        raise NIRError(f"{name}: a table of {np.shape(side)}, expected rows of {sizes}")
    table = np.stack([channels_last(row) for row in _exact(side, np.int32, name)])
    for axis in range(1, table.ndim):
        first = table.take([0], axis)
        table = first if (table == first).all() else table
    return table


def _held(node: BitSerialProduct, network: IntegerNetwork, name: str) -> Held:
    source = unquoted(node.held)
    found = [other for other in network.nodes if other.name == source]
    if not found or node.index.ndim != 3:
        raise NIRError(f"{name}: a product with {source!r}, which is no kernel")
    move = Move(_places(node.index, found[0].shape))
    before = simplified((move,), found[0].shape)
    return Held(source, before, ints(node.index.shape))


def _term(
    source: str,
    shape: tuple,
    links: list[tuple[str, nir.NIRNode]],
    network: IntegerNetwork,
) -> Term:
    before: tuple[Weightless, ...] = ()
    weight: Weight | None = None
    after: tuple[Weightless, ...] = ()
    for name, node in links:
        if isinstance(node, BitSerialProduct):
            op = _held(node, network, name)
        else:
            op = _read_op(name, node, shape)
        made = made_shape(op, shape, name=name)
        if isinstance(op, Dense) and before and weight is None:
            before, op = _rows_moved(before, op)
        if isinstance(op, (Conv, Dense, Held)) or (
            isinstance(op, Scale) and weight is None
        ):
            if weight is not None:
                raise NIRError(f"{name}: a second weight between two nodes")
            weight = op
        elif isinstance(op, Scale):
            amount = int(op.factor.max()).bit_length() - 1
            if amount < 0 or (op.factor != 2**amount).any():
                raise NIRError(f"{name}: a second weight between two nodes")
            after = (*after, Shift(amount))
        elif weight is None:
            before = simplified((*before, op), shape)
        else:
            after = simplified((*after, op), shape)
        shape = made
    return Term(source, before, weight or Scale(np.ones((), np.int16)), after)


def _rows_moved(before, dense: Dense) -> tuple[tuple, Dense]:
    """Put the rows of a kernel in the order here, for a move that only orders."""
    *first, op = before
    if isinstance(op, Move):
        index = op.index.reshape(-1)
        if index.shape[0] == len(dense.kernel) and np.array_equal(
            np.sort(index), np.arange(len(index))
        ):
            kernel = dense.kernel[np.argsort(index)]
            return (*first, Reshape(op.index.shape)), Dense(kernel)
    return before, dense


def _read_op(name: str, node: nir.NIRNode, shape: tuple) -> Weightless | Weight:
    if isinstance(node, nir.Flatten):
        places = np.arange(math.prod(shape)).reshape(nir_shape(shape))
        end = int(node.end_dim) % places.ndim + 1
        start = int(node.start_dim)
        flat = (*places.shape[:start], -1, *places.shape[end:])
        return _read_move(places.reshape(flat), shape)
    if isinstance(node, BitSerialGather):
        return _read_move(node.index, shape)
    if isinstance(node, (nir.SumPool2d, BitSerialPool)):
        return _read_pool(node)
    if isinstance(node, nir.Scale):
        return Scale(_exact(shrunk(channels_last(node.scale)), np.int16, name))
    if isinstance(node, nir.Linear):
        return Dense(_exact(node.weight, np.int8, name).T.copy())
    if isinstance(node, (nir.Conv1d, nir.Conv2d)):
        return _read_conv(name, node)
    raise NIRError(f"{name}: the format has no nodes of type {type(node).__name__}")


def _read_move(index, shape):
    return Move(channels_last(_places(index, shape)))


def _places(index, shape) -> np.ndarray:
    """Return the places here of places in NIR."""
    order = nir_places(shape)
    if not (-1 <= index.min(initial=-1) and index.max(initial=-1) < order.size):
        raise ReadingError(f"an index beyond the {order.size} entries of {shape}")
    return np.where(index < 0, -1, order[np.maximum(index, 0)])


def _read_pool(node):
    if isinstance(node, nir.SumPool2d):
        kind, one = WindowSum, (1,)
        window, strides = (*one, *node.kernel_size), (*one, *node.stride)
        padding = [(0, 0), *((p, p) for p in node.padding)]
    else:
        kind = {"sum": WindowSum, "max": WindowMax}[node.kind]
        window, strides, padding = node.window, node.strides, node.padding
    return kind(
        ints((1, *window[1:], window[0])),
        ints((1, *strides[1:], strides[0])),
        _pairs(((0, 0), *padding[1:], padding[0])),
    )


def _read_conv(name, node) -> Conv:
    if np.any(node.bias):
        raise NIRError(f"{name}: a bias at each step")
    space = node.weight.ndim - 2
    kernel = _exact(node.weight, np.int8, name).transpose(*range(2, space + 2), 1, 0)
    strides, padding, dilation = (
        np.broadcast_to(entries, space)
        for entries in (node.stride, node.padding, node.dilation)
    )
    zeros = node.metadata.get("zeros", np.zeros((space, 2), int))
    kept = tuple(
        slice(low, n - high)
        for (low, high), n in zip(zeros, kernel.shape[:space], strict=True)
    )
    return Conv(
        kernel[kept].copy(),
        ints(strides),
        _pairs(padding[:, None] - zeros * dilation[:, None]),
        (1,) * space,
        ints(dilation),
        int(node.groups),
    )


def _exact(values, dtype, name) -> np.ndarray:
    """Convert numbers to this type without any change."""
    values = np.asarray(values)
    with np.errstate(invalid="ignore"):
        same = values.astype(dtype)
    if not np.array_equal(same, values):
        raise NIRError(f"{name}: numbers that are no {np.dtype(dtype)}")
    return same


def _pairs(entries) -> tuple[tuple[int, int], ...]:
    return tuple((int(low), int(high)) for low, high in entries)
