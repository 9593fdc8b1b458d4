"""A kill at any call of the file system: what was there stays, no hand is needed.

A killed process does nothing more, not even clean up: after the n-th call every call
raises. `make kill` does the same to whole commands, by SIGKILL.
"""

import itertools
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from networks import Residual, lowered

from bitsnn_jax import config
from bitsnn_jax.exports import bundle_writer
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.jobs.convert import ConvertOptions, convert_source
from bitsnn_jax.jobs.import_network import ImportOptions, import_network
from bitsnn_jax.jobs.sources import RunSource, TorchSource
from bitsnn_jax.runs import pretrained
from bitsnn_jax.runs.checkpoint import Checkpoints, load_variables, save_variables
from bitsnn_jax.runtime import files
from bitsnn_jax.runtime.locks import LOCK, BusyError, work_folder
from bitsnn_jax.training import train_and_evaluate

CALLS = ("rename", "replace", "unlink", "rmdir", "mkdir")


class Killed(BaseException):
    """The process is dead."""


class Death:
    """Kills at the n-th call that changes something below a folder."""

    def __init__(self, patch, folder, n):
        self.left, self.folder, self.dead = n, str(folder), False
        for name in CALLS:
            patch.setattr(os, name, self.killing(getattr(os, name)))
        for name in ("write_bytes", "write_text"):
            patch.setattr(Path, name, self.killing(getattr(Path, name)))

    def killing(self, call):
        def killed(path, *args, **options):
            ours = self.folder in os.path.abspath(path) or "dir_fd" in options
            if ours and threading.current_thread() is threading.main_thread():
                self.left -= 1
                self.dead = self.dead or self.left < 0
                if self.dead:
                    raise Killed
            return call(path, *args, **options)

        return killed


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


class Text:
    """A file of text."""

    def save(self, folder, value):
        files.replace_text(folder / "a.json", str(value))

    def read(self, folder):
        return int((folder / "a.json").read_text())


class Report:
    """Some files, among others; the last of them speaks for all."""

    def save(self, folder, value):
        names = ("a.png", "b.png", "index.html")
        files.write_files(dict.fromkeys(names, str(value).encode()), folder)

    def read(self, folder):
        return int((folder / "index.html").read_bytes())


class Variables:
    """A folder that Orbax writes."""

    def save(self, folder, value):
        save_variables(folder / "variables", {"params": {"a": np.full(3, value)}}, {})

    def read(self, folder):
        return int(load_variables(folder / "variables")[0]["params"]["a"][0])


class Export:
    """A folder that `exchange` writes."""

    def __init__(self):
        graph = lowered(Residual)
        self.networks = [fixed_point(graph, steps=steps) for steps in (2, 3)]

    def save(self, folder, value):
        bundle_writer.save(self.networks[value], folder / "fixed_point")

    def read(self, folder):
        return bundle_writer.load(folder / "fixed_point").steps - 2


@pytest.mark.parametrize("kind", [Text, Report, Variables, Export])
def test_a_kill_at_any_call_leaves_the_old_or_the_new_and_nothing_to_do(kind, tmp_path):
    what = kind()
    whole = tmp_path / "whole"
    whole.mkdir()
    what.save(whole, 0)
    what.save(whole, 1)
    for n in itertools.count():
        folder = tmp_path / f"killed at {n}"
        folder.mkdir()
        what.save(folder, 0)
        with pytest.MonkeyPatch.context() as patch:
            death = Death(patch, folder, n)
            try:
                what.save(folder, 1)
            except Killed:
                pass
        assert what.read(folder) in (0, 1)
        if not death.dead:
            break
        what.save(folder, 1)
        assert what.read(folder) == 1
        assert _without_hashes(names(folder)) == _without_hashes(names(whole))
    assert n >= 2  # it was killed at all, and once between writing and renaming


def _without_hashes(paths):
    """Orbax gives a file of arrays a random name."""
    return sorted(path for path in paths if "/d/" not in path)


def test_a_kill_between_two_renames_is_finished_with_the_new_one(tmp_path):
    files.make_folder(tmp_path / ".net.new")
    files.make_folder(tmp_path / ".net.old")
    assert files.standing(tmp_path / "net").name == ".net.new"
    files.settle(tmp_path / "net")
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


def test_what_belongs_to_somebody_else_stays(tmp_path):
    for name in ("net.new", "net.old", ".network.new", ".net.newer"):
        (tmp_path / name).mkdir()
    save_variables(tmp_path / "net", {"params": {"a": np.ones(2)}}, {})
    assert len(list(tmp_path.iterdir())) == 5


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kills") / "run"
    train_and_evaluate(_config(), folder)
    return folder


def test_convert_removes_what_killed_conversions_left(trained):
    out = trained / "snn"
    left = [".variables.old/x", ".variables.new", ".fixed_point.new/y"]
    left += ["report/.report-abc", ".conversion.json.new"]
    somebody_s = ["variables.old", "variables.T8.old", "conversion.json.old"]
    for name in left + somebody_s:
        (out / name).mkdir(parents=True)
    options = ConvertOptions(out=out, steps=[2], precisions=(), modes=("fused",))
    convert_source(RunSource(trained, limit=20), options)
    assert {path.name for path in out.iterdir()} == {
        "conversion.json",
        "report",
        "variables",
        *somebody_s,
    }
    assert not list((out / "report").glob(".*"))


def test_a_step_that_was_half_deleted_is_in_nobody_s_way(tmp_path):
    def save(step):
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(
                step,
                variables={"params": {"a": np.full(2, step, np.float32)}},
                optimizer={"a": np.zeros(1)},
                progress={},
                metadata={},
                score=0.5,
            )

    save(1)
    half = tmp_path / "checkpoints" / "2" / "variables"
    half.mkdir(parents=True)
    moved = tmp_path / "checkpoints" / ".deleted" / "0" / "variables"
    moved.mkdir(parents=True)
    with Checkpoints(tmp_path) as checkpoints:
        assert (checkpoints.latest, checkpoints.best) == (1, 1)
    for step in (2, 3, 4):
        save(step)
    there = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert there == {"3", "4"}


def test_a_trained_run_is_not_replaced_by_an_import(trained, tmp_path):
    with pytest.raises(ValueError, match="a run that was trained: give another --out"):
        source = TorchSource(tmp_path / "x.pth", model="resnet18", pictures=tmp_path)
        import_network(source, ImportOptions(out=trained, calibrate=tmp_path))


def test_a_network_that_is_being_packed_has_no_name_yet(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    for name in (".net.new", "net"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "card.json").write_text("{}")
    assert pretrained.names() == ["net"]


# The lock

HOLDER = """
import sys, time
from bitsnn_jax.runtime.locks import work_folder
with work_folder(sys.argv[1]):
    print("held", flush=True)
    time.sleep(1000)
"""


@pytest.fixture
def held(tmp_path):
    """A folder that another process works in, and that process."""
    folder = tmp_path / "run"
    command = [sys.executable, "-c", HOLDER, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield folder, process
    process.kill()
    process.communicate()


def test_a_folder_in_use_is_one_line_that_names_the_holder_until_it_dies(held):
    folder, process = held
    jobs = [
        lambda: train_and_evaluate(_config(), folder),
        lambda: convert_source(
            RunSource("nowhere"), ConvertOptions(steps=[2], out=folder)
        ),
        lambda: _enter(folder),
    ]
    for job in jobs:
        with pytest.raises(BusyError) as caught:
            job()
        message = str(caught.value)
        assert f"{folder} is in use by `-c {folder}` (process {process.pid}" in message
        assert "\n" not in message
    assert names(folder) == [LOCK]
    process.kill()
    process.wait()
    with work_folder(folder):  # the lock died with it, the file did not
        assert names(folder) == [LOCK]
    assert names(folder) == []


def _config():
    return config.Config(
        name="small",
        model=config.Model(name="small", theta_init=4.0),
        optimizer=config.Optimizer(learning_rate=0.1, epochs=1),
    )


def _enter(folder):
    with work_folder(folder):
        raise AssertionError("not reached")


def test_a_lock_leaves_nothing_and_may_be_asked_for_twice_by_one_thread(tmp_path):
    folder = tmp_path / "a" / "b"
    with work_folder(folder), work_folder(folder):
        other = threading.Thread(target=_expect_busy, args=(folder,))
        other.start()
        other.join()
        assert names(folder) == [LOCK]
    assert list(tmp_path.iterdir()) == []  # nor the folders that it made
    with pytest.raises(KeyError):
        with work_folder(folder):
            raise KeyError
    assert list(tmp_path.iterdir()) == []
    with work_folder(folder):
        (folder / "kept").touch()
    assert names(folder) == ["kept"]


def _expect_busy(folder):
    with pytest.raises(BusyError, match="is in use by"):
        _enter(folder)
