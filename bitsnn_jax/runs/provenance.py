"""Where numbers come from: the code, the run, the machine. Everything is for JSON."""

import datetime
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from bitsnn_jax.config import Config, to_dict
from bitsnn_jax.runs.checkpoint import Run
from bitsnn_jax.version import __version__


def run_metadata(config: Config, image_shape: Sequence[int]) -> dict[str, Any]:
    """What is saved beside the variables of a run."""
    return {
        "config": to_dict(config),
        "image_shape": list(image_shape),
        "version": __version__,
        "commit": commit(),
    }


def about_run(run: Run, command: str) -> dict[str, Any]:
    """The run that numbers are of, and the command that they come from."""
    return {
        "name": run.config.name,
        "model": run.config.model.name,
        "dataset": run.config.data.name,
        "checkpoint_step": run.step,
        "seed": run.config.seed,
        "version": __version__,
        "commit": run.metadata.get("commit"),
        "command": command,
    }


def about_machine() -> dict[str, Any]:
    """What runs now, and when."""
    return {
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "num_devices": jax.device_count(),
        "time": datetime.datetime.now().isoformat(timespec="seconds"),
    }


def commit() -> str | None:
    """Of the repository that the package is in, "-dirty" if it was changed; or None."""
    root = Path(__file__).parents[2]
    # An installed package may lie inside the repository of somebody else.
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
