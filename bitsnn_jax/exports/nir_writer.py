"""The network of integers in NIR, the exchange format of neuromorphic tools.

`to_nir` makes the graph, `write` and `read` handle its files. `nir_nodes` says what
nodes and edges mean; `nir_reader.from_nir` is the way back.

Arrays in NIR are channels first, so kernels and the rows behind a `Flatten` are
transposed. Unequal paddings of two sides become zeros of the kernel.

Needs the packages `nir` and `h5py`: the extra `nir`.
"""

import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import nir
import numpy as np
from jax import lax

from bitsnn_jax.exports.nir_files import contents, digest
from bitsnn_jax.exports.nir_nodes import (
    FORMAT,
    OWN,
    VERSION,
    BitSerialGather,
    BitSerialIF,
    BitSerialMax,
    BitSerialPool,
    BitSerialProduct,
    BitSerialReadout,
    BitSerialRound,
    BitSerialTable,
    NIRError,
    channels_first,
    ints,
    nir_places,
    nir_shape,
    quoted,
    set_types,
    thresholds,
)
from bitsnn_jax.exports.nir_reader import from_nir
from bitsnn_jax.exports.node_checks import check_no_rows
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.integers.graph import (
    Conv,
    Dense,
    Graph,
    Held,
    Max,
    Move,
    Reshape,
    Scale,
    Shift,
    Sum,
    Term,
    Weight,
    Weightless,
    WindowMax,
    WindowSum,
    out_shape,
)
from bitsnn_jax.integers.network import IntegerNetwork, IntegerNode
from bitsnn_jax.numerics.spikes import weights


def to_nir(
    network: IntegerNetwork | Graph, *, steps: int | None = None
) -> nir.NIRGraph:
    """Turn the network into a NIR graph.

    Args:
      network: of `fixed_point`; or of `lowering.lower`, and `fixed_point` is applied.
      steps: T; may be left out if the network has it.

    Returns:
      A graph that `nir.write` takes and `from_nir` gives back, without any loss.

    Raises:
      NIRError: a convolution in three dimensions, a value without channels, a softmax,
        normalised rows, rows of a table; with the layer's name.
      ValueError: steps that are not those of the network.
    """
    if not isinstance(network, IntegerNetwork):
        if steps is None:
            raise ValueError("a graph of floats needs steps")
        network = fixed_point(network, steps=steps)
    elif steps not in (None, network.steps):
        raise ValueError(f"the network has {network.steps} steps, got steps={steps}")
    check_no_rows(network, "NIR", NIRError)
    nodes: dict[str, nir.NIRNode] = {}
    edges: list[tuple[str, str]] = []
    for node in network.nodes:
        name = quoted(node.name)
        if len(node.shape) < 2:
            raise NIRError(f"{node.name}: no axis but that of the batch: {node.shape}")
        nodes[name] = _anchor(node, network.steps)
        for i, term in enumerate(node.terms):
            before = quoted(term.source)
            for j, made in enumerate(_chain(term, network, node)):
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
        "levels": network.white,
    }
    return nir.NIRGraph(nodes, edges, metadata)


def write(path: str | os.PathLike, network: IntegerNetwork | nir.NIRGraph) -> None:
    """Write a NIR file (HDF5) with a checksum, whole or not at all."""
    graph = network if isinstance(network, nir.NIRGraph) else to_nir(network)
    checked = nir.NIRGraph(graph.nodes, graph.edges, dict(graph.metadata), False)
    checked.metadata["sha256"] = digest(checked.to_dict())
    path = Path(path)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        nir.write(Path(folder) / path.name, checked)
        os.replace(Path(folder) / path.name, path)


def read(path: str | os.PathLike, *, max_bytes: int | None = None) -> IntegerNetwork:
    """Read the network of a file of `write`.

    Args:
      path: of the file.
      max_bytes: the most that its arrays may unpack to; by default 32 times the size of
        the file, and at least 128 MiB. Raise it for large networks that compress
        better.

    Raises:
      NIRError: no such file, no NIR file, a damaged one or one without a checksum,
        another format version, arrays that unpack to more than `max_bytes`.
    """
    try:
        found = contents(path, max_bytes=max_bytes)
        meta = found.get("metadata", {})
        if meta.get("format") == FORMAT:  # `from_nir` describes other formats
            if "sha256" not in meta:
                raise NIRError("it has no checksum: write it with `nir_writer.write`")
            if meta.pop("sha256") != digest(found):
                raise NIRError("its contents do not have the checksum that they had")
        with np.errstate(all="ignore"):  # what nir computes of numbers out of range
            nodes = {name: _node(fields) for name, fields in found["nodes"].items()}
        edges = [(a.decode(), b.decode()) for a, b in found["edges"]]
        graph = nir.NIRGraph(nodes, edges, found.get("metadata", {}), type_check=False)
        return from_nir(graph)
    except NIRError as error:
        raise NIRError(f"{path}: {error}") from None
    except Exception as error:  # h5py and nir do not say what a damaged file raises
        reason = " ".join(str(error).split())
        raise NIRError(
            f"{path}: not a NIR file, or a damaged one: {type(error).__name__}: "
            f"{reason:.200}"
        ) from None


# The graph.


def _anchor(node: IntegerNode, steps: int) -> nir.NIRNode:
    def full(x):
        return np.ascontiguousarray(channels_first(np.broadcast_to(x, node.shape)))

    if node.kind == "input":
        return nir.Input({"input": np.array(nir_shape(node.shape))})
    unit = full(node.unit)
    if node.kind == "maximum":
        return BitSerialMax(np.array(unit.shape), unit)
    bias = full(node.bias)
    if node.kind == "output":
        return BitSerialReadout(bias, unit)
    if node.has_table:
        rise, fall = (np.stack([*map(full, side)]) for side in (node.rise, node.fall))
        spike = np.array(weights(steps), np.int64)
        return BitSerialTable(rise, fall, bias, spike, full(node.fraction), unit)
    half, fraction = full(node.half).astype(np.int64), full(node.fraction)
    if node.kind == "sum":
        return BitSerialRound(fraction, half, bias, unit)
    spike = np.array(weights(steps), np.int64)
    return BitSerialIF(thresholds(fraction, spike), half, bias, spike, unit)


def _chain(
    term: Term, network: IntegerNetwork, node: IntegerNode
) -> Iterator[nir.NIRNode]:
    """Make the nodes of a term, in order, with their types."""
    shape = network[term.source].shape
    # A maximum weights its input with 1.
    weight = () if node.kind == "maximum" else (term.weight,)
    ops: list[Weightless | Weight] = [*term.before, *weight, *term.after]
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
            # The rows of the kernel are put in NIR's order, so nothing has to move.
            order = nir_places(shape)
            yield from _flatten(shape)
        elif isinstance(op, Dense) and target[0] == 1:
            kernel = op.kernel if order is None else op.kernel[order]
            yield _made(nir.Linear(kernel.T.copy()), shape, target)
        elif isinstance(op, Held):
            product = _held(op, network[op.source].shape, node)
            yield _made(product, shape, target)
        else:
            yield from _nodes(op, shape, target, node)
        shape = target


def _held(op: Held, shape, node) -> BitSerialProduct:
    index = np.arange(math.prod(shape)).reshape(shape)
    for move in op.before:
        if not isinstance(move, (Move, Reshape)):
            raise NIRError(f"{node.name}: a product with sums of {op.source}")
        flat = index.reshape(-1)
        if isinstance(move, Reshape):
            index = flat.reshape(move.shape)
        else:
            index = np.where(move.index < 0, -1, flat[np.maximum(move.index, 0)])
    place = np.argsort(nir_places(shape))
    index = np.where(index < 0, -1, place[np.maximum(index, 0)])
    return BitSerialProduct(quoted(op.source), index.astype(np.int32))


def _made(made, shape, target):
    set_types(made, nir_shape(shape), nir_shape(target))
    return made


def _flatten(shape):
    if len(nir_shape(shape)) > 1:
        yield nir.Flatten({"input": np.array(nir_shape(shape))}, 0, -1)


def _nodes(op, shape, target, node) -> Iterator[nir.NIRNode]:
    if isinstance(op, (Move, Reshape)):
        places = np.arange(math.prod(shape))
        index = op.index if isinstance(op, Move) else places.reshape(op.shape)
        yield from _gather(index, shape)
    elif isinstance(op, (Scale, Shift)):
        factor = op.factor if isinstance(op, Scale) else np.int16(2**op.amount)
        full = channels_first(np.broadcast_to(factor, shape)).copy()
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
    elif isinstance(op, Dense):  # of several rows: the same at each place
        conv = Conv(op.kernel[None], (1,), ((0, 0),), (1,), (1,), 1)
        yield from _conv(conv, (1, *shape), (1, *target), node)
    else:
        yield from _conv(op, shape, target, node)


def _gather(index, shape):
    """Make `Flatten` if that says it, nothing if nothing moves."""
    place = np.argsort(nir_places(shape))
    index = channels_first(np.where(index < 0, -1, place[np.maximum(index, 0)]))
    moves = index.size != place.size or (index.reshape(-1) != np.arange(place.size))
    if not np.any(moves) and index.shape == nir_shape(shape):
        return
    if not np.any(moves) and index.ndim == 1:
        yield from _flatten(shape)
        return
    made = BitSerialGather(index.astype(np.int32))
    set_types(made, nir_shape(shape), index.shape)
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
        # Zeros between and around the values, which `Conv2d` cannot produce.
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
        for entries in (ints(op.strides), ints(most), ints(op.rhs_dilation))
    )
    fields: tuple[Any, ...] = (size, kernel, stride, pad, dilation, op.groups, bias)
    made = make(*fields, metadata=metadata)
    yield _made(made, shape, target)


# Files.


def _node(fields: dict[str, Any]) -> nir.NIRNode:
    own = OWN.get(fields["type"])
    return nir.dict2NIRNode(fields) if own is None else own.from_dict(fields)
