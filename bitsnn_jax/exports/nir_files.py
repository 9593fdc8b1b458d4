"""The contents of a NIR file (HDF5) as nested dictionaries, and their checksum.

Compressed arrays can unpack to any size, and links can lead anywhere. So sizes are
added up before anything is read, and no other file is opened.

Needs the package `h5py`: the extra `nir`.
"""

import hashlib
import math
import os
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from bitsnn_jax.exports.nir_nodes import NIRError
from bitsnn_jax.runtime.reading import ReadingError, check_size

_DEPTH = 8  # of groups in groups
_OBJECT = 1024  # bytes that a group or an array costs beside its numbers


def contents(path: str | os.PathLike, *, max_bytes: int | None) -> dict[str, Any]:
    """Read the strings and arrays of the file, by name.

    Raises:
      NIRError: arrays that unpack to more than `max_bytes`, by default a multiple of
        the size of the file; links.
      Exception: whatever h5py raises for a damaged file.
    """
    with h5py.File(path, "r") as file:
        declared = 0
        for item in _items(file["node"]):
            declared += _OBJECT
            if isinstance(item, h5py.Dataset):
                declared += math.prod(item.shape or ()) * item.dtype.itemsize
            try:
                held = os.path.getsize(path)
                check_size("arrays", declared, held=held, limit=max_bytes)
            except ReadingError as error:
                raise NIRError(f"{error}; max_bytes is for larger networks") from None
        return _read(file["node"])


def digest(found: Any) -> str:
    """Hash all that a file holds (SHA-256), whatever the order and the containers."""
    return hashlib.sha256("\n".join(_lines("", found)).encode()).hexdigest()


def _items(group: h5py.Group, depth: int = 0) -> Iterator[h5py.Dataset | h5py.Group]:
    """Walk all groups and arrays; one with two names comes twice."""
    if depth > _DEPTH:
        raise NIRError("groups in groups, deeper than any network has them")
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise NIRError(f"{name} is a link to somewhere else")
        item = group[name]
        if isinstance(item, h5py.Dataset) and (item.external or item.is_virtual):
            raise NIRError(f"{name} lies in another file")
        yield item
        if isinstance(item, h5py.Group):
            yield from _items(item, depth + 1)


def _read(group: h5py.Group) -> dict[str, Any]:
    found = {}
    for name, item in group.items():
        value = _read(item) if isinstance(item, h5py.Group) else item[()]
        found[name] = value.decode() if isinstance(value, bytes) else value
    return found


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
