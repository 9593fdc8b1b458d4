"""train.py as it is used: from a shell, interrupted, and mistyped."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from bitsnn_jax.models import build_model
from bitsnn_jax.runs.checkpoint import Checkpoints, load_run
from bitsnn_jax.training.optimizer import sgd
from bitsnn_jax.training.step import init_state

ROOT = Path(__file__).parents[2]
SMALL = (
    "--config=configs/digits_small.py",
    "--config.optimizer.epochs=4",
    "--config.checkpoint_every_steps=7",  # epochs have 20 steps
)


def start(*flags):
    # One device, as a user's machine has: the flags of the test run stay out.
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return subprocess.Popen(
        [sys.executable, "train.py", *flags],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def interrupt(process, workdir, *, past, by):
    """Sends a signal once a checkpoint of a step above `past` is complete."""
    folder = workdir / "checkpoints"
    while not any(
        path.name.isdigit() and int(path.name) > past for path in folder.glob("*")
    ):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(by)
    process.communicate()
    return process.returncode


def newest(workdir):
    with Checkpoints(workdir) as checkpoints:
        return checkpoints.latest


def final_state(workdir):
    """All arrays of the last checkpoint."""
    config = load_run(workdir).config
    model = build_model(config.model, image_shape=(8, 8, 1))
    optimizer = sgd(config.optimizer, steps_per_epoch=20)
    state = init_state(
        model, optimizer, np.zeros((1, 8, 8, 1), np.float32), jax.random.key(0)
    )
    template = jax.tree.map(np.asarray, state.opt_state)
    with Checkpoints(workdir) as checkpoints:
        assert checkpoints.latest == 80
        return checkpoints.read(80, "variables", "optimizer", optimizer=template)


def test_a_run_that_was_killed_ends_with_the_bits_of_one_that_was_not(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    reference = start(*SMALL, f"--workdir={whole}")

    first = start(*SMALL, f"--workdir={broken}")
    assert interrupt(first, broken, past=0, by=signal.SIGKILL) == -signal.SIGKILL
    killed_at = newest(broken)
    assert killed_at < 80

    second = start(*SMALL, f"--workdir={broken}")
    code = interrupt(second, broken, past=killed_at, by=signal.SIGTERM)
    # Saved before it ended, as a scheduler's requeue expects.
    assert code == 128 + signal.SIGTERM
    assert killed_at < newest(broken) < 80

    third = start(*SMALL, f"--workdir={broken}")
    output, errors = third.communicate()
    assert third.returncode == 0, errors
    assert "test accuracy" in output
    reference_output, errors = reference.communicate()
    assert reference.returncode == 0, errors
    assert reference_output.count("epoch ") == 4  # one line an epoch

    got, want = (jax.tree.leaves(final_state(path)) for path in (broken, whole))
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert a.tobytes() == b.tobytes()

    # Nothing twice in the log, and nothing missing at the steps both have.
    rows = [
        {line: None for line in (path / "metrics.jsonl").read_text().splitlines()}
        for path in (broken, whole)
    ]
    assert len(rows[0]) == len((broken / "metrics.jsonl").read_text().splitlines())
    validation = [[r for r in part if '"validation"' in r] for part in rows]
    assert validation[0] == validation[1]
    assert len(validation[0]) == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.lr=0.1"], "lr"),
        (["--config.data.crop=many"], "--config.data.crop=many"),
        (["--config=configs/none.py"], "--config=configs/none.py"),
        (["--config.model.levels=0"], "model.levels must be"),
        (["--config.data.name=idx", "--config.data.directory=/nowhere"], "/nowhere"),
        (["--workdir={file}/run"], "file"),
    ],
    ids=["field", "type", "config", "range", "data", "workdir"],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, flags, message):
    (tmp_path / "file").touch()
    flags = [flag.format(file=tmp_path / "file") for flag in flags]
    before = set(ROOT.iterdir())
    process = start(*flags)
    output, errors = process.communicate()
    assert process.returncode == 2
    assert output == ""
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert message in errors
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert set(ROOT.iterdir()) == before
