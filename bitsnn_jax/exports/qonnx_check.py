"""Compare the QONNX model of this folder with its test vectors, bit for bit.

    python check.py [FOLDER] [--limit N]

It needs NumPy and qonnx only, whose executor runs the model node by node. It prints one
line. The exit status is 0 if every code and every logit agrees, 1 if one does not (the
line names the first), and 2 if the files cannot be read.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

MODEL, VECTORS = "network.onnx", "vectors.npz"


class CheckError(ValueError):
    """A folder that cannot be read."""


def check(folder: Path, limit: int | None = None) -> tuple[bool, str]:
    """Run the test vectors; return whether all agree, and the line that says so."""
    try:
        from qonnx.core.modelwrapper import ModelWrapper
        from qonnx.core.onnx_exec import execute_onnx
    except ImportError as error:
        raise CheckError(f"pip install qonnx, which runs the model: {error}") from None
    arrays, compared = _vectors(folder / VECTORS), 0
    try:
        model = ModelWrapper(str(folder / MODEL))
        names = {model.graph.input[0].name, *model.get_all_tensor_names()}
    except Exception as error:  # onnx and protobuf have no class of their own for them
        raise CheckError(f"{folder / MODEL} cannot be read: {_line(error)}") from None
    inputs = arrays.pop("input")[:limit]
    arrays = {name.split("/", 1)[1]: array for name, array in arrays.items()}
    if missing := arrays.keys() - names:
        raise CheckError(
            f"{folder / MODEL} has no {min(missing)}: take both files from one export"
        )
    for i, image in enumerate(inputs):
        fed = {model.graph.input[0].name: image[None].astype(np.float32)}
        try:
            found = execute_onnx(model, fed, return_full_exec_context=True)
        except Exception as error:  # nor has qonnx
            raise CheckError(
                f"{folder / MODEL} cannot be run: {_line(error)}"
            ) from None
        for name, wanted in arrays.items():
            got = np.asarray(found[name])[0]
            if got.shape != wanted[i].shape or (got != wanted[i]).any():
                return False, f"{name} differs first at input {i}"
            compared += got.size
    return True, f"all {compared:,} codes and logits of {len(inputs)} inputs agree"


def _vectors(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {"input": arrays["input"]} | dict(arrays)
    except Exception as error:  # NumPy and zipfile do not say what they raise
        raise CheckError(
            f"{path} cannot be read: export a network with test vectors "
            f"({_line(error)})"
        ) from None


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split()):.200}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    here = Path(__file__).resolve().parent
    parser.add_argument("folder", nargs="?", type=Path, default=here)
    parser.add_argument("--limit", type=int, help="inputs, at most (default: all)")
    options = parser.parse_args(argv)
    try:
        agrees, line = check(options.folder, options.limit)
    except CheckError as error:
        print(error, file=sys.stderr)
        return 2
    print(line)
    return 0 if agrees else 1


if __name__ == "__main__":
    sys.exit(main())
