"""The IDX files of MNIST and its relatives, as they come or gzipped."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

_UNSIGNED_BYTE = 0x08
_HOW_TO_GET = (
    "Fashion-MNIST comes with the Debian package dataset-fashion-mnist, "
    "in /usr/share/datasets/fashion-mnist"
)


def read_pair(directory: str, *, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of one part of an IDX folder.

    Reads `{prefix}-images-idx3-ubyte` and `{prefix}-labels-idx1-ubyte`; where there is
    no such file, the same name with `.gz`.

    Args:
      directory: the folder.
      prefix: "train" or "t10k".

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
    return images[..., None], labels.astype(np.int32)


def read_idx(path: Path, *, ndim: int) -> np.ndarray:
    """One IDX file of unsigned bytes.

    The file is a magic number (0, 0, 8 for unsigned bytes, number of dimensions), the
    dimensions as big-endian 32-bit integers, then the bytes, last index fastest.

    Args:
      path: the file; gunzipped when the name ends in .gz.
      ndim: how many dimensions it must have.

    Returns:
      uint8 array of the dimensions that the header states, read-only.

    Raises:
      ValueError: another magic number, or more or fewer bytes than the header states.
    """
    content = _content(path)
    header = 4 + 4 * ndim
    magic, expected = content[:4], bytes((0, 0, _UNSIGNED_BYTE, ndim))
    if magic != expected:
        raise ValueError(
            f"{path}: expected the IDX magic number {expected.hex()}, got "
            f"{magic.hex() or 'an empty file'}; {_HOW_TO_GET}"
        )
    # A header that is cut short reads as zeros, and its file is then too short as well.
    shape = [int.from_bytes(content[i : i + 4], "big") for i in range(4, header, 4)]
    size = header + math.prod(shape)
    if len(content) != size:
        raise ValueError(
            f"{path}: expected {size} bytes for the dimensions {shape}, got "
            f"{len(content)}; {_HOW_TO_GET}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _find(directory, name):
    plain, zipped = Path(directory, name), Path(directory, f"{name}.gz")
    for path in (plain, zipped):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"expected {plain} or {zipped.name} beside it, found neither: set "
        f"data.directory to a folder of IDX files; {_HOW_TO_GET}"
    )


def _content(path):
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        return gzip.decompress(path.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path}: expected a whole gzip file, got a broken one ({error}); "
            f"{_HOW_TO_GET}"
        ) from error
