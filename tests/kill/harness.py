"""Commands that are started, killed and compared, for `test_kills_of_commands.py`."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np

from bitsnn_jax.runs.checkpoint import Checkpoints, load_run, load_variables

ROOT = Path(__file__).parents[2]
TRAIN = (
    "train.py",
    "--config=configs/digits_small.py",
    "--config.optimizer.epochs=2",
    "--config.model.width=0.5",
    "--config.checkpoint_every_steps=5",  # epochs have 20 steps
)
# Dates, times, folders, and checksums of files with these; the rest is the same.
_TIMES = re.compile(
    r"time|seconds|compile_seconds|milliseconds.*|sha256|command|checksum|from"
    r"|ratio|ann_passes"
)


def train(run, *more):
    return (*TRAIN, f"--workdir={run}", *more)


def convert(run):
    return (
        *("convert.py", f"--ckpt={run}", "--steps", "2", "4", "--limit", "40"),
        *("--fixed-point", "--certificate", "float32"),
    )


def compare(run):
    return (
        *("compare.py", f"--ckpt={run}", "--methods", "qcfs", "signed_if"),
        *("--steps", "2", "4", "--limit", "40"),
    )


def start(command):
    """One device, as a user's machine has, and a process group of its own."""
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=env | {"XLA_FLAGS": "--xla_backend_optimization_level=0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(command):
    """Standard output and seconds of a command that must go well."""
    started = time.monotonic()
    process = start(command)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return output, time.monotonic() - started


def await_no_process(group, *, seconds=30):
    """Everything that the command started must be gone, without a hand."""
    last = time.monotonic() + seconds
    while True:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        assert time.monotonic() < last, f"processes of the group {group} are left"
        time.sleep(0.02)


class Killer:
    """Kills a command at a moment that is drawn: on the clock, or at a write.

    A write is what comes to its folder, or changes there, while it runs. The first half
    second holds most of the interpreter's start, which can lose nothing.
    """

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.moments = []  # of each kill, in words

    def kill(self, command, folder, *, seconds):
        """Whether it was killed before its end; then nothing of it is left."""
        if self.random.random() < 0.4:
            wait = self.random.uniform(0.5, seconds)
            moment, process = f"after {wait:.2f} s", start(command)
            last = time.monotonic() + wait
            while process.poll() is None and time.monotonic() < last:
                time.sleep(0.005)
        else:
            count = self.random.randint(1, 40)
            wait = self.random.choice([0, 0, 0.001, 0.01, 0.05])
            moment = f"{wait} s after change {count} of files"
            process, seen = start(command), names(folder)
            while process.poll() is None and count > 0:
                now = names(folder)
                count -= len(now ^ seen)
                seen = now
            time.sleep(wait)
        process.kill()
        _, errors = process.communicate()
        await_no_process(process.pid)
        if process.returncode == 0:
            return False
        assert process.returncode == -signal.SIGKILL, errors
        self.moments.append(f"{command[0]}: {moment}")
        return True


def names(folder):
    """All there is below a folder that is changed meanwhile."""
    found = set()
    for path, folders, files in os.walk(folder):
        found |= {os.path.join(path, name) for name in (*folders, *files)}
    return found


def contents(run):
    """What must be the same in two runs: arrays, numbers but for times, and names."""
    with Checkpoints(run, read_only=True) as checkpoints:
        steps = checkpoints.latest, checkpoints.best
        variables, progress = checkpoints.read(steps[0], "variables", "progress")
    found = {
        "steps": steps,
        "last": _bits(variables),
        "best": _bits(load_run(run).variables),
        "batches": progress["batches"],
        "validation": [
            line
            for line in (run / "metrics.jsonl").read_text().splitlines()
            if '"validation"' in line
        ],
        "names": _names(run),
    }
    for file in run.rglob("*.json"):
        if "checkpoints" not in file.parts and "variables" not in file.parts:
            found[str(file.relative_to(run))] = _timeless(json.loads(file.read_text()))
    for file in run.rglob("*.safetensors"):
        found[str(file.relative_to(run))] = file.read_bytes()
    if (run / "snn" / "variables").exists():
        found["snn"] = _bits(load_variables(run / "snn" / "variables")[0])
    return found


def _bits(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in leaves
    }


def _names(run):
    """Without the random names that Orbax and TensorBoard give."""
    found = set()
    for path in run.rglob("*"):
        name = path.relative_to(run).as_posix()
        if "/d/" not in name and not name.startswith("tensorboard/"):
            found.add(name)
    return found


def _timeless(value):
    if isinstance(value, dict):
        return {
            key: _timeless(part)
            for key, part in value.items()
            if not _TIMES.fullmatch(key)
        }
    if isinstance(value, list):
        return [_timeless(part) for part in value]
    return value
