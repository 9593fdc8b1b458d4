"""Trained networks that come with the package, by name.

Each is a folder beside this file: `variables.npz`, the arrays of a run's best
checkpoint bit by bit; `card.json`, its config and what was measured; and `card.md`, the
same to read. `python -m bitsnn_jax.runs.pretrained RUN NAME` makes such a folder.
"""

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from bitsnn_jax.config import from_dict
from bitsnn_jax.results.conversion import ConversionResult
from bitsnn_jax.results.training import TrainingResult
from bitsnn_jax.runs.checkpoint import (
    CheckpointError,
    Run,
    check_fit,
    check_values,
    load_run,
)
from bitsnn_jax.runs.pretrained.card import make_card, to_markdown
from bitsnn_jax.runtime.files import replaced_folder, write_files
from bitsnn_jax.runtime.reading import parse_json, read_npz, read_typed

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """List the networks that are there, sorted."""
    folders = (card.parent.name for card in FOLDER.glob("*/card.json"))
    return sorted(filter(str.isidentifier, folders))  # none that is being written


def load(name: str) -> Run:
    """Load a trained network of the package.

    Args:
      name: one of `names()`.

    Raises:
      CheckpointError: files that are not there or not as they were written, arrays that
        do not fit the model, theta <= 0, or a value that is not finite.
    """
    folder = FOLDER / name
    try:
        card = parse_json((folder / "card.json").read_bytes())
        arrays = (folder / "variables.npz").read_bytes()
        return _run(card, arrays, where=folder)
    except CheckpointError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{folder} cannot be read ({type(error).__name__}: {error}): install the "
            "package again"
        ) from error


def pack(
    run: str | os.PathLike, name: str, *, command: str = "", hardware: str = ""
) -> Path:
    """Make a trained network of a run; replace one of that name.

    Of a run with QCFS what its conversion reached is written on the card. One with
    another activation is a network that `compare.py` starts from.

    The same run gives the same bytes.

    Args:
      run: folder of a run that is finished; if it has QCFS, with what `convert.py`
        wrote into it for all test images.
      name: that it will have.
      command: with which it was trained.
      hardware: on which; "" for what JAX calls it.

    Returns:
      Its folder.

    Raises:
      ValueError: a name that is none, a run that is not finished or not converted, or a
        conversion of another checkpoint.
    """
    if not name.isidentifier() or name.startswith("_") or len(name) > 100:
        raise ValueError(
            "name must be letters, digits and _, beginning with a letter, at most 100; "
            f"got {name!r:.120}"
        )
    trained = load_run(run)
    file = Path(run) / "result.json"
    missing = "remove it and train to the end first"
    result = read_typed(file, TrainingResult, advice=missing)
    conversion = None
    if trained.config.model.activation == "qcfs":
        file = Path(run) / "snn" / "conversion.json"
        conversion = read_typed(file, ConversionResult, advice="run convert.py first")
    card = make_card(
        name, trained, result, conversion, command=command, hardware=hardware
    )
    return _write(name, card, _packed(trained.variables))


def revise(name: str, **changes: Any) -> Path:
    """Change fields of a card; the arrays stay as they are, byte by byte.

    Args:
      name: of a network of the package.
      changes: top-level fields of its card.

    Returns:
      Its folder.

    Raises:
      CheckpointError: a network that is not whole.
    """
    load(name)
    card = parse_json((FOLDER / name / "card.json").read_bytes())
    arrays = (FOLDER / name / "variables.npz").read_bytes()
    return _write(name, {**card, **changes}, arrays)


def _write(name: str, card: dict[str, Any], arrays: bytes) -> Path:
    card = {**card, "checksum": _checksum(card, arrays)}
    files = {
        "variables.npz": arrays,
        "card.json": (json.dumps(card, indent=1, sort_keys=True) + "\n").encode(),
        "card.md": to_markdown(card).encode(),
    }
    folder = FOLDER / name
    # Nothing is written that could not be loaded.
    _run(json.loads(files["card.json"]), arrays, where=folder)
    with replaced_folder(folder) as new:
        write_files(files, new)
    return folder


def _run(card, arrays, *, where):
    """Read the network of a card and its arrays, if they belong together."""
    if card["checksum"] != _checksum(card, arrays):
        raise ValueError("checksum differs")
    leaves = read_npz(arrays, what="variables.npz")
    tree = unflatten_dict(leaves, sep="/")
    # A collection may have no leaves, such as the statistics without batch norm.
    variables = {"params": {}, "batch_stats": {}} | tree
    # It goes by the name that it has here, whatever its run was called.
    named = {**card["metadata"]["config"], "name": card["name"]}
    metadata: dict[str, Any] = {**card["metadata"], "config": named}
    config = from_dict(metadata["config"])
    check_fit(variables, config, tuple(metadata["image_shape"]), where=where)
    check_values(variables, where=where)
    return Run(config, variables, card["step"], metadata)


def _packed(variables):
    """Pack arrays into an .npz without dates; leaves in order of their names."""
    file = io.BytesIO()
    np.savez(file, **dict(sorted(flatten_dict(variables, sep="/").items())))
    return file.getvalue()


def _checksum(card, arrays):
    """Compute SHA-256 of the arrays and of all else that the card says."""
    text = json.dumps({**card, "checksum": None}, sort_keys=True)
    return hashlib.sha256(arrays + text.encode()).hexdigest()
