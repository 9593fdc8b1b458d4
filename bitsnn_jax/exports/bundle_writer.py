"""A network of integers as a folder of two or three files, for readers in any language.

docs/format.md describes them. `referee.py` is a reader that needs NumPy only.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save as save_arrays

from bitsnn_jax.exports.bundle_reader import (
    ARRAYS,
    DTYPES,
    FORMAT,
    NETWORK,
    VECTORS,
    VERSION,
    ExchangeError,
    check_vector,
    checked_vectors,
    dtype_of,
    read_folder,
    sha256,
)
from bitsnn_jax.exports.node_checks import check_row_sums
from bitsnn_jax.integers.execution import one_shot
from bitsnn_jax.integers.graph import NUMBERS, ROWS
from bitsnn_jax.integers.network import IntegerNetwork, IntegerNode, largest_sums
from bitsnn_jax.runtime.files import replaced_folder, standing
from bitsnn_jax.runtime.reading import ReadingError, parse_json, sealed


def save(
    network: IntegerNetwork, folder: str | os.PathLike, *, vectors: Any = None
) -> None:
    """Write the network to a folder, as a whole or not at all.

    Replaces an earlier export, and reads back what it has written.

    Args:
      network: of `fixed_point`.
      folder: a new one, an empty one, or an earlier export.
      vectors: test vectors: inputs [n, ...], integers 0..white, whose codes and
        outputs are computed here; or all of these, named as in `load_vectors`; or None.

    Raises:
      ExchangeError: a folder that holds anything else, inputs or arrays that do not fit
        the network. Nothing is written then.
    """
    folder = Path(folder)
    _check_replaceable(folder)
    if vectors is not None:
        if not isinstance(vectors, Mapping):
            vectors = _computed(network, vectors)
        vectors = checked_vectors(network, vectors)
    arrays: dict[str, np.ndarray] = {}
    nodes = [_node_out(node, arrays) for node in network.nodes]
    if network.tops is not None:
        nodes[0]["tops"] = name = f"{network.nodes[0].name}/tops"
        arrays[name] = np.ascontiguousarray(network.tops, np.int64)
    files = {ARRAYS: save_arrays(arrays)}
    if vectors is not None:
        files[VECTORS] = save_arrays(vectors)
    text = {
        "format": FORMAT,
        "version": VERSION,
        "steps": network.steps,
        "bits": network.bits,
        "levels": network.white,
        "files": {name: sha256(data) for name, data in files.items()},
        "nodes": nodes,
    }
    files[NETWORK] = sealed(text)
    _replace(folder, files)


def load(folder: str | os.PathLike) -> IntegerNetwork:
    """Read the network of a folder that `save` has written, and check every number.

    Raises:
      ExchangeError: a missing or damaged file, another format or version, an array that
        is missing or has another type or shape, a weight beyond `bits`, an unknown
        operation, a source that does not come before what it feeds, a bound that a sum
        can exceed, a shape beyond what readers take; with the file or the layer.
    """
    network = read_folder(standing(Path(folder)))[0]
    try:
        _check_sums(network)
    except ReadingError as error:
        raise ExchangeError(str(error)) from None
    return network


def _check_sums(network: IntegerNetwork) -> None:
    for node in network.of_kind("neurons", *NUMBERS, "output"):
        # Types of sums are chosen by the bound: too small a bound would be inexact.
        sums = largest_sums(node, network)
        reach = int(sums.max(initial=0)) + int(node.half.max())
        if reach > node.bound:
            raise ReadingError(
                f"{node.name}: its sum can reach {reach:,}, more than its bound of "
                f"{node.bound:,}"
            )
        if node.kind in ROWS:
            check_row_sums(node, sums)


def load_vectors(folder: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read the test vectors of a folder; {} where it has none.

    Returns:
      "input" [n, ...]; "codes/NAME" [n, ...] of each layer of neurons, its spikes
      packed; "outputs/NAME" int32 [n, ...].

    Raises:
      ExchangeError: as `load`.
    """
    return read_folder(standing(Path(folder)))[1]


def _computed(network: IntegerNetwork, inputs: Any) -> dict[str, Any]:
    """Compute the test vectors of these inputs."""
    x = np.asarray(inputs)
    check_vector("input", x, network.nodes[0], network.white)
    result = jax.jit(one_shot(network))(x)
    return {
        "input": x,
        **{f"codes/{name}": codes for name, codes in result.codes.items()},
        **{f"outputs/{name}": output for name, output in result.outputs.items()},
    }


def _node_out(node: IntegerNode, arrays: dict) -> dict:
    def stored(name, field, value, op=""):
        array = np.asarray(value)
        if array.dtype != (expected := np.dtype(dtype_of(op, field))):
            raise ExchangeError(
                f"{node.name}: {field} must be {expected}, got {array.dtype}"
            )
        # Not ascontiguousarray alone, which turns [] into [1].
        arrays[name] = np.ascontiguousarray(array).reshape(array.shape)
        return name

    def written(op, prefix):
        fields = {
            field: stored(f"{prefix}/{field}", field, value, type(op).__name__)
            if field in DTYPES
            else [written(o, f"{prefix}/{i}") for i, o in enumerate(value)]
            if field == "before"
            else value
            for field, value in op._asdict().items()
        }
        return {"op": type(op).__name__, **fields}

    terms = []
    for i, term in enumerate(node.terms):
        prefix = f"{node.name}/terms/{i}"
        before, after = (
            [written(op, f"{prefix}/{side}/{j}") for j, op in enumerate(ops)]
            for side, ops in (("before", term.before), ("after", term.after))
        )
        weight = written(term.weight, f"{prefix}/weight")
        terms.append(
            {"source": term.source, "before": before, "weight": weight, "after": after}
        )
    return {
        "name": node.name,
        "kind": node.kind,
        "shape": node.shape,
        **{
            field: stored(f"{node.name}/{field}", field, getattr(node, field))
            for field in ("bias", "fraction", "unit")
        },
        **{
            field: stored(f"{node.name}/{field}", field, getattr(node, field))
            for field in ("rise", "fall")
            if node.has_table
        },
        **{
            field: getattr(node, field)
            for field in ("routine", "row_unit")
            if node.kind in ROWS
        },
        "bound": node.bound,
        "terms": terms,
    }


def _check_replaceable(folder: Path) -> None:
    if not folder.exists() and not folder.is_symlink():
        return
    if folder.is_dir() and not folder.is_symlink():
        names = {path.name for path in folder.iterdir()}
        if not names or (
            NETWORK in names
            and names <= {NETWORK, ARRAYS, VECTORS}
            and _is_export(folder)
        ):
            return
    raise ExchangeError(
        f"{folder} is there and not an exported network: remove it, or choose another"
    )


def _is_export(folder) -> bool:
    try:
        text = parse_json((folder / NETWORK).read_bytes())
    except (OSError, ReadingError):
        return False
    return isinstance(text, dict) and text.get("format") == FORMAT


def _replace(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write all files to a folder beside, which then takes the place of `folder`."""
    with replaced_folder(folder) as new:
        new.mkdir()
        for name, data in files.items():
            with open(new / name, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        read_folder(new)
