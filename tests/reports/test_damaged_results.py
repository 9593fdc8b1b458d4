"""What one command left for another, damaged; disks that are full; signals."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from commands import ROOT, check_line, run, tree

from bitsnn_jax.runtime import cli, interrupts
from bitsnn_jax.runtime.files import replace_json, write_files
from bitsnn_jax.training.log import metrics_log

TRAIN = ["--config=digits_small", "--config.optimizer.epochs=1"]
COMPARE = ["--methods", "qcfs", "--steps", "1", "--limit", "20"]
CONVERT = ["--steps", "4", "--mode", "fused", "--certificate", "none"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that was trained, converted and compared."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        assert run("train", [*TRAIN, f"--workdir={folder}"], patch) == 0
        assert run("convert", ["--ckpt", str(folder), *CONVERT], patch) == 0
        assert run("compare", ["--ckpt", str(folder), *COMPARE], patch) == 0
    return folder


def without(*path):
    """Removes a field of JSON."""

    def damage(text):
        value = part = json.loads(text)
        for name in path[:-1]:
            part = part[name]
        del part[path[-1]]
        return json.dumps(value)

    return damage


def replaced(name, new):
    return lambda text: json.dumps(json.loads(text) | {name: new})


def truncated(text):
    return text[: len(text) // 2]


def deep(text):
    return "[" * 100_000


RESULT, COMPARED, CONVERTED = (
    "result.json",
    "compare/compare.json",
    "snn/conversion.json",
)
PACK = ["{run}", "tiny"]
AGAIN = [*TRAIN, "--workdir={run}"]
COMPARE_AGAIN = ["--ckpt={run}", *COMPARE]
DAMAGED = {
    "result of training": (RESULT, truncated, "train", AGAIN, "remove it, and the"),
    "result too deep": (RESULT, deep, "train", AGAIN, "nested too deep"),
    "result a list": (RESULT, lambda _: "[1]", "train", AGAIN, "must hold a dict"),
    "result to pack": (RESULT, truncated, "pretrained", PACK, "train to the end"),
    "result without a step": (
        *(RESULT, without("step"), "pretrained", PACK),
        "result.json is not whole (Object missing required field `step`): remove it",
    ),
    "conversion truncated": (
        *(CONVERTED, truncated, "pretrained", PACK),
        "run convert.py",
    ),
    "conversion without run": (
        *(CONVERTED, without("run"), "pretrained", PACK),
        "conversion.json is not whole (Object missing required field `run`): run",
    ),
    "conversion with a word": (
        *(CONVERTED, replaced("ann", {"accuracy": "good"}), "pretrained", PACK),
        "Expected `float`, got `str` - at `$.ann.accuracy`",
    ),
    "comparison truncated": (
        *(COMPARED, truncated, "compare", COMPARE_AGAIN),
        "remove it to begin anew",
    ),
    "comparison without methods": (
        *(COMPARED, without("methods"), "compare", COMPARE_AGAIN),
        "compare.json is not whole (Object missing required field `methods`): expect",
    ),
    "comparison with half a row": (
        *(COMPARED, without("rows", 0, "accuracy"), "compare", COMPARE_AGAIN),
        "Object missing required field `accuracy` - at `$.rows[0]`",
    ),
    "comparison of other steps": (
        *(COMPARED, replaced("methods", {}), "compare", COMPARE_AGAIN),
        "(methods.qcfs is missing: rows[0] is of it)",
    ),
}


@pytest.mark.parametrize(
    "file, damage, command, words, line", DAMAGED.values(), ids=DAMAGED
)
def test_a_damaged_result_is_named_and_left_alone(
    file, damage, command, words, line, finished, tmp_path, monkeypatch, capfd
):
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    (copy / file).write_text(damage((copy / file).read_text()))
    words = [word.format(run=copy) for word in words]
    monkeypatch.setattr(
        "bitsnn_jax.runs.pretrained.FOLDER", tmp_path
    )  # were it to pack
    before = tree(copy)
    capfd.readouterr()
    check_line(run(command, words, monkeypatch), capfd.readouterr(), line)
    # TensorBoard begins a file each time.
    kept = {p: c for p, c in tree(copy).items() if "tfevents" not in p.name}
    assert {p: c for p, c in before.items() if "tfevents" not in p.name} == kept
    assert file.rpartition("/")[2] in {p.name for p in kept}


def test_a_line_of_metrics_that_is_none_is_an_error_unless_it_is_the_last(tmp_path):
    path = tmp_path / "metrics.jsonl"
    line = json.dumps({"step": 1, "split": "train", "loss": 1.0}) + "\n"

    def read():
        with metrics_log(tmp_path, step=1):
            pass
        return path.read_text()

    path.write_bytes(line.encode() + b'{"step": 1, "spl')
    assert read() == line
    path.write_bytes(line.encode() + b"\0\0\0\0")  # as some disks after a power cut
    assert read() == line
    for wrong in (b'{"step": 1, "spl', b"\xff", b"[1]", b'{"step": "1", "split": ""}'):
        damaged = wrong + b"\n" + line.encode()
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"metrics.jsonl is damaged in line 1 "):
            read()
        assert path.read_bytes() == damaged


def full(*_):
    """What a write to a full disk raises: no file is named."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    "write, method",
    [
        (lambda folder: replace_json(folder / "a.json", {"a": 1}), "write_text"),
        (lambda folder: write_files({"a.json": b"{}"}, folder), "write_bytes"),
    ],
    ids=["replace_json", "write_files"],
)
def test_a_full_disk_is_one_line_with_the_path_and_leaves_the_old_file(
    write, method, tmp_path, monkeypatch, capfd
):
    (tmp_path / "a.json").write_text("old")
    before = tree(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(f"pathlib.Path.{method}", full)
        with pytest.raises(SystemExit) as stop, cli.one_line():
            write(tmp_path)
    line = f"{tmp_path / 'a.json'} cannot be written (No space left on device): make"
    check_line(stop.value.code, capfd.readouterr(), line)
    assert tree(tmp_path) == before


def test_a_full_disk_is_named_by_the_folder_whatever_orbax_raises(finished, tmp_path):
    # A limit on the size of files, in a process of its own, stands for a disk.
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); "
        "import convert; convert.main()"
    )
    words = ["--ckpt", str(finished), *CONVERT, "--limit=20", f"--out={tmp_path}"]
    ended = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"error: {tmp_path}")
    assert "cannot be written" in ended.stderr and ended.stderr.count("\n") == 1


def test_memory_that_is_not_there_is_one_line(capfd):
    with pytest.raises(SystemExit) as stop, cli.one_line():
        raise MemoryError
    line = "out of memory: take smaller batches, images or networks"
    check_line(stop.value.code, capfd.readouterr(), line)


def test_an_error_of_the_program_keeps_its_traceback():
    with pytest.raises(KeyError), cli.one_line():
        raise KeyError("a")


def test_a_signal_inside_a_finaliser_is_raised_behind_it(monkeypatch):
    class Finalised:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)  # Python calls the handler here

    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(interrupts, "GRACE", 1e6)
    before = [signal.getsignal(number) for number in interrupts.SIGNALS]
    cli.only_our_errors()
    try:
        with pytest.raises(interrupts.Interrupted), interrupts.raised():
            Finalised()
            for _ in range(1000):
                time.sleep(0.01)
    finally:
        for number, handler in zip(interrupts.SIGNALS, before, strict=True):
            signal.signal(number, handler)
