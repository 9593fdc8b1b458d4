"""Files that may be damaged, or bigger than they look: one line says what is wrong."""

import hashlib
import io
import json
import os
import re
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec
import numpy as np

# What any file may unpack to, and, beyond that, how many times its own size. Weights
# hardly compress; zeros and broadcast arrays do, a thousandfold.
LEAST = 2**27
TIMES = 32

_CHECKSUM = "checksum"
_T = TypeVar("_T")


class ReadingError(ValueError):
    """A file that is not what it should be."""


def check_size(
    what: object, declared: int, *, held: int, limit: int | None = None
) -> None:
    """Raise ReadingError if a header declares too much for the size of its file.

    Call it before anything is allocated or unpacked.

    Args:
      what: the file, for the message.
      declared: bytes that its header says it unpacks to.
      held: bytes of the file.
      limit: what it may declare; by default a multiple of its size.

    >>> check_size("a.npz", 10**12, held=2000)
    Traceback (most recent call last):
    ...
    bitsnn_jax.runtime.reading.ReadingError: a.npz: its 2,000 bytes declare \
1,000,000,000,000; at most 134,217,728 are read
    """
    allowed = max(LEAST, TIMES * held) if limit is None else limit
    if declared > allowed:
        raise ReadingError(
            f"{what}: its {held:,} bytes declare {declared:,}; at most {allowed:,} are "
            "read"
        )


def parse_json(data: bytes | str) -> Any:
    """Read the value of a JSON text.

    Raises:
      ReadingError: no JSON, no UTF-8, or nested too deep.

    >>> parse_json(b"")
    Traceback (most recent call last):
    ...
    bitsnn_jax.runtime.reading.ReadingError: no JSON: Expecting value: line 1 column \
1 (char 0)
    """
    try:
        return json.loads(data)
    except UnicodeDecodeError as error:
        raise ReadingError(f"no UTF-8: {error.reason} at {error.start}") from None
    except ValueError as error:
        raise ReadingError(f"no JSON: {error}") from None
    except RecursionError:
        raise ReadingError("no JSON that is meant: it is nested too deep") from None


def read_json(path: str | os.PathLike, *, kind: type = dict, advice: str) -> Any:
    """Read a JSON file.

    Args:
      path: of the file.
      kind: of the outermost value; `object` for any.
      advice: what to do about a file that cannot be read, for the message.

    Raises:
      ReadingError: no such file, damaged, or of another kind.
    """
    try:
        value = parse_json(Path(path).read_bytes())
    except OSError as error:
        raise ReadingError(
            f"{path} cannot be read ({error.strerror}): {advice}"
        ) from None
    except ReadingError as error:
        raise ReadingError(f"{path} cannot be read ({error}): {advice}") from None
    if kind is not object and type(value) is not kind:
        raise ReadingError(
            f"{path} must hold a {kind.__name__}, got {type(value).__name__}: {advice}"
        )
    return value


def typed(value: Any, kind: type[_T]) -> _T:
    """Give plain JSON values their type; fields that it does not have are left out.

    Raises:
      ReadingError: a field is missing, of another type, or contradicts another.

    >>> class Row(msgspec.Struct):
    ...     steps: int
    >>> typed({"steps": 4, "more": 1}, Row)
    Row(steps=4)
    >>> typed([{"steps": 4}, {"steps": "4"}], list[Row])
    Traceback (most recent call last):
    ...
    bitsnn_jax.runtime.reading.ReadingError: Expected `int`, got `str` - at `$[1].steps`
    """
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, ValueError, OverflowError) as error:
        raise ReadingError(str(error)) from None


def read_typed(path: str | os.PathLike, kind: type[_T], *, advice: str) -> _T:
    """Read a JSON file as values of a type.

    Args:
      path: of the file.
      kind: what it holds.
      advice: what to do about a file that holds something else, for the message.

    Raises:
      ReadingError: no such file, a damaged one, or one that holds something else.
    """
    value = read_json(path, kind=object, advice=advice)
    try:
        return typed(value, kind)
    except ReadingError as error:
        raise ReadingError(f"{path} is not whole ({error}): {advice}") from None


def check_zip(what: object, file: str | os.PathLike | BinaryIO) -> None:
    """Raise ReadingError if the members of a zip file declare too much.

    Args:
      what: the file, for the message.
      file: its path, or itself.

    Raises:
      zipfile.BadZipFile: no zip file, or a damaged one.
    """
    with zipfile.ZipFile(file) as archive:
        declared = sum(info.file_size for info in archive.infolist())
        held = archive.fp.seek(0, os.SEEK_END) if archive.fp else 0
    check_size(what, declared, held=held)


def read_npz(data: bytes, *, what: object) -> dict[str, np.ndarray]:
    """Read the arrays of an .npz file by name, and run nothing in it.

    Raises:
      ReadingError: no such file, a damaged one, or one that unpacks to too much.
    """
    try:
        check_zip(what, io.BytesIO(data))
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return dict(arrays)
    except ReadingError:
        raise
    except Exception as error:  # NumPy and zipfile do not say what they raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ReadingError(f"{what}: no .npz file: {reason:.200}") from error


def sealed(value: dict[str, Any]) -> bytes:
    """Make a JSON text that holds its own checksum, in the field "checksum".

    The checksum is the SHA-256 of the text with zeros in the place of its 64 digits.
    """
    empty = json.dumps({**value, _CHECKSUM: "0" * 64}, indent=1).encode()
    before, after = empty.rsplit(b"0" * 64, 1)
    return before + hashlib.sha256(empty).hexdigest().encode() + after


def unsealed(data: bytes) -> dict[str, Any]:
    """Read the value of a text of `sealed`, without the checksum.

    Raises:
      ReadingError: no JSON object, no checksum, or that of another text.

    >>> unsealed(sealed({"steps": 4}))
    {'steps': 4}
    >>> unsealed(sealed({"steps": 4}).replace(b"4,", b"5,"))
    Traceback (most recent call last):
    ...
    bitsnn_jax.runtime.reading.ReadingError: damaged, its checksum is another
    """
    value = parse_json(data)
    if not isinstance(value, dict):
        raise ReadingError(f"no JSON object but {type(value).__name__}")
    digits = value.pop(_CHECKSUM, None)
    if not (isinstance(digits, str) and re.fullmatch("[0-9a-f]{64}", digits)):
        raise ReadingError("damaged, it holds no checksum")
    parts = data.split(digits.encode())
    empty = (b"0" * 64).join(parts)
    if len(parts) != 2 or hashlib.sha256(empty).hexdigest() != digits:
        raise ReadingError("damaged, its checksum is another")
    return value
