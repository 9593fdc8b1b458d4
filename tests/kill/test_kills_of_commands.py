"""Commands killed at random moments: `make kill`; the moments are printed with `-s`."""

import os
import signal
import time
from pathlib import Path

import pytest
from harness import (
    Killer,
    await_no_process,
    compare,
    contents,
    convert,
    finish,
    names,
    start,
    train,
)

from bitsnn_jax.runs.checkpoint import load_run, load_variables

pytestmark = pytest.mark.slow

# Kills of each command: 50.
KILLS = {"train": 20, "convert": 15, "compare": 15}
SIGNALS = 10
START = {0: 0.1, 1: 0.25, 5: 0.35, 6: 0.45}  # of the time of a run, for those signals
WORKERS = "--config.data.workers=2"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run that was left in peace, and how long its commands took."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    seconds = {}
    for name, command in (
        ("train", train(run)),
        ("convert", convert(run)),
        ("compare", compare(run)),
    ):
        finish(command)  # once to compile
        if name == "train":
            finish(train(run.with_name("again")))
        _, seconds[name] = finish(
            train(run.with_name("once more")) if name == "train" else command
        )
    return contents(run), seconds


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for key, value in found.items():
        assert value == expected[key], key


def test_fifty_kills_leave_the_bits_of_an_undisturbed_run(tmp_path, undisturbed):
    expected, seconds = undisturbed
    killer = Killer(seed=16)
    killed = dict.fromkeys(KILLS, 0)
    run_number, run = 0, tmp_path / "run 0"
    while any(killed[name] < KILLS[name] for name in KILLS):
        for name, command in (
            ("train", train),
            ("convert", convert),
            ("compare", compare),
        ):
            # At most so many in one run, so that there are several.
            for _ in range(7):
                if killed[name] >= KILLS[name]:
                    break
                there = _readable(run)
                took = killer.kill(command(run), run, seconds=seconds[name])
                killed[name] += took
                # What could be read before can be read now, and without a start.
                assert _readable(run) >= there
                if not took and name == "train":
                    break
            finish(command(run))
        assert_same(contents(run), expected)
        run_number += 1
        run = tmp_path / f"run {run_number}"
    print("\n".join(killer.moments))
    print(killed, "kills in", run_number, "runs")
    assert killed == KILLS


def _readable(run):
    """What of a run can be read, of what readers look for."""
    found = set()
    if any(path.name.isdigit() for path in (run / "checkpoints").glob("*")):
        load_run(run)
        found.add("run")
    snn = run / "snn"
    if any((snn / name).exists() for name in ("variables", ".variables.old")):
        load_variables(snn / "variables")
        found.add("snn")
    return found


def shared_memory():
    folder = Path("/dev/shm")
    return set(os.listdir(folder)) if folder.is_dir() else set()


def test_ten_signals_to_the_group_save_end_and_leave_nothing(tmp_path, undisturbed):
    expected, _ = undisturbed
    before = shared_memory()
    _, seconds = finish(train(tmp_path / "timed", WORKERS))
    found, run = [], tmp_path / "run"
    for i in range(SIGNALS):
        number = (signal.SIGTERM, signal.SIGINT)[i % 2]
        if i % 5 == 0:
            run = tmp_path / f"run {i}"
        process = start(train(run, WORKERS))
        if i % 5 < 2:  # at the start, of workers too
            time.sleep(seconds * START[i])
        else:  # as soon as there is something to lose
            lines = _lines(run)
            while process.poll() is None and _lines(run) < lines + i % 5 - 1:
                time.sleep(0.005)
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            pass
        _, errors = process.communicate(timeout=120)
        await_no_process(process.pid)
        found.append((number.name, process.returncode, _steps(run)))
        assert process.returncode in (128 + number, 0), errors
        assert len(errors.splitlines()) <= 1, errors
        if _lines(run):  # training had begun
            assert _steps(run)
        if i % 5 == 4:
            finish(train(run, WORKERS))
            ours = contents(run)
            for key in ("last", "best", "validation", "steps", "batches"):
                assert ours[key] == expected[key], key
            assert not [
                name for name in names(run) if ".orbax" in name or ".new" in name
            ]
    print(*found, sep="\n")
    assert shared_memory() == before
    assert sum(code != 0 for _, code, _ in found) >= SIGNALS - 2


def _lines(run):
    file = run / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def _steps(run):
    steps = (path.name for path in (run / "checkpoints").glob("*"))
    return max((int(step) for step in steps if step.isdigit()), default=0)
