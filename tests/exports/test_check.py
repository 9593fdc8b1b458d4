"""The script of an export: it agrees, or says in one line what does not."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bitsnn_jax import qcfs
from bitsnn_jax.exports import bundle_writer, check
from bitsnn_jax.exports.formats import FORMATS
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.integers.lowering import lower

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (3, 4, 4, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A function that writes a network in a format, once."""
    weights = RNG.normal(size=(48, 4)), RNG.normal(size=(4, 3))
    scratch, found = tmp_path_factory.mktemp("exports"), {}

    def apply_fn(theta, x):
        return qcfs((x / 255).reshape(len(x), -1) @ weights[0], theta) @ weights[1]

    graph = lower(apply_fn, np.float32(8), np.zeros((1, 4, 4, 3), np.float32))
    network = fixed_point(graph, steps=4)
    bundle_writer.save(network, scratch / "bundle", vectors=PIXELS)
    vectors = bundle_writer.load_vectors(scratch / "bundle")

    def export(name):
        if name not in found:
            found[name] = scratch / name
            found[name].mkdir()
            FORMATS[name].write(network, vectors, found[name])
        return found[name]

    return export


@pytest.fixture
def folder(exported, tmp_path):
    """An export for JAX, to change."""
    pytest.importorskip("flatbuffers")
    return shutil.copytree(exported("stablehlo"), tmp_path / "export")


def changed(folder, change):
    """Write the test vectors anew, otherwise."""
    with np.load(folder / check.VECTORS) as file:
        arrays = dict(file)
    change(arrays)
    np.savez(folder / check.VECTORS, **arrays)


RUNTIMES = {"onnxruntime": "onnx", "qonnx": "qonnx", "jax": "stablehlo"}
RUNTIMES |= dict.fromkeys(
    ("nirtorch", "snntorch", "norse", "sinabs", "spikingjelly"), "nir_stock"
)
NEEDED = {"onnx": "onnx", "qonnx": "onnx", "stablehlo": "flatbuffers"}


@pytest.mark.parametrize("runtime", check.RUNTIMES)
def test_every_runtime_finds_all_codes_and_outputs(runtime, exported):
    pytest.importorskip(NEEDED.get(RUNTIMES[runtime], "nirtorch"))
    pytest.importorskip("norse.torch" if runtime == "norse" else runtime)
    found = check.compare(exported(RUNTIMES[runtime]), runtime)
    files = len(check.RUNTIMES[runtime].files)
    assert (found.inputs, found.compared) == (3, 3 * 7 * files)
    assert not found.differing, found.first


def test_the_script_runs_where_the_package_is_not(folder):
    script = (folder / "check.py").read_text()
    assert "bitsnn_jax" not in script
    command = [sys.executable, "-I", str(folder / "check.py"), "--limit", "2"]
    done = subprocess.run(command, cwd=folder.parent, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    said = "all 28 codes and outputs of 2 inputs agree in one_shot.stablehlo and step"
    assert said in done.stdout and done.stdout.count("\n") == 1


def test_a_code_that_differs_is_named(folder, capsys):
    def change(arrays):
        [name] = [name for name in arrays if name.startswith("codes/")]
        arrays[name][2, 1] ^= 4

    changed(folder, change)
    assert check.main([str(folder)]) == 1
    line = capsys.readouterr().out
    assert "one_shot.stablehlo: codes/" in line
    assert "differs first at example 2, place [1]: " in line
    assert check.compare(folder, "jax").differing == 2  # once in each file
    assert check.main([str(folder), "--limit", "2"]) == 0


def cut(folder, name):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])


WRONG = {
    "stepped.stablehlo is damaged: its checksum is another": lambda folder: cut(
        folder, "stepped.stablehlo"
    ),
    "stepped.stablehlo cannot be read: No such file": lambda folder: (
        folder / "stepped.stablehlo"
    ).unlink(),
    "vectors.npz is damaged": lambda folder: cut(folder, "vectors.npz"),
    "vectors.npz is not there: export with test vectors": lambda folder: (
        folder / "vectors.npz"
    ).unlink(),
    "version 2, this script reads 1: take both from one export": lambda folder: changed(
        folder, lambda arrays: arrays.update(version=np.array(2))
    ),
    "vectors.npz holds no inputs: export with test vectors": lambda folder: changed(
        folder, lambda arrays: arrays.pop("input")
    ),
    "has no codes/other: take both from one export": lambda folder: changed(
        folder, lambda arrays: arrays.update({"codes/other": np.zeros((3, 1))})
    ),
    "holds no file of onnxruntime, qonnx, jax, nirtorch": lambda folder: [
        path.unlink() for path in folder.glob("*.stablehlo")
    ],
}


@pytest.mark.parametrize(("message", "change"), WRONG.items())
def test_a_folder_that_cannot_be_read_is_one_line(folder, message, change, capsys):
    change(folder)
    assert check.main([str(folder)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1, error


def test_a_runtime_that_is_missing_is_named(folder, monkeypatch, capsys):
    def missing(path):
        import no_such_runtime  # noqa: F401

    row = check.Runtime(("one_shot.stablehlo",), missing)
    monkeypatch.setitem(check.RUNTIMES, "jax", row)
    assert check.main([str(folder)]) == 2
    said = "error: no_such_runtime is not installed: pip install no_such_runtime\n"
    assert capsys.readouterr().err == said
    monkeypatch.setattr(check, "_is_installed", lambda name: False)
    assert check.main([str(folder)]) == 2
    assert "error: jax is not installed: pip install jax\n" == capsys.readouterr().err


def test_the_page_says_how_each_format_is_compared_and_runtimes_are_there():
    page = (Path(__file__).parents[2] / "docs" / "integers.md").read_text()
    rows = re.findall(
        r"^\| \[`(\w+)`\]\(exports\.md#\w+\) \| .* \| (.*) \| ", page, re.M
    )
    assert sorted(name for name, _ in rows) == sorted(FORMATS)
    compared = {name for name, how in rows if f"snn/{name}/check.py" in how}
    assert compared == {*RUNTIMES.values()} and {*RUNTIMES} == {*check.RUNTIMES}
