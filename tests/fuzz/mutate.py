"""Damaged copies of a file: random bytes, and numbers and parts that are no accident.

Half of the copies know nothing of the format. The other half take it apart where it is
JSON, safetensors, a zip or a gzip file, change a part, and put it together again with
lengths and checksums made right: what a reader must notice by itself.
"""

import copy
import gzip
import io
import json
import random
import warnings
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

EXTREMES = (0, 1, -1, 127, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40)
EXTREMES += (2**53, 2**62, 2**63 - 1, 2**64 - 1, -(2**31), -(2**63))
VALUES = (*EXTREMES, 10**9, 10**30, 0.5, float("nan"), float("inf"), None, True, "x")
VALUES += ([], {}, [0] * 40, "../x", "")


def mutations(data: bytes, *, seed: int, count: int) -> Iterator[bytes]:
    """Yields `count` copies of `data`, each different from it; the same for a seed."""
    rng = random.Random(f"{seed} {len(data)}")
    made = 0
    while made < count:
        parts = _PARTS if made % 2 else ()
        changed = next((new for part in parts if (new := part(data, rng))), None)
        changed = rng.choice(_BYTES)(data, rng) if changed is None else changed
        if changed != data:
            made += 1
            yield changed


def values_changed(value: Any, rng: random.Random) -> Any:
    """A copy of a JSON value with one place in it changed, removed or moved."""
    value = copy.deepcopy(value)
    places = list(_places(value))
    if not places:
        return rng.choice(VALUES)
    inside, key = rng.choice(places)
    kind = rng.randrange(6)
    if kind == 0:
        del inside[key]
    elif kind == 1 and isinstance(inside, list):
        inside.insert(rng.randrange(len(inside) + 1), copy.deepcopy(inside[key]))
    elif kind == 1:
        inside[rng.choice(("x", *inside))] = inside.pop(key)
    elif kind == 2 and isinstance(inside[key], list):
        rng.shuffle(inside[key])
    elif isinstance(inside[key], int | float) and kind < 4:
        inside[key] += rng.choice((-1, 1, 2, 100))
    else:
        inside[key] = rng.choice(VALUES)
    return value


def _places(value):
    """(container, key) of every entry, however deep."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


# Bytes


def _place(data, rng):
    """Anywhere; in one of two cases where headers and tables of contents are."""
    edge = rng.choice((0, 0, 64, 256))
    if edge and rng.randrange(3):
        return rng.randrange(min(edge, len(data)) + 1)
    if edge:
        return len(data) - rng.randrange(min(edge, len(data)) + 1)
    return rng.randrange(len(data) + 1)


def _flipped(data, rng):
    changed = bytearray(data or b"\0")
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        changed[min(_place(data, rng), len(changed) - 1)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(data, rng):
    return data[: _place(data, rng)]


def _inserted(data, rng):
    at = _place(data, rng)
    return data[:at] + rng.randbytes(rng.choice((1, 2, 8, 64))) + data[at:]


def _overwritten(data, rng):
    """A number of 1 to 8 bytes in place of what was there, of either order."""
    at, size = _place(data, rng), rng.choice((1, 2, 4, 4, 8, 8))
    number = rng.choice(EXTREMES) % 256**size
    order = rng.choice(("little", "big"))
    return data[:at] + number.to_bytes(size, order) + data[at + size :]


def _block(data, rng):
    at, size = _place(data, rng), rng.choice((1, 4, 16, 64, 512))
    return data[:at], data[at : at + size], data[at + size :]


def _doubled(data, rng):
    before, block, after = _block(data, rng)
    return before + block * 2 + after


def _zeroed(data, rng):
    before, block, after = _block(data, rng)
    return before + bytes(len(block)) + after


def _taken_out(data, rng):
    before, _, after = _block(data, rng)
    return before + after


_BYTES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flipped,
    _cut,
    _inserted,
    _overwritten,
    _doubled,
    _zeroed,
    _taken_out,
)


# Parts; None where the file is of another format.


def _json(data, rng):
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if rng.randrange(20) == 0:
        return rng.choice((b"[" * 100_000, b'{"a":' * 100_000, b"1" * 100_000, b"[]"))
    return json.dumps(values_changed(value, rng)).encode()


def _safetensors(data, rng):
    length = int.from_bytes(data[:8], "little")
    if not 2 <= length < len(data):
        return None
    try:
        header = json.loads(data[8 : 8 + length])
    except ValueError:
        return None
    changed = json.dumps(values_changed(header, rng)).encode()
    return len(changed).to_bytes(8, "little") + changed + data[8 + length :]


def _zip(data, rng):
    """One member changed, gone, renamed or there twice, and its checksum right."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.filelist]
    except (zipfile.BadZipFile, NotImplementedError, EOFError):
        return None
    at = rng.randrange(len(members))
    name, content = members[at]
    kind = rng.randrange(8)
    if kind == 0:
        del members[at]
    elif kind == 1:
        members[at] = (f"{name}x", content)
    elif kind == 2:
        members.append((name, rng.choice(_BYTES)(content, rng)))
    else:
        members[at] = (name, rng.choice(_BYTES)(content, rng))
    packed = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", packed) as archive:
        warnings.simplefilter("ignore")  # a name that is there twice is meant
        for name, content in members:
            # A name alone would be stored with the time of day.
            member = zipfile.ZipInfo(name)
            member.compress_type = packed
            archive.writestr(member, content)
    return file.getvalue()


def _gzip(data, rng):
    if data[:2] != b"\x1f\x8b":
        return None
    return gzip.compress(rng.choice(_BYTES)(gzip.decompress(data), rng), 1, mtime=0)


_PARTS = (_json, _safetensors, _zip, _gzip)
