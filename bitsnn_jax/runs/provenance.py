"""Where numbers come from: the code, the run, the machine. Everything is for JSON."""

import datetime
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import jax

from bitsnn_jax.config import Config, to_dict
from bitsnn_jax.results.provenance import MachineRecord, RunRecord
from bitsnn_jax.runtime.files import make_folder, replace_json
from bitsnn_jax.version import __version__


def run_metadata(config: Config, input_shape: Sequence[int]) -> dict[str, Any]:
    """Return what is saved beside the variables of a run."""
    return {
        "config": to_dict(config),
        "image_shape": list(input_shape),  # so called of every task
        "version": __version__,
        "commit": commit(),
    }


class Trained(Protocol):
    """A run, or what was made of one."""

    @property
    def config(self) -> Config: ...

    @property
    def step(self) -> int: ...

    @property
    def metadata(self) -> dict[str, Any]: ...


def about_run(run: Trained, command: str) -> RunRecord:
    """Name the run that numbers are of, and the command that they come from."""
    return RunRecord(
        name=run.config.name,
        model=run.config.model.name,
        dataset=run.config.data.name,
        checkpoint_step=run.step,
        seed=run.config.seed,
        version=__version__,
        commit=run.metadata.get("commit"),
        command=command,
    )


def about_machine() -> MachineRecord:
    """Name what runs now, and when."""
    return MachineRecord(
        jax=jax.__version__,
        device=jax.devices()[0].device_kind,
        num_devices=jax.device_count(),
        time=datetime.datetime.now().isoformat(timespec="seconds"),
    )


def about_numbers(*, config: str, seed: int | None) -> dict[str, Any]:
    """Say where the numbers of a running script come from, for a stored file.

    Args:
      config: the networks or config files that were measured.
      seed: of what the script draws; None where nothing is random.
    """
    script, *given = sys.argv
    # Where the numbers go is of no interest to who reads them.
    if "--out" in given:
        place = given.index("--out")
        del given[place : place + 2]
    return {
        "command": shlex.join(["python", _in_repository(script), *given]),
        "config": config,
        "seed": seed,
        "commit": commit(),
        "machine": machine(),
        "jax": jax.__version__,
        "time": datetime.datetime.now().isoformat(timespec="seconds"),
    }


def store_numbers(
    path: Path, rows: Any, *, config: str, seed: int | None, **more: Any
) -> None:
    """Write what a script has measured, and where it comes from, to a JSON file.

    Args:
      path: of the file, which is replaced.
      rows: the numbers, for JSON.
      config, seed: as in `about_numbers`.
      more: other facts that hold for all rows.
    """
    make_folder(path.parent)
    about = about_numbers(config=config, seed=seed)
    replace_json(path, {"about": about | more, "rows": rows})


def _in_repository(script: str) -> str:
    root = Path(__file__).parents[2]
    path = Path(script).resolve()
    return str(path.relative_to(root)) if path.is_relative_to(root) else path.name


@cache
def machine() -> str:
    """Name the devices that this process computes on."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"{jax.device_count()} x {device.device_kind}"
    lines = []
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    pairs = (line.partition(":") for line in lines)
    facts = {name.strip(): value.strip() for name, _, value in pairs}
    name = facts.get("model name") or platform.processor() or platform.machine()
    wide = "avx512f" in facts.get("flags", "").split()
    cores = f"{os.cpu_count()} cores of {name}"
    return f"{cores} with AVX-512" if wide else cores


def commit() -> str | None:
    """Return the commit of the package's repository, "-dirty" if changed; or None.

    What experiments write below docs is no change: they add row after row.
    """
    root = Path(__file__).parents[2]
    # An installed package may lie inside the repository of somebody else.
    if not (root / ".git").exists():
        return None

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    written = (":!docs/results", ":!docs/images")
    try:
        name = git("describe", "--always", "--abbrev=40")
        changed = git("status", "--porcelain", "-uno", "--", ".", *written)
        return f"{name}-dirty" if changed else name
    except (OSError, subprocess.CalledProcessError):
        return None
