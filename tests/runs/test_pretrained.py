"""Trained networks by name: packed, loaded, converted, and refused when damaged."""

import dataclasses
import io
import json
import shutil
import zipfile

import jax
import numpy as np
import pytest

import convert
from bitsnn_jax import config
from bitsnn_jax.runs import pretrained
from bitsnn_jax.runs.checkpoint import CheckpointError, load_run
from bitsnn_jax.runs.loading import load_ann, load_snn
from bitsnn_jax.runs.pretrained import __main__ as command_line
from bitsnn_jax.training import train_and_evaluate

QUICK = ["--steps", "4", "--mode", "fused", "--certificate", "none"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small network after an epoch on the digits, converted."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    train_and_evaluate(
        config.Config(
            name="small",
            data=config.Data(eval_batch_size=180),
            model=config.Model(name="small", theta_init=4.0),
            optimizer=config.Optimizer(learning_rate=0.05, epochs=1),
        ),
        folder,
    )
    convert.main(["--ckpt", str(folder), *QUICK])
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder in place of that of the package."""
    folder = tmp_path / "pretrained"
    folder.mkdir()
    monkeypatch.setattr(pretrained, "FOLDER", folder)
    return folder


@pytest.fixture
def packed(run, folder):
    return pretrained.pack(run, "tiny", command="python train.py", hardware="a desk")


def test_each_network_of_the_package_is_whole():
    for name in pretrained.names():
        network = pretrained.load(name)
        assert network.variables["params"]
        assert network.config.name == name  # what every output calls it


def test_what_is_packed_comes_back_bit_by_bit(run, packed):
    assert pretrained.names() == ["tiny"]
    want = load_run(run)
    _, got = load_ann("tiny")
    # It goes by its name in the package, not by that of its run.
    assert got.config == dataclasses.replace(want.config, name="tiny")
    assert got.metadata["config"]["name"] == "tiny"
    assert got.step == want.step
    assert got.metadata["commit"] == want.metadata["commit"]
    assert jax.tree.structure(got.variables) == jax.tree.structure(want.variables)
    for a, b in zip(
        *map(jax.tree.leaves, (got.variables, want.variables)), strict=True
    ):
        assert (a.tobytes(), a.dtype, a.shape) == (b.tobytes(), b.dtype, b.shape)


def test_the_same_run_gives_the_same_bytes(run, packed):
    before = {path.name: path.read_bytes() for path in packed.iterdir()}
    assert sorted(before) == ["card.json", "card.md", "variables.npz"]
    pretrained.pack(run, "tiny", command="python train.py", hardware="a desk")
    assert {path.name: path.read_bytes() for path in packed.iterdir()} == before


def test_the_card_says_what_was_measured(run, packed):
    result = json.loads((run / "result.json").read_text())
    [row] = json.loads((run / "snn" / "conversion.json").read_text())["steps"]
    page = (packed / "card.md").read_text()
    assert f"**{result['test']['accuracy']:.2%}**" in page
    fused = row["fused"]
    cells = [4, 15, f"{row['ann_accuracy']:.2%}", f"{fused['accuracy']:.2%}"]
    cells += [f"{fused['spikes_per_neuron']:.3f}", "-"]
    assert f"| {' | '.join(map(str, cells))} |" in page
    assert "| hardware | a desk |" in page
    assert "    python train.py\n" in page
    assert "| `model.theta_init` | `4.0` |" in page
    assert "optimizer.momentum" not in page  # the default


def test_a_network_without_qcfs_needs_no_conversion(folder, tmp_path):
    run = tmp_path / "relu"
    model = config.Model(name="small", activation="relu")
    optimizer = config.Optimizer(learning_rate=0.05, epochs=1)
    train_and_evaluate(
        config.Config(name="small_relu", model=model, optimizer=optimizer), run
    )
    page = (pretrained.pack(run, "tiny_relu") / "card.md").read_text()
    accuracy = json.loads((run / "result.json").read_text())["test"]["accuracy"]
    assert f"**{accuracy:.2%}**" in page
    assert "activation `relu`.\n" in page
    assert "python compare.py" in page and "python convert.py" not in page
    assert pretrained.load("tiny_relu").config.model.activation == "relu"


def test_what_methods_start_from_is_there_for_each_network_they_compare_on():
    for name in ("resnet20_fashion_mnist", "vgg_fashion_mnist"):
        found = {
            activation: pretrained.load(f"{name}_{suffix}").config
            for activation, suffix in (("relu", "relu"), ("clipped_relu", "clipped"))
        }
        for activation, source in found.items():
            assert source.model.activation == activation
            assert source.start_from == name


def test_convert_takes_a_name_and_writes_into_runs(
    run, packed, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    convert.main(["--ckpt", "tiny", *QUICK])
    assert load_snn("runs/tiny/snn/variables").steps == 4
    before, after = (
        json.loads((folder / "snn" / "conversion.json").read_text())["steps"][0]
        for folder in (run, tmp_path / "runs" / "tiny")
    )
    assert after["fused"]["accuracy"] == before["fused"]["accuracy"]
    assert len(list(packed.iterdir())) == 3

    with pytest.raises(SystemExit):
        convert.main(["--ckpt", "tinny"])
    error = capsys.readouterr().err
    assert error == (
        "error: tinny is not a folder: expected the folder of a run, or the name of a "
        "trained network (tiny)\n"
    )


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


DAMAGES = {
    "bit": lambda folder: flip(folder / "variables.npz"),
    "half": lambda folder: cut(folder / "variables.npz"),
    "gone": lambda folder: (folder / "variables.npz").unlink(),
    "card": lambda folder: cut(folder / "card.json"),
    "number": lambda folder: (folder / "card.json").write_text(
        (folder / "card.json").read_text().replace('"levels": 15', '"levels": 7')
    ),
    "empty": lambda folder: (folder / "card.json").write_text("{}"),
    "list": lambda folder: (folder / "card.json").write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_network_is_not_loaded(packed, damage):
    damage(packed)
    with pytest.raises(CheckpointError, match="install the package again"):
        pretrained.load("tiny")


CHANGES = {
    "shape": (lambda leaf: leaf[:-1], "does not fit model.name=small"),
    "nan": (lambda leaf: leaf * np.nan, "not finite"),
    "pickle": (lambda leaf: leaf.astype(object), "allow_pickle=False"),
}


@pytest.mark.parametrize("change, words", CHANGES.values(), ids=CHANGES.keys())
def test_arrays_that_make_no_sense_are_not_loaded(packed, change, words):
    variables = pretrained.load("tiny").variables
    head = variables["params"]["head"]
    head["bias"] = change(head["bias"])
    reseal(packed, variables)
    with pytest.raises(CheckpointError, match=words):
        pretrained.load("tiny")


def reseal(folder, variables):
    """As if `variables` had been packed."""
    reseal_bytes(folder, pretrained._packed(variables))


def reseal_bytes(folder, arrays):
    card = json.loads((folder / "card.json").read_text())
    card["checksum"] = pretrained._checksum(card, arrays)
    (folder / "variables.npz").write_bytes(arrays)
    (folder / "card.json").write_text(json.dumps(card))


def test_an_archive_that_unfolds_to_too_much_is_not_unpacked(packed):
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("params.npy", bytes(2**27 + 1))
    for content, words in (
        (bomb.getvalue(), "declare 134,217,729; at most 134,217,728 are read"),
        (b"", "no .npz file: BadZipFile"),
        (b"PK\x03\x04" + bytes(99), "no .npz file: BadZipFile"),
    ):
        reseal_bytes(packed, content)
        with pytest.raises(CheckpointError, match=words):
            pretrained.load("tiny")


def test_a_threshold_that_is_not_positive_is_not_loaded(packed):
    variables = pretrained.load("tiny").variables
    variables["params"]["act_1"]["theta"] *= -1
    reseal(packed, variables)
    with pytest.raises(CheckpointError, match="act_1/theta must be positive"):
        pretrained.load("tiny")


def edited(run, folder, file, change):
    copy = shutil.copytree(run, folder / "copy")
    values = json.loads((copy / file).read_text())
    change(values)
    (copy / file).write_text(json.dumps(values))
    return copy


EDITS = {
    "other step": ("result.json", lambda v: v.update(step=1), "result.json is not of"),
    "other config": (
        "snn/conversion.json",
        lambda v: v["run"]["config"].update(seed=1),
        "conversion.json is not of the best checkpoint",
    ),
    "some images": (
        "snn/conversion.json",
        lambda v: v["ann"].update(accuracy=1.0),
        "without --limit",
    ),
    "digits": (
        "snn/conversion.json",
        lambda v: v.update(coding="signed_digits"),
        "sends signed_digits: run convert.py again, without --coding",
    ),
}


@pytest.mark.parametrize("file, change, words", EDITS.values(), ids=EDITS.keys())
def test_numbers_of_another_network_are_not_packed(
    run, folder, tmp_path, file, change, words
):
    with pytest.raises(CheckpointError, match=words):
        pretrained.pack(edited(run, tmp_path, file, change), "tiny")
    assert not list(folder.iterdir())


def test_bad_input_to_the_command_is_one_line(run, folder, tmp_path, capsys):
    bare = shutil.copytree(run, tmp_path / "b", ignore=shutil.ignore_patterns("snn"))
    for arguments, words in [
        ([str(bare), "tiny"], "run convert.py first"),
        ([str(run), "../tiny"], "name must be"),
        ([str(tmp_path / "nowhere"), "tiny"], "is not a folder"),
    ]:
        with pytest.raises(SystemExit) as stop:
            command_line.main(arguments)
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
        assert words in error
    command_line.main([str(run), "tiny"])
    assert pretrained.names() == ["tiny"]
