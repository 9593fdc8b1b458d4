"""The network of integers in NIR, the exchange format of neuromorphic tools.

NIR's neurons have one threshold, are reset when they fire, and integrate and fire at
the same time. The neuron of Eq. (9) and (10) does neither, so it has a node type of its
own, `BitSerialIF`, with the schedule of its thresholds written out. A `nir.IF` with a
remark in its metadata would run everywhere, wrongly, since readers pass metadata over.
A type that NIR does not know makes `nir.read`, and what is built on it, stop with an
error.

What the edges carry at step t: from neurons and maxima `spike[t]` = 2**(T - t) for a
spike and 0 for none; from the input and a `BitSerialRound` their integers, once, with
the first step. Edges that meet add up. Between these, standard nodes mean what NIR
says, step by step: `Conv1d`, `Conv2d`, `Linear`, `Scale`, `SumPool2d`, `Flatten`, all
of integers. Arrays are channels first and have no batch axis, as in NIR, so kernels and
the rows behind a `Flatten` are transposed. Paddings that differ between two sides
become zeros of the kernel. What NIR has no node for is a `BitSerialGather` or a
`BitSerialPool`.

Needs the package `nir`: the extra `nir`.
"""

import hashlib
import math
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import jax.numpy as jnp
import nir
import numpy as np
from jax import lax
from nir.serialization import hdf2dict

from bitsnn_jax.fixed_point import IntegerNetwork, IntegerNode, largest_sum, fixed_point
from bitsnn_jax.folding import shrunk, simplified
from bitsnn_jax.graph import (
    Conv,
    Dense,
    Graph,
    Max,
    Move,
    Reshape,
    Scale,
    Shift,
    Structure,
    Sum,
    Term,
    Weight,
    WindowMax,
    WindowSum,
    out_shape,
)
from bitsnn_jax.spikes import weights

FORMAT = "bitsnn_jax bit-serial"
VERSION = 1


class NIRError(ValueError):
    """A network without a NIR form, or a file or graph that is none of ours."""


class _Same(nir.NIRNode):
    """A node with a bias, whose input and output have the shape of the bias."""

    bias: np.ndarray

    def __post_init__(self):
        _typed(self, self.bias.shape, self.bias.shape)


@dataclass(eq=False)
class BitSerialIF(_Same):
    """Neurons that collect for T steps and then fire for T, Eq. (9) and (10).

        u(1)   = sum_t current(t) + bias + v_init
        s(t)   = H(u(t) - v_threshold[t]),   H(0) = 1
        u(t+1) = u(t) - s(t) v_threshold[t]

    and sends spike[t] s(t). v_threshold[t] = 2**(fraction + T - t) halves at each step;
    v_init is half of the last.
    """

    v_threshold: np.ndarray  # [T, *shape]
    v_init: np.ndarray  # [*shape]
    bias: np.ndarray  # [*shape], once, not at each step
    spike: np.ndarray  # [T], 2**(T - t)
    unit: np.ndarray  # [*shape], what 1 stands for in the network of floats


@dataclass(eq=False)
class BitSerialRound(_Same):
    """floor((sum_t current(t) + bias + v_init) / 2**shift), sent on once."""

    shift: np.ndarray
    v_init: np.ndarray
    bias: np.ndarray
    unit: np.ndarray


@dataclass(eq=False)
class BitSerialReadout(_Same):
    """sum_t current(t) + bias; times `unit`, the logits."""

    bias: np.ndarray
    unit: np.ndarray


@dataclass(eq=False)
class BitSerialMax(nir.NIRNode):
    """sum_t current(t), sent on as the spikes that are its binary digits.

    What feeds it are maxima of codes, so these are to be taken of the sums over time.
    """

    shape: np.ndarray
    unit: np.ndarray

    def __post_init__(self):
        _typed(self, self.shape, self.shape)


@dataclass(eq=False)
class BitSerialGather(nir.NIRNode):
    """y[i] = x.flatten()[index[i]], and 0 where the index is -1."""

    index: np.ndarray

    def __post_init__(self):
        _typed(self, None, self.index.shape)


@dataclass(eq=False)
class BitSerialPool(nir.NIRNode):
    """The "sum" or "max" over windows. One entry for each axis, channels first.

    What is padded is 0 in a sum and never wins a maximum.
    """

    kind: str
    window: np.ndarray
    strides: np.ndarray
    padding: np.ndarray  # [axes, 2]

    def __post_init__(self):
        _typed(self, None, None)


OWN = {
    node.__name__: node
    for node in (
        BitSerialIF,
        BitSerialRound,
        BitSerialReadout,
        BitSerialMax,
        BitSerialGather,
        BitSerialPool,
    )
}
_KINDS = {
    nir.Input: "input",
    BitSerialIF: "neurons",
    BitSerialRound: "sum",
    BitSerialReadout: "output",
    BitSerialMax: "maximum",
}


def to_nir(
    network: IntegerNetwork | Graph, *, steps: int | None = None
) -> nir.NIRGraph:
    """The network as a NIR graph.

    Args:
      network: of `fixed_point`; or of `lowering.lower`, which `fixed_point` is then
        applied to.
      steps: T. May be left out where the network has one.

    Returns:
      A graph that `nir.write` takes and `from_nir` gives back, without any loss.

    Raises:
      NIRError: a convolution in three dimensions, a value without channels; with the
        layer's name.
      ValueError: steps that are not those of the network.
    """
    if isinstance(network, Graph):
        if steps is None:
            raise ValueError("a graph of floats needs steps")
        network = fixed_point(network, steps=steps)
    elif steps not in (None, network.steps):
        raise ValueError(f"the network has {network.steps} steps, got steps={steps}")
    nodes: dict[str, nir.NIRNode] = {}
    edges: list[tuple[str, str]] = []
    for node in network.nodes:
        name = _quoted(node.name)
        if len(node.shape) < 2:
            raise NIRError(f"{node.name}: no axis but that of the batch: {node.shape}")
        nodes[name] = _anchor(node, network.steps)
        for i, term in enumerate(node.terms):
            before = _quoted(term.source)
            for j, made in enumerate(_chain(term, network[term.source].shape, node)):
                link = f"{name}:{i:03}.{j}"
                nodes[link] = made
                edges.append((before, link))
                before = link
            edges.append((before, name))
        if node.kind == "output":
            shape = np.array(nodes[name].output_type["output"])
            nodes[f"{name}:out"] = nir.Output({"output": shape})
            edges.append((name, f"{name}:out"))
    metadata = {
        "format": FORMAT,
        "format_version": VERSION,
        "steps": network.steps,
        "bits": network.bits,
        "levels": network.levels,
    }
    return nir.NIRGraph(nodes, edges, metadata)


def from_nir(graph: nir.NIRGraph) -> IntegerNetwork:
    """The network of a graph of `to_nir`.

    Raises:
      NIRError: another graph or format version, a node that the format does not have,
        thresholds that do not halve.
    """
    meta = graph.metadata
    if meta.get("format") != FORMAT:
        raise NIRError(f"a NIR graph of format {meta.get('format')!r}, not {FORMAT!r}")
    if meta.get("format_version") != VERSION:
        raise NIRError(
            f"format version {meta.get('format_version')}, expected {VERSION}"
        )
    steps, bits, levels = (int(meta[key]) for key in ("steps", "bits", "levels"))
    chains = {
        name: _chains(graph, name)
        for name, node in graph.nodes.items()
        if type(node) in _KINDS
    }
    network = IntegerNetwork((), steps, bits, levels)
    for name in _ordered(chains):
        node = _from_anchor(name, graph.nodes[name], steps, levels)
        terms = []
        for source, links in chains[name]:
            ops = [(link, graph.nodes[link]) for link in links]
            feeding = network[_unquoted(source)]
            term = _term(feeding.name, feeding.shape, ops)
            after = (*term.before, term.weight, *term.after)
            made = feeding.shape
            for op in after:
                made = out_shape(op, made)
            if made != node.shape:
                raise NIRError(
                    f"{node.name}: {source} brings {made}, expected {node.shape}"
                )
            terms.append(term)
        node = node._replace(terms=tuple(terms))
        if node.kind == "maximum":
            [term] = terms
            node = node._replace(bound=network[term.source].bound)
        elif node.kind != "input":
            node = node._replace(
                bound=largest_sum(node, network) + int(node.half.max())
            )
            if node.bound >= 2**31:
                raise NIRError(f"{node.name}: its sum leaves 32 bits: {node.bound:,}")
        network = IntegerNetwork((*network.nodes, node), steps, bits, levels)
    return network


def write(path: str | os.PathLike, network: IntegerNetwork | nir.NIRGraph) -> None:
    """Writes a NIR file (HDF5), with a checksum, whole or not at all."""
    graph = network if isinstance(network, nir.NIRGraph) else to_nir(network)
    checked = nir.NIRGraph(graph.nodes, graph.edges, dict(graph.metadata), False)
    checked.metadata["sha256"] = _digest(checked.to_dict())
    path = Path(path)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        nir.write(Path(folder) / path.name, checked)
        os.replace(Path(folder) / path.name, path)


def read(path: str | os.PathLike) -> IntegerNetwork:
    """The network of a file of `write`.

    Raises:
      NIRError: no such file, no NIR file, a damaged one, another format version.
    """
    try:
        with h5py.File(path, "r") as file:
            found = hdf2dict(file["node"])
        digest = found.get("metadata", {}).pop("sha256", None)
        if digest not in (None, _digest(found)):
            raise NIRError("its contents do not have the checksum that they had")
        nodes = {name: _node(fields) for name, fields in found["nodes"].items()}
        edges = [(a.decode(), b.decode()) for a, b in found["edges"]]
        graph = nir.NIRGraph(nodes, edges, found.get("metadata", {}), type_check=False)
        return from_nir(graph)
    except NIRError as error:
        raise NIRError(f"{path}: {error}") from None
    except Exception as error:  # h5py and nir do not say what a damaged file raises
        raise NIRError(
            f"{path}: not a NIR file, or a damaged one: {type(error).__name__}: {error}"
        ) from None


# Axes. Here arrays are [1, *space, channels] or [1, n], in NIR [channels, *space], [n].


def _first(x: np.ndarray) -> np.ndarray:
    """Channels first. A first axis longer than 1 is no batch and stays."""
    if x.ndim < 2:
        return x.reshape(-1)
    return np.moveaxis(x[0] if x.shape[0] == 1 else x, -1, 0)


def _last(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, 0, -1)[None]


def _order(shape: tuple[int, ...]) -> np.ndarray:
    """For each place of the array in NIR, its place in the array here."""
    return _first(np.arange(math.prod(shape)).reshape(shape)).reshape(-1)


def _shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return _first(np.empty(shape, np.bool_)).shape


def _typed(node, inputs, outputs):
    node.input_type = {"input": None if inputs is None else np.array(inputs)}
    node.output_type = {"output": None if outputs is None else np.array(outputs)}


def _quoted(name: str) -> str:
    # HDF5 would make groups of groups of a slash; colons end our own names.
    for character in "%/:":
        name = name.replace(character, f"%{ord(character):02X}")
    return name


def _unquoted(name: str) -> str:
    for character in ":/%":
        name = name.replace(f"%{ord(character):02X}", character)
    return name


# To NIR.


def _anchor(node: IntegerNode, steps: int) -> nir.NIRNode:
    def full(x):
        return np.ascontiguousarray(_first(np.broadcast_to(x, node.shape)))

    if node.kind == "input":
        return nir.Input({"input": np.array(_shape(node.shape))})
    unit = full(node.unit)
    if node.kind == "maximum":
        return BitSerialMax(np.array(unit.shape), unit)
    bias = full(node.bias)
    if node.kind == "output":
        return BitSerialReadout(bias, unit)
    half, fraction = full(node.half).astype(np.int64), full(node.fraction)
    if node.kind == "sum":
        return BitSerialRound(fraction, half, bias, unit)
    spike = np.array(weights(steps), np.int64)
    return BitSerialIF(_schedule(fraction, spike), half, bias, spike, unit)


def _schedule(fraction, spike):
    return np.stack([w << fraction.astype(np.int64) for w in spike])


def _chain(term: Term, shape: tuple, node: IntegerNode) -> Iterator[nir.NIRNode]:
    """The nodes of a term, in order, with their types."""
    # What a maximum takes is weighted with 1.
    weight = () if node.kind == "maximum" else (term.weight,)
    ops: list[Structure | Weight] = [*term.before, *weight, *term.after]
    order = None
    for i, op in enumerate(ops):
        target = out_shape(op, shape)
        feeds_dense = len(target) == 2 and target[0] == 1 and shape[0] == 1
        if (
            isinstance(op, Reshape)
            and feeds_dense
            and i + 1 < len(ops)
            and isinstance(ops[i + 1], Dense)
        ):
            # The rows of the kernel are put in NIR's order, and nothing has to move.
            order = _order(shape)
            yield from _flatten(shape)
        elif isinstance(op, Dense) and target[0] == 1:
            kernel = op.kernel if order is None else op.kernel[order]
            yield _made(nir.Linear(kernel.T.copy()), shape, target)
        else:
            yield from _nodes(op, shape, target, node)
        shape = target


def _made(made, shape, target):
    _typed(made, _shape(shape), _shape(target))
    return made


def _flatten(shape):
    if len(_shape(shape)) > 1:
        yield nir.Flatten({"input": np.array(_shape(shape))}, 0, -1)


def _nodes(op, shape, target, node) -> Iterator[nir.NIRNode]:
    if isinstance(op, (Move, Reshape)):
        places = np.arange(math.prod(shape))
        index = op.index if isinstance(op, Move) else places.reshape(op.shape)
        yield from _gather(index, shape)
    elif isinstance(op, (Scale, Shift)):
        factor = op.factor if isinstance(op, Scale) else np.int16(2**op.amount)
        full = _first(np.broadcast_to(factor, shape)).copy()
        yield _made(nir.Scale(full), shape, target)
    elif isinstance(op, (Sum, Max)):
        window = tuple(n if i in op.axes else 1 for i, n in enumerate(shape))
        pooled = tuple(1 if i in op.axes else n for i, n in enumerate(shape))
        kind = WindowSum if isinstance(op, Sum) else WindowMax
        whole = kind(window, window, ((0, 0),) * len(shape))
        yield _pool(whole, shape, pooled, node)
        yield from _gather(np.arange(math.prod(pooled)).reshape(target), pooled)
    elif isinstance(op, (WindowSum, WindowMax)):
        yield _pool(op, shape, target, node)
    elif isinstance(op, Dense):  # of several rows: at each place the same
        conv = Conv(op.kernel[None], (1,), ((0, 0),), (1,), (1,), 1)
        yield from _conv(conv, (1, *shape), (1, *target), node)
    else:
        yield from _conv(op, shape, target, node)


def _gather(index, shape):
    """`Flatten` if that says it, nothing if nothing moves."""
    place = np.argsort(_order(shape))
    index = _first(np.where(index < 0, -1, place[np.maximum(index, 0)]))
    moves = index.size != place.size or (index.reshape(-1) != np.arange(place.size))
    if not np.any(moves) and index.shape == _shape(shape):
        return
    if not np.any(moves) and index.ndim == 1:
        yield from _flatten(shape)
        return
    made = BitSerialGather(index.astype(np.int32))
    _typed(made, _shape(shape), index.shape)
    yield made


def _pool(op, shape, target, node):
    window, strides, padding = (
        np.array(entries) for entries in (op.window, op.strides, op.padding)
    )
    if shape[0] == 1:
        if window[0] != 1 or padding[0].any():
            raise NIRError(f"{node.name}: a pooling over the batch")
        window, strides, padding = window[1:], strides[1:], padding[1:]
    # Channels first.
    window, strides, padding = (
        np.roll(entries, 1, 0) for entries in (window, strides, padding)
    )
    plain = len(window) == 3 and (padding[:, 0] == padding[:, 1]).all()
    plain = plain and window[0] == strides[0] == 1 and not padding[0].any()
    if isinstance(op, WindowSum) and plain:
        made = nir.SumPool2d(window[1:], strides[1:], padding[1:, 0])
    else:
        kind = "sum" if isinstance(op, WindowSum) else "max"
        made = BitSerialPool(kind, window, strides, padding)
    return _made(made, shape, target)


def _conv(op: Conv, shape, target, node) -> Iterator[nir.NIRNode]:
    space = len(op.strides)
    if space > 2:
        raise NIRError(
            f"{node.name}: NIR has convolutions in one and two dimensions, not {space}"
        )
    padding, dilation = np.array(op.padding), np.array(op.rhs_dilation)
    most = padding.max(1)
    extra = (most[:, None] - padding) // dilation[:, None]  # zeros around the kernel
    exact = (extra * dilation[:, None] == most[:, None] - padding).all()
    if max(op.lhs_dilation) > 1 or padding.min() < 0 or not exact:
        # Zeros between and around the values, which `Conv2d` cannot make.
        edges = [
            (low, high, between - 1)
            for (low, high), between in zip(op.padding, op.lhs_dilation, strict=True)
        ]
        places = jnp.arange(math.prod(shape)).reshape(shape)
        nothing = (0, 0, 0)
        index = np.asarray(lax.pad(places, -1, [nothing, *edges, nothing]))
        yield from _gather(index, shape)
        shape, most, extra = index.shape, 0 * most, 0 * extra
    kernel = np.pad(op.kernel, (*extra, (0, 0), (0, 0)))
    kernel = kernel.transpose(-1, -2, *range(space)).copy()
    bias = np.zeros(len(kernel), np.int32)
    metadata = {"zeros": extra} if extra.any() else {}
    make, size = (nir.Conv1d, shape[1]) if space == 1 else (nir.Conv2d, shape[1:3])
    stride, pad, dilation = (
        entries[0] if space == 1 else entries
        for entries in (_ints(op.strides), _ints(most), _ints(op.rhs_dilation))
    )
    fields: tuple[Any, ...] = (size, kernel, stride, pad, dilation, op.groups, bias)
    made = make(*fields, metadata=metadata)
    yield _made(made, shape, target)


# From NIR.


def _chains(graph, name) -> list[tuple[str, list[str]]]:
    """For each edge into a node, where it starts, and the nodes on its way."""
    feeding: dict[str, list[str]] = {}
    for a, b in graph.edges:
        feeding.setdefault(b, []).append(a)
    chains = []
    for before in sorted(feeding.get(name, [])):
        links: list[str] = []
        while type(graph.nodes[before]) not in _KINDS:
            links.insert(0, before)
            if len(feeding.get(before, [])) != 1 or len(links) > len(graph.nodes):
                raise NIRError(
                    f"{before}: expected one edge into it, got "
                    f"{len(feeding.get(before, []))}"
                )
            [before] = feeding[before]
        chains.append((before, links))
    return chains


def _ordered(chains) -> list[str]:
    """Sources before what they feed."""
    ordered: list[str] = []
    left = sorted(chains, key=lambda name: (bool(chains[name]), name))
    while left:
        ready = [n for n in left if all(s in ordered for s, _ in chains[n])]
        if not ready:
            raise NIRError(f"a loop of {', '.join(left)}")
        ordered += ready
        left = [n for n in left if n not in ready]
    return ordered


def _from_anchor(name, node, steps, levels) -> IntegerNode:
    kind, name = _KINDS[type(node)], _unquoted(name)
    shape = _last(np.empty(node.output_type["output"], np.bool_)).shape
    if kind == "input":
        return IntegerNode(name, kind, shape, bound=levels)

    def small(x, dtype=np.int32):
        return shrunk(_last(x)).astype(dtype)

    made = IntegerNode(name, kind, shape, unit=small(node.unit, np.float64))
    if kind == "maximum":
        return made
    made = made._replace(bias=small(node.bias))
    if kind == "output":
        return made
    if kind == "sum":
        fraction = node.shift
    else:
        fraction = np.log2(node.v_threshold[-1]).astype(np.int32)
        if not (
            np.array_equal(node.spike, weights(steps))
            and np.array_equal(node.v_threshold, _schedule(fraction, node.spike))
        ):
            raise NIRError(
                f"{name}: thresholds or spikes that do not halve {steps - 1}"
                " times, down to a power of two and to 1"
            )
    made = made._replace(fraction=small(fraction))
    if not np.array_equal(node.v_init, np.left_shift(1, fraction) >> 1):
        raise NIRError(f"{name}: v_init is not half of the last threshold")
    return made


def _term(source: str, shape: tuple, links: list[tuple[str, nir.NIRNode]]) -> Term:
    before: tuple[Structure, ...] = ()
    weight: Weight | None = None
    after: tuple[Structure, ...] = ()
    for name, node in links:
        op = _read_op(name, node, shape)
        if isinstance(op, Dense) and before and weight is None:
            before, op = _rows_moved(before, op)
        if isinstance(op, (Conv, Dense)) or (isinstance(op, Scale) and weight is None):
            if weight is not None:
                raise NIRError(f"{name}: a second weight between two nodes")
            weight = op
        elif isinstance(op, Scale):
            [amount] = {int(a) for a in np.log2(op.factor).reshape(-1)}
            op = Shift(amount)
            after = (*after, op)
        elif weight is None:
            before = simplified((*before, op), shape)
        else:
            after = simplified((*after, op), shape)
        shape = out_shape(op, shape)
    return Term(source, before, weight or Scale(np.ones((), np.int16)), after)


def _rows_moved(before, dense: Dense):
    """A kernel whose rows are in the order here, for a move that only orders."""
    *first, op = before
    if isinstance(op, Move):
        index = op.index.reshape(-1)
        if index.shape[0] == len(dense.kernel) and np.array_equal(
            np.sort(index), np.arange(len(index))
        ):
            kernel = dense.kernel[np.argsort(index)]
            return (*first, Reshape(op.index.shape)), Dense(kernel)
    return before, dense


def _read_op(name: str, node: nir.NIRNode, shape: tuple) -> Structure | Weight:
    if isinstance(node, nir.Flatten):
        places = np.arange(math.prod(shape)).reshape(_shape(shape))
        end = int(node.end_dim) % places.ndim + 1
        start = int(node.start_dim)
        flat = (*places.shape[:start], -1, *places.shape[end:])
        return _read_move(places.reshape(flat), shape)
    if isinstance(node, BitSerialGather):
        return _read_move(node.index, shape)
    if isinstance(node, (nir.SumPool2d, BitSerialPool)):
        return _read_pool(node)
    if isinstance(node, nir.Scale):
        return Scale(shrunk(_last(node.scale)).astype(np.int16))
    if isinstance(node, nir.Linear):
        return Dense(node.weight.T.copy())
    if isinstance(node, (nir.Conv1d, nir.Conv2d)):
        return _read_conv(name, node)
    raise NIRError(f"{name}: the format has no nodes of type {type(node).__name__}")


def _read_move(index, shape):
    order = _order(shape)
    return Move(_last(np.where(index < 0, -1, order[np.maximum(index, 0)])))


def _read_pool(node):
    if isinstance(node, nir.SumPool2d):
        kind, one = WindowSum, (1,)
        window, strides = (*one, *node.kernel_size), (*one, *node.stride)
        padding = [(0, 0), *((p, p) for p in node.padding)]
    else:
        kind = {"sum": WindowSum, "max": WindowMax}[node.kind]
        window, strides, padding = node.window, node.strides, node.padding
    return kind(
        _ints((1, *window[1:], window[0])),
        _ints((1, *strides[1:], strides[0])),
        _pairs(((0, 0), *padding[1:], padding[0])),
    )


def _read_conv(name, node):
    if np.any(node.bias):
        raise NIRError(f"{name}: a bias at each step")
    space = node.weight.ndim - 2
    kernel = node.weight.transpose(*range(2, space + 2), 1, 0)
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
        _ints(strides),
        _pairs(padding[:, None] - zeros * dilation[:, None]),
        (1,) * space,
        _ints(dilation),
        int(node.groups),
    )


def _ints(entries) -> tuple[int, ...]:
    return tuple(int(entry) for entry in entries)


def _pairs(entries) -> tuple[tuple[int, int], ...]:
    return tuple((int(low), int(high)) for low, high in entries)


# Files.


def _node(fields: dict[str, Any]) -> nir.NIRNode:
    own = OWN.get(fields["type"])
    return nir.dict2NIRNode(fields) if own is None else own.from_dict(fields)


def _digest(found: Any) -> str:
    """SHA-256 of all that a file holds, whatever the order and the containers."""
    return hashlib.sha256("\n".join(_lines("", found)).encode()).hexdigest()


def _lines(path: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key in sorted(value):
            yield from _lines(f"{path}/{key}", value[key])
    else:
        array = np.asarray(value)
        if array.dtype.kind in "OSU":  # strings, of which HDF5 makes bytes
            names = [_text(name) for name in array.reshape(-1)]
            yield f"{path} {array.shape} {names!r}"
        else:
            digest = hashlib.sha256(np.ascontiguousarray(array).tobytes())
            yield f"{path} {array.dtype.str} {array.shape} {digest.hexdigest()}"


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)
