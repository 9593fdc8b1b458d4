"""Checkpoints: what goes in comes out, and nothing else does."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import tensorstore

from bitsnn_jax.config import Config, to_dict
from bitsnn_jax.models import build_model
from bitsnn_jax.runs.checkpoint import (
    CheckpointError,
    Checkpoints,
    load_run,
    load_variables,
    save_variables,
)
from bitsnn_jax.training.optimizer import sgd
from bitsnn_jax.training.step import init_state

SHAPE = (8, 8, 1)


def small_config():
    config = Config(name="test")
    config.model.name = "small"
    return config


METADATA = {"config": to_dict(small_config()), "image_shape": list(SHAPE)}


@pytest.fixture(scope="module")
def state():
    config = small_config()
    model = build_model(config.model, image_shape=SHAPE)
    optimizer = sgd(config.optimizer, steps_per_epoch=1)
    state = init_state(
        model, optimizer, np.zeros((1, *SHAPE), np.float32), jax.random.key(0)
    )
    return jax.tree.map(np.asarray, state)


def save(workdir, state, scores):
    with Checkpoints(workdir) as checkpoints:
        for step, score in scores.items():
            checkpoints.save(
                step,
                variables=state.variables,
                optimizer=state.opt_state,
                progress={"step": step},
                metadata=METADATA,
                score=score,
            )


@pytest.fixture(scope="module")
def saved(tmp_path_factory, state):
    workdir = tmp_path_factory.mktemp("saved")
    save(workdir, state, {3: 0.5})
    return workdir


@pytest.fixture
def run(tmp_path, saved):
    """A copy of a run folder, to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "run"))


def assert_same_bits(got, want):
    got, want = (jax.tree_util.tree_leaves_with_path(tree) for tree in (got, want))
    assert [path for path, _ in got] == [path for path, _ in want]
    for (path, a), (_, b) in zip(got, want, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.dtype, a.shape) == (b.dtype, b.shape), path
        assert a.tobytes() == b.tobytes(), path


def test_what_is_restored_has_the_bits_that_were_saved(saved, state):
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.latest == 3
        template = jax.tree.map(np.zeros_like, state.opt_state)
        variables, optimizer, progress = checkpoints.read(
            3, "variables", "optimizer", "progress", optimizer=template
        )
    assert_same_bits(variables, state.variables)
    assert_same_bits(optimizer, state.opt_state)
    assert progress == {"step": 3}


def test_load_run_gives_config_variables_and_metadata(saved, state):
    run = load_run(saved)
    assert (run.step, run.config, run.metadata) == (3, small_config(), METADATA)
    assert_same_bits(run.variables, state.variables)


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ({1: 0.5, 2: 0.7, 3: 0.6, 4: 0.4}, 2),
        ({1: 0.5, 2: 0.7, 3: 0.7, 4: 0.6}, 3),  # the later of equals
        ({1: 0.0, 2: None, 3: None, 4: None}, 1),  # evaluated, however bad
        ({1: -7.0, 2: None, 3: -8.0, 4: None}, 1),  # an error, say, with its sign
        ({1: None, 2: None, 3: None}, 3),  # none was: the newest
    ],
)
def test_the_best_on_validation_is_kept_beside_the_newest(
    tmp_path, state, scores, best
):
    save(tmp_path, state, scores)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.best == best
        assert checkpoints.score(best) == scores[best]
    assert load_run(tmp_path).step == best
    newest = sorted(scores)[-2:]
    there = sorted(int(folder.name) for folder in (tmp_path / "checkpoints").iterdir())
    assert there == sorted({best, *newest})


@pytest.mark.parametrize("damage", ["truncated", "emptied", "changed", "deleted"])
def test_no_damaged_file_goes_unnoticed(run, state, damage):
    files = [path for path in (run / "checkpoints" / "3").rglob("*") if path.is_file()]
    noticed = set()
    for file in files:
        whole = file.read_bytes()
        middle = len(whole) // 2
        changed = bytes([whole[middle] ^ 0x10]) if whole else b""
        damaged = {
            "truncated": whole[:middle],
            "emptied": b"",
            "changed": whole[:middle] + changed + whole[middle + 1 :],
        }
        if damage == "deleted":
            file.unlink()
        else:
            file.write_bytes(damaged[damage])
        try:
            # Some files (a note that the commit succeeded, say) are not needed.
            assert_same_bits(load_run(run).variables, state.variables)
        except CheckpointError as error:
            noticed.add(file.parent.name)
            assert "\n" not in str(error)
            assert str(run) in str(error)
        file.write_bytes(whole)
    # The arrays themselves are among those that are.
    assert "variables" in noticed or "d" in noticed
    assert load_run(run).step == 3


def test_a_folder_without_a_run_is_said_to_be_one(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere is not a folder"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="holds no checkpoints"):
        load_run(tmp_path)
    # Looking does not create what was looked for.
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="is empty"):
        load_run(tmp_path)


def replaced(variables, name, leaf):
    """A copy of the variables with another leaf, or without it for None."""
    variables = jax.tree.map(lambda x: x, variables)
    *parents, last = name.split("/")
    part = variables
    for parent in parents:
        part = part[parent]
    if leaf is None:
        del part[last]
    else:
        part[last] = leaf
    return variables


@pytest.mark.parametrize(
    ("name", "leaf", "message"),
    [
        ("params/act_2/theta", np.float32(0), "act_2/theta must be positive"),
        ("params/act_2/theta", np.float32(-1), "act_2/theta must be positive"),
        ("params/act_2/theta", np.float32(np.nan), "act_2/theta .*not finite"),
        (
            "params/head/bias",
            np.full(10, np.inf, np.float32),
            "params/head/bias holds values that are not finite",
        ),
        (
            "params/head/bias",
            np.zeros(9, np.float32),
            r"params/head/bias has shape \(9,\), the model \(10,\)",
        ),
        (
            "params/head/bias",
            None,
            r"params/head/bias has shape none, the model \(10,\)",
        ),
        (
            "params/head/extra",
            np.zeros(2, np.float32),
            r"params/head/extra has shape \(2,\), the model none",
        ),
    ],
)
def test_values_that_make_no_sense_are_named(tmp_path, state, name, leaf, message):
    variables = replaced(state.variables, name, leaf)
    wrong = state.replace(params=variables["params"])
    save(tmp_path, wrong, {1: 0.5})
    with pytest.raises(CheckpointError, match=message) as caught:
        load_run(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_variance_below_zero_is_named(tmp_path):
    variables = {"batch_stats": {"norm": {"var": np.float32([1, 0, -0.5])}}}
    save_variables(tmp_path / "snn", variables, {})
    with pytest.raises(
        CheckpointError, match="norm/var must not be below 0, its .*-0.5"
    ):
        load_variables(tmp_path / "snn")


def test_another_score_than_was_saved_is_noticed(run):
    metrics = run / "checkpoints" / "3" / "metrics" / "metrics"
    saved = json.loads(metrics.read_text())
    assert saved["score"] == 0.5
    changes = ({"score": 0.75}, {"checksum": 1}, {"checksum": None}, {"steps": 1})
    for change in (*changes, {"checksum": saved["checksum"] + 1, "score": "x"}):
        metrics.write_text(json.dumps(saved | change))
        with pytest.raises(CheckpointError, match="3 cannot be read .*metrics are not"):
            load_run(run)
    metrics.write_text('{"accuracy": 0.5}')
    with pytest.raises(CheckpointError, match="3 cannot be read .*metrics are not"):
        load_run(run)
    # As an earlier version saved it: without a checksum here and there.
    checksums = run / "checkpoints" / "3" / "checksums" / "metadata"
    kept = json.loads(checksums.read_text())
    del kept["metrics"]
    checksums.write_text(json.dumps(kept))
    assert load_run(run).step == 3
    for accuracy, score in ((0.5, 0.5), (-1.0, None)):
        metrics.write_text(json.dumps({"accuracy": accuracy}))
        with Checkpoints(run, read_only=True) as checkpoints:
            assert checkpoints.score(3) == score
    metrics.write_text(json.dumps(saved))
    with pytest.raises(CheckpointError, match="3 cannot be read .*metrics are not"):
        load_run(run)


def described(folder, **changes):
    """With another description of an array, as whoever can write files can make it."""
    base = f"file://{folder.absolute()}/"
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
    for key in store.list().result():
        if key.endswith(b".zarray"):
            text = json.loads(store.read(key).result().value)
            store.write(key, json.dumps(text | changes)).result()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": [10**6, 10**9]}, "declare 8,000,000,000,000,000; at most"),
        ({"chunks": [10**5, 10**5]}, "declare 80,000,000,000; at most 134,217,728"),
        ({"shape": [-1, 3]}, "a shape of"),
        ({"dtype": None}, "no description of an array"),
        ({"shape": "x"}, "a shape of x"),
    ],
)
def test_a_size_that_no_file_holds_is_an_error_before_it_is_allocated(
    tmp_path, changes, message
):
    # TensorStore would end the process, with no word that Python can catch.
    save_variables(tmp_path / "snn", {"params": {"a": np.ones((2, 3))}}, {})
    described(tmp_path / "snn" / "variables", **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_variables(tmp_path / "snn")
    assert "\n" not in str(caught.value) and "snn cannot be read" in str(caught.value)


def test_saved_variables_come_back_with_type_and_bits(tmp_path):
    variables = {
        "params": {
            "layer": {
                "kernel": jnp.linspace(-1, 1, 6).reshape(2, 3),
                "theta": np.float64(0.1),
            },
            "codes": np.arange(-4, 4, dtype=np.int8),
            "half": np.linspace(0, 1, 5).astype(ml_dtypes.bfloat16),
        },
        "batch_stats": {},
    }
    save_variables(tmp_path / "snn", variables, {"steps": 4})
    got, metadata = load_variables(tmp_path / "snn")
    assert metadata == {"steps": 4}
    assert got["batch_stats"] == {}
    assert_same_bits(got, variables)
    # Saved again: replaced as a whole, nothing left beside it.
    save_variables(tmp_path / "snn", {"params": {"a": np.zeros(2)}}, {})
    assert load_variables(tmp_path / "snn")[0].keys() == {"params"}
    assert [path.name for path in tmp_path.iterdir()] == ["snn"]


def test_a_save_that_fails_leaves_the_folder_before_it(tmp_path):
    path = tmp_path / "snn"
    save_variables(path, {"params": {"a": np.ones(2)}}, {})
    with pytest.raises(TypeError):
        save_variables(path, {"params": {"a": np.zeros(2)}}, {"not JSON": object()})
    assert load_variables(path)[0]["params"]["a"].tolist() == [1, 1]


def test_saved_variables_are_checked_when_they_are_loaded(tmp_path):
    with pytest.raises(CheckpointError, match="not a folder"):
        load_variables(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_variables(tmp_path)
    save_variables(tmp_path / "snn", {"params": {"theta": np.zeros(3)}}, {})
    with pytest.raises(CheckpointError, match="params/theta must be positive"):
        load_variables(tmp_path / "snn")


def test_reading_leaves_a_save_in_progress_alone(tmp_path):
    under_way = tmp_path / "checkpoints" / "600.orbax-checkpoint-tmp"
    under_way.mkdir(parents=True)
    with pytest.raises(CheckpointError, match="is empty: train first"):
        load_run(tmp_path)
    (tmp_path / "checkpoints" / "400").mkdir()
    with pytest.raises(CheckpointError):
        load_run(tmp_path)
    assert under_way.is_dir()


KILLED = """
import os, signal, sys
import numpy as np
from bitsnn_jax.runs.checkpoint import Checkpoints
checkpoints = Checkpoints(sys.argv[1])
for step, size in ((1, 10), (2, 10_000_000)):
    checkpoints.save(
        step,
        variables={"params": {"w": np.full(size, step, np.float32)}},
        optimizer={"w": np.zeros(1, np.float32)},
        progress={},
        metadata={},
    )
    if step == 2:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(tmp_path):
    process = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)])
    assert process.returncode == -signal.SIGKILL
    folder = tmp_path / "checkpoints"
    # 40 MB were under way: it is there, but not under its name.
    assert len(list(folder.glob("2*"))) == 1 and not (folder / "2").exists()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest == 1
        (variables,) = checkpoints.read(1, "variables")
        np.testing.assert_array_equal(variables["params"]["w"], np.ones(10))
        # What was half written is in nobody's way.
        optimizer = {"w": np.zeros(1, np.float32)}
        checkpoints.save(
            2, variables=variables, optimizer=optimizer, progress={}, metadata={}
        )
    assert {path.name for path in folder.iterdir()} == {"1", "2"}
