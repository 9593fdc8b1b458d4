"""The IDX files of MNIST and its relatives, as they come or gzipped."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from bitsnn_jax.data.memory import check_fits

_UNSIGNED_BYTE = 0x08
# Photographs and digits are packed to a half or a tenth. What is packed a hundredfold
# is a bomb, unless it is small.
_RATIO, _UNPACKED = 100, 2**26
_HOW_TO_GET = (
    "Fashion-MNIST comes with the Debian package dataset-fashion-mnist, "
    "in /usr/share/datasets/fashion-mnist"
)


def read_pair(
    directory: str, *, prefix: str, num_classes: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Read images and labels of one part of an IDX folder.

    Reads `{prefix}-images-idx3-ubyte` and `{prefix}-labels-idx1-ubyte`; where there is
    no such file, the same name with `.gz`.

    Args:
      directory: the folder.
      prefix: "train" or "t10k".
      num_classes: labels are below it; None for labels that say how many there are,
        each from 0 on at least once.

    Returns:
      uint8 [N, H, W, 1] images and int32 [N] labels.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: a file is not what its name says, or the two disagree.
    """
    image_path = _find(directory, f"{prefix}-images-idx3-ubyte")
    label_path = _find(directory, f"{prefix}-labels-idx1-ubyte")
    images = read_idx(image_path, ndim=3)
    labels = read_idx(label_path, ndim=1)
    if len(images) != len(labels):
        raise ValueError(
            f"{label_path}: expected one label for each of the {len(images)} images of "
            f"{image_path.name}, got {len(labels)}; {_HOW_TO_GET}"
        )
    if not math.prod(images.shape[1:]):
        raise ValueError(
            f"{image_path}: expected images of at least one pixel, got "
            f"{' x '.join(map(str, images.shape[1:]))}; {_HOW_TO_GET}"
        )
    _check_labels(label_path, labels, num_classes)
    return images[..., None], labels.astype(np.int32)


def read_idx(path: Path, *, ndim: int) -> np.ndarray:
    """Read one IDX file of unsigned bytes.

    The file is a magic number (0, 0, 8 for unsigned bytes, number of dimensions), the
    dimensions as big-endian 32-bit integers, then the bytes, last index fastest. No
    more is read or unpacked than the dimensions say, and nothing of a file that cannot
    have as much.

    Args:
      path: the file; gunzipped when the name ends in .gz.
      ndim: how many dimensions it must have.

    Returns:
      uint8 array of the dimensions that the header states, read-only.

    Raises:
      ValueError: another magic number, or more or fewer bytes than the header states.
    """
    stored = path.stat().st_size
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            return _read(file, path, ndim, stored)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path}: expected a whole gzip file, got a broken one ({error}); "
            f"{_HOW_TO_GET}"
        ) from error


def _read(file, path, ndim, stored):
    header = 4 + 4 * ndim
    start = file.read(header)
    magic, expected = start[:4], bytes((0, 0, _UNSIGNED_BYTE, ndim))
    if magic != expected:
        raise ValueError(
            f"{path}: expected the IDX magic number {expected.hex()}, got "
            f"{magic.hex() or 'an empty file'}; {_HOW_TO_GET}"
        )
    # A header that is cut short reads as zeros, and its file is then too short as well.
    shape = [int.from_bytes(start[i : i + 4], "big") for i in range(4, header, 4)]
    size = header + math.prod(shape)
    zipped = path.suffix == ".gz"
    if zipped and size > max(_UNPACKED, _RATIO * stored):
        raise ValueError(
            f"{path}: expected at most {_RATIO} times the {stored} bytes of the file, "
            f"got {size} bytes for the dimensions {shape}: gunzip it if that is meant"
        )
    check_fits(f"{path}, dimensions {shape}", size if zipped else min(size, stored))
    found, content = stored, bytearray()
    if zipped or stored == size:
        content = bytearray(size - header)
        found = len(start) + _fill(content, file)
        # The end of a gzip file is also where its checksum is.
        found += len(file.read(1)) if found == size else 0
    if found != size:
        more = " or more" if zipped and found > size else ""
        raise ValueError(
            f"{path}: expected {size} bytes for the dimensions {shape}, got "
            f"{found}{more}; {_HOW_TO_GET}"
        )
    array = np.frombuffer(content, np.uint8).reshape(shape)
    array.flags.writeable = False
    return array


def _fill(content, file):
    """Read until the buffer or the file is at its end; return how many bytes came."""
    view, filled = memoryview(content), 0
    while count := file.readinto(view[filled:]):
        filled += count
    return filled


def _check_labels(path, labels, num_classes):
    found = np.unique(labels).tolist()
    if num_classes is not None:
        if found and found[-1] >= num_classes:
            raise ValueError(
                f"{path}: expected test labels 0..{num_classes - 1} as in the training "
                f"files of data.directory, got {found[-1]}"
            )
    elif found != list(range(len(found))):
        gaps = sorted(set(range(found[-1])) - set(found))
        more = f" and {len(gaps) - 5} more" if len(gaps) > 5 else ""
        raise ValueError(
            f"{path}: expected the {len(found)} different labels to be "
            f"0..{len(found) - 1}, got {found[0]}..{found[-1]} without "
            f"{', '.join(map(str, gaps[:5]))}{more}; number the classes from 0 on"
        )


def _find(directory, name):
    plain, zipped = Path(directory, name), Path(directory, f"{name}.gz")
    for path in (plain, zipped):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"expected {plain} or {zipped.name} beside it, found neither: give "
        f"a folder of IDX files (data.directory, or --source of scenes); {_HOW_TO_GET}"
    )
