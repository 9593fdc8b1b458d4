"""The reader of a network of integers from its folder; it checks every number.

`bundle_writer.py` writes these folders; docs/format.md describes them.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays

from bitsnn_jax.exports.node_checks import (
    check_node,
    check_numbers,
    check_shape,
    check_term,
    check_tops,
)
from bitsnn_jax.integers.graph import (
    ROWS,
    Conv,
    Dense,
    Held,
    Lookup,
    Max,
    Move,
    Reshape,
    Scale,
    Shift,
    Sum,
    Term,
    WindowMax,
    WindowSum,
)
from bitsnn_jax.integers.network import IntegerNetwork, IntegerNode
from bitsnn_jax.runtime.reading import ReadingError, parse_json, unsealed

FORMAT, VERSION = "bitsnn", 4
NETWORK, ARRAYS, VECTORS = "network.json", "network.safetensors", "vectors.safetensors"

_STRUCTURES = (Reshape, Move, Sum, WindowSum, Max, WindowMax, Shift)
_WEIGHTS = (Scale, Conv, Dense, Lookup, Held)
# The array fields of nodes and operations.
DTYPES: Mapping[str, Any] = {
    "kernel": np.int8,
    "factor": np.int16,
    "index": np.int32,
    "bias": np.int32,
    "fraction": np.int32,
    "unit": np.float64,
    "rise": np.int32,
    "fall": np.int32,
    "tops": np.int64,
}


def dtype_of(op: str, field: str) -> Any:
    """Return the type of an array field of an operation; rows of tables are numbers."""
    return np.int16 if op == "Lookup" else DTYPES[field]


class ExchangeError(ReadingError):
    """A folder that is no such network, or that may not be written."""


def read_folder(folder: Path) -> tuple[IntegerNetwork, dict[str, np.ndarray]]:
    """Read the network and its test vectors, {} where there are none.

    Raises:
      ExchangeError: see `bundle_writer.load`.
    """
    try:
        return _read_folder(folder)
    except ExchangeError:
        raise
    except ReadingError as error:
        raise ExchangeError(str(error)) from None


def _read_folder(folder) -> tuple[IntegerNetwork, dict[str, np.ndarray]]:
    text = _read_text(folder)
    sums = _field(text, "files", dict, NETWORK)
    arrays = _read_arrays(folder, ARRAYS, sums)
    vectors = _read_arrays(folder, VECTORS, sums) if VECTORS in sums else {}
    steps, bits, white = (
        _field(text, field, int, NETWORK) for field in ("steps", "bits", "levels")
    )
    check_numbers(steps, bits, white, where=NETWORK)
    network = IntegerNetwork((), steps, bits, white)
    for i, entry in enumerate(_field(text, "nodes", list, NETWORK)):
        node = _node_in(entry, arrays, network, f"{NETWORK}: node {i}")
        network = dataclasses.replace(network, nodes=(*network.nodes, node))
        if node.kind == "input" and "tops" in entry:
            tops = _array(entry, "tops", arrays, node.name, node.shape)
            check_tops(tops, white, name=node.name)
            network = dataclasses.replace(network, tops=tops)
    if not network.nodes:
        raise ExchangeError(f"{NETWORK}: no nodes")
    if vectors:
        vectors = checked_vectors(network, vectors)
    return network, vectors


def checked_vectors(
    network: IntegerNetwork, vectors: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Check all test vectors of a network and store them in the narrowest types."""
    expected = _vector_nodes(network)
    if vectors.keys() != expected.keys():
        odd = ", ".join(sorted(vectors.keys() ^ expected.keys()))
        raise ExchangeError(f"vectors: missing, or of no layer: {odd}")
    found = {}
    for name, (node, top) in expected.items():
        array = np.asarray(vectors[name])
        check_vector(name, array, node, top, count=len(vectors["input"]))
        if name == "input" and (array > network.full(name)).any():
            place = np.argwhere(array > network.full(name))[0, 1:]
            raise ExchangeError(
                f"vectors: input must be at most {network.full(name)[(0, *place)]} at "
                f"{tuple(map(int, place))}, got more"
            )
        dtype = np.int32 if top is None else np.min_scalar_type(top)
        found[name] = np.ascontiguousarray(array.astype(dtype))
    return found


def _vector_nodes(network: IntegerNetwork) -> dict[str, tuple[IntegerNode, int | None]]:
    """List by name the node and its largest value; None for 32 bits."""
    return {
        "input": (network.nodes[0], network.white),
        **{
            f"codes/{node.name}": (node, 2**network.steps - 1)
            for node in network.of_kind("neurons")
        },
        **{f"outputs/{node.name}": (node, None) for node in network.of_kind("output")},
    }


def check_vector(name, array, node, top, count=None) -> None:
    """Raise ExchangeError unless these are [n, ...] integers of the node."""
    n = array.shape[:1] if count is None else (count,)
    # A batch axis of 1 becomes n; an output may have none.
    shapes = {(*n, *node.shape[1:]), (*n, *node.shape)}
    if array.ndim == 0 or array.shape not in shapes:
        raise ExchangeError(
            f"vectors: {name} must be [n, {node.shape[1:]}], got {array.shape}"
        )
    low, high = (-(2**31), 2**31 - 1) if top is None else (0, top)
    whole = array == np.floor(array)
    if not (whole & (array >= low) & (array <= high)).all():
        raise ExchangeError(f"vectors: {name} must be integers {low} to {high}")


def _read_text(folder):
    path = folder / NETWORK
    data = _bytes(path)
    try:
        text = parse_json(data)
        if not isinstance(text, dict) or text.get("format") != FORMAT:
            raise ReadingError(f"the format is not {FORMAT!r}")
        if (version := text.get("version")) != VERSION:
            anew = ": export the network anew" if version in (1, 2, 3) else ""
            anew = " and has no checksum" * (version == 1) + anew
            raise ReadingError(
                f"version {version!r}{anew}; this reader knows {VERSION}"
            )
        return unsealed(data)
    except ReadingError as error:
        raise ExchangeError(f"{path}: {error}") from None


def _bytes(path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ExchangeError(f"{path}: {error.strerror}") from None


def _read_arrays(folder, name, sums):
    data = _bytes(folder / name)
    if sha256(data) != sums.get(name):
        raise ExchangeError(f"{folder / name}: damaged, its checksum is another")
    try:
        return load_arrays(data)
    except (SafetensorError, ValueError, KeyError, AttributeError) as error:
        # The last is a type that NumPy does not have.
        raise ExchangeError(f"{folder / name}: damaged: {error}") from None


def _node_in(entry, arrays, network: IntegerNetwork, where: str) -> IntegerNode:
    name = _field(entry, "name", str, where)
    kind, shape = _field(entry, "kind", str, name), _sizes(entry, "shape", name)
    check_shape(name, kind, shape)
    if any(node.name == name for node in network.nodes):
        raise ExchangeError(f"{name}: there are two of that name")
    if (kind == "input") != (not network.nodes):
        raise ExchangeError(f"{name}: the first node, and no other, is the input")
    terms = tuple(
        _term_in(term, arrays, network, name, shape)
        for term in _field(entry, "terms", list, name)
    )
    bias, fraction, unit = (
        _array(entry, field, arrays, name, shape)
        for field in ("bias", "fraction", "unit")
    )
    bound = _field(entry, "bound", int, name)
    node = IntegerNode(name, kind, shape, terms, bias, fraction, unit, bound)
    if "rise" in entry or "fall" in entry:
        rise, fall = (
            _array(entry, field, arrays, name, (2**network.steps - 1, *shape))
            for field in ("rise", "fall")
        )
        node = node._replace(rise=rise, fall=fall)
    if kind in ROWS:
        routine = _integers(_field(entry, "routine", list, name), "routine", name)
        if len(routine) != 2:
            raise ExchangeError(f"{name}: routine must be two numbers, got {routine}")
        node = node._replace(
            routine=(routine[0], routine[1]),
            row_unit=_field(entry, "row_unit", float, name),
        )
    check_node(node, network)
    return node


def _term_in(entry, arrays, network, name, shape) -> Term:
    source = _field(entry, "source", str, name)
    before = [
        _op_in(op, _STRUCTURES, arrays, name)
        for op in _field(entry, "before", list, name)
    ]
    weight = _op_in(_field(entry, "weight", dict, name), _WEIGHTS, arrays, name)
    after = [
        _op_in(op, _STRUCTURES, arrays, name)
        for op in _field(entry, "after", list, name)
    ]
    term = Term(source, tuple(before), weight, tuple(after))
    for source in term.sources:
        [fed_by] = [n for n in network.nodes if n.name == source] or [None]
        if fed_by is None:
            raise ExchangeError(
                f"{name}: its source {source!r} does not come before it"
            )
        if fed_by.kind == "output":
            raise ExchangeError(f"{name}: its source {source!r} is an output")
    check_term(term, network, name=name, shape=shape)
    return term


def _op_in(entry, allowed, arrays, name):
    kind = _field(entry, "op", str, name)
    cls = next((cls for cls in allowed if cls.__name__ == kind), None)
    if cls is None:
        names = ", ".join(cls.__name__ for cls in allowed)
        raise ExchangeError(f"{name}: unknown operation {kind!r}; one of {names}")
    values: dict[str, Any] = {}
    for field in cls._fields:
        if field in DTYPES:
            values[field] = _array(entry, field, arrays, name, op=kind)
        elif field == "source":
            values[field] = _field(entry, field, str, name)
        elif field == "before":
            values[field] = tuple(
                _op_in(op, _STRUCTURES, arrays, name)
                for op in _field(entry, field, list, name)
            )
        elif field in ("groups", "amount"):
            values[field] = _field(entry, field, int, name)
        elif field == "padding":
            pairs = _field(entry, field, list, name)
            values[field] = tuple(_integers(pair, field, name) for pair in pairs)
            if any(len(pair) != 2 for pair in values[field]):
                raise ExchangeError(f"{name}: padding must have pairs, got {pairs}")
        else:
            values[field] = _sizes(entry, field, name)
    return cls(**values)


def _array(entry, field, arrays, name, shape=None, op="") -> np.ndarray:
    array_name = _field(entry, field, str, name)
    if array_name not in arrays:
        raise ExchangeError(f"{name}: no array {array_name!r} in {ARRAYS}")
    array = arrays[array_name]
    if array.dtype != (expected := np.dtype(dtype_of(op, field))):
        raise ExchangeError(f"{name}: {field} must be {expected}, got {array.dtype}")
    if shape is not None:
        try:
            fits = np.broadcast_shapes(array.shape, shape) == shape
        except ValueError:
            fits = False
        if not fits:
            raise ExchangeError(
                f"{name}: {field} of shape {array.shape} does not broadcast to {shape}"
            )
    return array


def _sizes(entry, field, name) -> tuple[int, ...]:
    sizes = _integers(_field(entry, field, list, name), field, name)
    if any(n < (field != "axes") for n in sizes):
        raise ExchangeError(f"{name}: {field} must be above 0, got {sizes}")
    return sizes


def _integers(values, field, name) -> tuple[int, ...]:
    if not isinstance(values, list) or any(type(n) is not int for n in values):
        raise ExchangeError(f"{name}: {field} must have integers, got {values!r}")
    return tuple(values)


def _field(entry, field, kind, where):
    """Return entry[field], of the type `kind`."""
    value = entry.get(field) if isinstance(entry, dict) else None
    if type(value) is not kind:
        raise ExchangeError(f"{where}: {field} must be {kind.__name__}, got {value!r}")
    return value


def sha256(data: bytes) -> str:
    """Compute the checksum in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
