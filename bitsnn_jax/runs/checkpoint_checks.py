"""What is checked of the files of a checkpoint before Orbax reads them.

TensorStore allocates what a header declares, and ends the process where it cannot. The
metrics, by which the best checkpoint is chosen, are no item with a checksum of Orbax or
of ours; theirs lies beside those of the items, and in themselves.
"""

import json
import math
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorstore

from bitsnn_jax.runtime.reading import ReadingError, check_size, parse_json

# By Orbax: an array is described in one of these, as of Zarr 2 or 3.
_DESCRIPTIONS = (".zarray", "zarr.json")


def check_sizes(folder: Path) -> None:
    """Raise ReadingError if arrays of a checkpoint declare more than its files hold.

    Args:
      folder: of one step, or of one set of variables.
    """
    files = [path for path in folder.rglob("*") if path.is_file()]
    held = sum(path.stat().st_size for path in files)
    declared = 0
    for name, text in _descriptions(folder, files):
        try:
            declared += _declared(parse_json(text))
        except (KeyError, TypeError, AttributeError) as error:
            raise ReadingError(
                f"{name}: no description of an array ({type(error).__name__}: {error})"
            ) from None
        check_size(name, declared, held=held)


def metrics_with_checksum(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return the metrics of a step as they are saved."""
    return {**metrics, "checksum": metrics_checksum(metrics)}


def metrics_checksum(metrics: dict[str, Any]) -> int:
    """Compute CRC-32 of all names and values."""
    return zlib.crc32(json.dumps(metrics, sort_keys=True).encode())


def checked_metrics(folder: Path, metrics: Any) -> dict[str, Any]:
    """Return the metrics of a step without their checksum.

    Those that an earlier version saved have none, neither here nor among the checksums.

    Args:
      folder: of the step.
      metrics: as they were read.

    Raises:
      ReadingError: not what was saved.
    """
    if not isinstance(metrics, dict):
        raise ReadingError(f"metrics must be a mapping, got {type(metrics).__name__}")
    found = dict(metrics)
    mine = found.pop("checksum", None)
    try:
        kept = parse_json((folder / "checksums" / "metadata").read_bytes())
    except FileNotFoundError:  # about to be deleted, by a run that goes on
        kept = {"metrics": mine}
    if not isinstance(kept, dict):
        raise ReadingError(f"checksums must be a mapping, got {type(kept).__name__}")
    if (mine, kept.get("metrics")) == (None, None):  # of an earlier version
        return found
    if not mine == kept.get("metrics") == metrics_checksum(found):
        raise ReadingError("metrics are not what was saved")
    return found


def _descriptions(folder, files) -> Iterator[tuple[str, bytes]]:
    """List the name of each array and the text that describes it."""
    for path in files:
        if path.name in _DESCRIPTIONS:
            yield path.parent.name, path.read_bytes()
    for manifest in files:
        if manifest.name == "manifest.ocdbt":
            base = f"file://{manifest.parent.absolute()}/"
            spec = {"driver": "ocdbt", "base": base}
            store = tensorstore.KvStore.open(spec).result()
            for key in store.list().result():
                name = key.decode(errors="replace")
                if name.rsplit("/", 1)[-1] in _DESCRIPTIONS:
                    yield name.rsplit("/", 1)[0], store.read(key).result().value


def _declared(text: dict[str, Any]) -> int:
    """Return the bytes of the array, or of one of its chunks if that is larger."""
    if "zarr_format" not in text:
        raise KeyError("zarr_format")
    if text.get("node_type") == "group":
        return 0
    if text["zarr_format"] == 2:
        chunk, kind = text["chunks"], text["dtype"]
    else:
        chunk = text["chunk_grid"]["configuration"]["chunk_shape"]
        kind = text["data_type"]
    digits = re.search(r"\d+$", kind)
    # Bits in some names and bytes in others: too much rather than too little.
    return int(digits[0] if digits else 8) * max(
        _entries(text["shape"]), _entries(chunk)
    )


def _entries(shape):
    if any(type(n) is not int or n < 0 for n in shape):
        raise TypeError(f"a shape of {shape}")
    return math.prod(shape)
