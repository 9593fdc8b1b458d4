"""Compare the ONNX models of this folder with their test vectors, bit for bit.

    python check.py [FOLDER] [--limit N]

It needs NumPy and onnxruntime only, so the folder can be copied to the machine that is
to run the models. It prints one line. The exit status is 0 if every code and every
logit agrees, 1 if one does not (the line names the first), and 2 if the files cannot be
read.

Why it matters: runtimes may compute products of bytes in other ways on other machines.
onnxruntime on x86 without VNNI, for one, saturates sums of two products at 16 bits.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

FORMAT, VERSION = "bitsnn onnx", "1"
VECTORS = "vectors.safetensors"
MODELS = ("one_shot.onnx", "stepped.onnx")
BATCH = 16
TYPES = {"U8": "<u1", "U16": "<u2", "U32": "<u4", "I32": "<i4"}
_ZEROS = "0" * 64


class CheckError(ValueError):
    """A folder that cannot be read."""


def sealed(models: Mapping[str, bytes], arrays: Mapping[str, np.ndarray]) -> bytes:
    """Write the file of test vectors, with checksums of itself and of the models."""
    facts = {"format": FORMAT, "version": VERSION, "sha256": _ZEROS}
    facts |= {f"sha256 {name}": _sha256(data) for name, data in models.items()}
    header: dict[str, Any] = {"__metadata__": facts}
    kinds, data = {np.dtype(v): k for k, v in TYPES.items()}, b""
    for name, array in arrays.items():
        array = np.asarray(array)
        array = array.astype(array.dtype.newbyteorder("<"))
        ends = [len(data), len(data) + array.nbytes]
        shape, kind = list(array.shape), kinds[array.dtype]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": ends}
        data += array.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    whole = len(text).to_bytes(8, "little") + text + data
    return whole.replace(_ZEROS.encode(), _sha256(whole).encode(), 1)


def unsealed(data: bytes) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Read a file of `sealed`: what it says of itself, and its arrays."""
    try:
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        facts = header.pop("__metadata__")
        if facts["format"] != FORMAT:
            raise ValueError
        version, digest = facts["version"], facts["sha256"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CheckError(
            f"{VECTORS} is damaged, or not a file of test vectors"
        ) from None
    if version != VERSION:
        raise CheckError(
            f"{VECTORS} has version {version}, this script reads {VERSION}: take both "
            "from one export"
        )
    if _sha256(data.replace(str(digest).encode(), _ZEROS.encode(), 1)) != digest:
        raise CheckError(f"{VECTORS} is damaged: its checksum is another")
    body, arrays = data[8 + size :], {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        array = np.frombuffer(body[begin:end], TYPES[entry["dtype"]])
        arrays[name] = array.reshape(entry["shape"])
    return facts, arrays


def check(folder: Path, limit: int | None = None) -> tuple[bool, str]:
    """Run the test vectors; return whether all agree, and the line that says so."""
    try:
        import onnxruntime
    except ImportError:
        raise CheckError(
            "onnxruntime is not installed: pip install onnxruntime"
        ) from None
    facts, arrays = unsealed(_read(folder / VECTORS))
    if "input" not in arrays or not len(arrays["input"]):
        raise CheckError(
            f"{VECTORS} holds no inputs: export a network with test vectors"
        )
    inputs, compared = arrays["input"][:limit], 0
    for model in MODELS:
        data = _read(folder / model)
        if _sha256(data) != facts.get(f"sha256 {model}"):
            raise CheckError(f"{model} is damaged: its checksum is another")
        try:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            session = onnxruntime.InferenceSession(
                data, options, providers=["CPUExecutionProvider"]
            )
            for first in range(0, len(inputs), BATCH):
                for name, found, wanted in _pairs(session, arrays, first, len(inputs)):
                    if unequal := _first_difference(found, wanted):
                        place, got, right = unequal
                        example, *rest = place
                        return False, (
                            f"{model}: {name} differs first at example "
                            f"{first + example}, place {rest}: {got}, expected {right}"
                        )
                    compared += wanted.size
        except CheckError:
            raise
        except Exception as error:  # onnxruntime has no class of its own for them
            message = " ".join(str(error).split())
            raise CheckError(f"{model} cannot be run: {message:.300}") from None
    return True, (
        f"all {compared:,} codes and logits of {len(inputs)} inputs agree in "
        f"{' and '.join(MODELS)} (onnxruntime {onnxruntime.__version__})"
    )


def _pairs(session, arrays, first, end) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Run one batch; go through what the model returns and what it should."""
    batch = slice(first, min(first + BATCH, end))
    names = [output.name for output in session.get_outputs()]
    outputs = session.run(names, {"input": arrays["input"][batch]})
    for name, found in zip(names, outputs, strict=True):
        key = f"codes/{name.removeprefix('code_')}"
        key = f"outputs/{name}" if f"outputs/{name}" in arrays else key
        if key not in arrays:
            raise CheckError(f"{VECTORS} has no {key}")
        yield key, np.asarray(found), arrays[key][batch]


def _first_difference(found, wanted):
    if found.shape != wanted.shape:
        return (0,), f"shape {found.shape}", f"shape {wanted.shape}"
    places = np.argwhere(found != wanted)
    if not len(places):
        return None
    place = tuple(int(i) for i in places[0])
    return place, int(found[place]), int(wanted[place])


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckError(f"{path} cannot be read: {error.strerror}") from None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    here = Path(__file__).resolve().parent
    parser.add_argument("folder", nargs="?", type=Path, default=here)
    parser.add_argument("--limit", type=int, help="inputs, at most (default: all)")
    options = parser.parse_args()
    try:
        agrees, line = check(options.folder, options.limit)
    except CheckError as error:
        print(error, file=sys.stderr)
        return 2
    print(line)
    return 0 if agrees else 1


if __name__ == "__main__":
    sys.exit(main())
