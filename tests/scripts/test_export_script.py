"""`export.py`: what it writes, and what it never writes over."""

import json

import jax
import numpy as np
import pytest
from networks import Pooling, lowered

import export
from bitsnn_jax.exports import bundle_writer
from bitsnn_jax.exports.bundle_reader import sha256
from bitsnn_jax.exports.formats import FORMATS, Format
from bitsnn_jax.integers.execution import one_shot
from bitsnn_jax.integers.fixed_point import fixed_point


@pytest.fixture(scope="module")
def network():
    return fixed_point(lowered(Pooling), steps=3)


@pytest.fixture
def run_folder(network, tmp_path):
    """A run whose integers `convert.py` has written."""
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3))
    bundle_writer.save(network, tmp_path / "run/snn/fixed_point", vectors=images)
    (tmp_path / "run/snn/conversion.json").write_text('{"fixed_point": {"bits": 8}}')
    return tmp_path / "run"


def written(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_each_format_is_a_folder_of_its_own(run_folder, network, tmp_path):
    pytest.importorskip("nir")
    pytest.importorskip("flatbuffers")
    from bitsnn_jax.exports import nir_writer, stablehlo

    export.main(["--ckpt", str(run_folder), "--to", "nir", "stablehlo"])
    snn = run_folder / "snn"
    described = json.loads((snn / "nir/export.json").read_text())
    bundle = snn / "fixed_point/network.json"
    assert described["network"] == sha256(bundle.read_bytes())
    assert (described["format"], described["steps"], described["bits"]) == ("nir", 3, 8)
    assert nir_writer.read(snn / "nir/network.nir").steps == 3
    vectors = bundle_writer.load_vectors(snn / "fixed_point")
    for name in ("one_shot", "stepped"):
        run = stablehlo.read(snn / f"stablehlo/{name}.stablehlo").call
        ours = jax.jit(one_shot(network))(vectors["input"])
        theirs = run(vectors["input"])
        jax.tree.map(np.testing.assert_array_equal, tuple(ours), tuple(theirs))


def test_the_folder_of_integers_and_another_place_do_as_well(
    run_folder, tmp_path, monkeypatch
):
    monkeypatch.setitem(FORMATS, "empty", Format("", "", lambda *_: None))
    bundle = str(run_folder / "snn/fixed_point")
    export.main(["--ckpt", bundle, "--to", "empty", "--out", str(tmp_path / "there")])
    assert {*written(tmp_path / "there/empty")} == {"export.json"}


def test_an_export_replaces_an_earlier_one_and_nothing_else(run_folder, monkeypatch):
    def write(network, vectors, folder):
        (folder / "steps").write_text(str(network.steps))

    monkeypatch.setitem(FORMATS, "mine", Format("", "", write))
    command, folder = (
        ["--ckpt", str(run_folder), "--to", "mine"],
        run_folder / "snn/mine",
    )
    export.main(command)
    (folder / "left").write_text("of an earlier version")
    export.main(command)
    assert {*written(folder)} == {"steps", "export.json"}
    (folder / "export.json").write_text('{"format": "theirs"}')
    before = written(folder)
    with pytest.raises(SystemExit):
        export.main(command)
    assert written(folder) == before


@pytest.mark.parametrize("results", ['{"steps": []}', None])
def test_integers_of_another_conversion_are_not_taken(results, run_folder, capsys):
    path = run_folder / "snn/conversion.json"
    path.unlink()
    if results:
        path.write_text(results)
    with pytest.raises(SystemExit):
        export.main(["--ckpt", str(run_folder), "--to", "verilog"])
    assert "is not of the last conversion of" in capsys.readouterr().err
    assert not (run_folder / "snn/verilog").exists()


def test_what_fails_leaves_the_earlier_export(run_folder, monkeypatch, capsys):
    def missing(network, vectors, folder):
        (folder / "half").write_text("")
        import no_such_library  # noqa: F401

    def refused(network, vectors, folder):
        raise ValueError("layer1: no form here")

    command, folder = (
        ["--ckpt", str(run_folder), "--to", "mine"],
        run_folder / "snn/mine",
    )
    monkeypatch.setitem(FORMATS, "mine", Format("", "", lambda *_: None))
    export.main(command)
    before = written(folder)
    for write, said in (
        (missing, "no_such_library: install it with pip install 'bitsnn-jax[mine]'"),
        (refused, "layer1: no form here"),
    ):
        monkeypatch.setitem(FORMATS, "mine", Format("", "mine", write))
        with pytest.raises(SystemExit):
            export.main(command)
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
        assert written(folder) == before
    names = {path.name for path in folder.parent.iterdir()}
    assert names == {"conversion.json", "fixed_point", "mine"}


def test_damaged_integers_are_not_exported(run_folder, capsys):
    arrays = run_folder / "snn/fixed_point/network.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-1] + b"x")
    with pytest.raises(SystemExit):
        export.main(["--ckpt", str(run_folder), "--to", "nir"])
    assert "network.safetensors" in capsys.readouterr().err
    assert not (run_folder / "snn/nir").exists()
