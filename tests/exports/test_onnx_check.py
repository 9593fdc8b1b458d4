"""The script of an export: it agrees, or says in one line what does not."""

import subprocess
import sys

import numpy as np
import pytest
from networks import PIXELS

from bitsnn_jax import qcfs
from bitsnn_jax.exports import onnx_check
from bitsnn_jax.exports.onnx_check import VECTORS, sealed, unsealed
from bitsnn_jax.integers.execution import one_shot
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.integers.lowering import lower

RNG = np.random.default_rng(0)
ARRAYS = {
    "input": PIXELS,
    "codes/a": RNG.integers(0, 9, (3, 5)).astype(np.uint16),
    "outputs/out": RNG.integers(-99, 99, (3, 2)).astype(np.int32),
}


def test_test_vectors_are_read_as_they_were_written():
    facts, arrays = unsealed(sealed({"one_shot.onnx": b"abc"}, ARRAYS))
    assert facts["sha256 one_shot.onnx"].startswith("ba7816bf")
    assert arrays.keys() == ARRAYS.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, ARRAYS[name])
        assert array.dtype == ARRAYS[name].dtype


@pytest.mark.parametrize("place", [0, 9, 40, 120, 300, -1])
def test_no_changed_byte_is_read(place):
    data = bytearray(sealed({}, ARRAYS))
    data[place] ^= 1
    with pytest.raises(onnx_check.CheckError):
        unsealed(bytes(data))


def test_safetensors_reads_them_too():
    from safetensors.numpy import load

    for name, array in load(sealed({}, ARRAYS)).items():
        np.testing.assert_array_equal(array, ARRAYS[name])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An export with test vectors."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from bitsnn_jax.exports.onnx_writer import write

    weights = RNG.normal(size=(192, 4)), RNG.normal(size=(4, 3))

    def apply_fn(theta, x):
        return qcfs((x / 255).reshape(len(x), -1) @ weights[0], theta) @ weights[1]

    graph = lower(apply_fn, np.float32(8), np.zeros((1, 8, 8, 3), np.float32))
    network = fixed_point(graph, steps=4)
    result = one_shot(network)(PIXELS)
    vectors = {"input": PIXELS}
    vectors |= {f"codes/{k}": np.uint8(v) for k, v in result.codes.items()}
    vectors |= {f"outputs/{k}": np.asarray(v) for k, v in result.outputs.items()}
    folder = tmp_path_factory.mktemp("onnx")
    write(network, vectors, folder)
    return folder


def checked(folder, *options):
    """Run the script as it lies there, away from the package."""
    command = [sys.executable, "check.py", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    line = (done.stdout + done.stderr).strip()
    assert len(line.splitlines()) == 1, line
    return done.returncode, line


def copied(folder, tmp_path, name, change):
    """The export with a file changed."""
    for path in folder.iterdir():
        data = path.read_bytes()
        (tmp_path / path.name).write_bytes(change(data) if path.name == name else data)
    return tmp_path


def test_an_export_agrees_with_its_test_vectors(folder):
    names = {"one_shot.onnx", "stepped.onnx", VECTORS, "check.py"}
    assert {path.name for path in folder.iterdir()} == names
    assert "bitsnn_jax" not in (folder / "check.py").read_text().split('"""')[2]
    code, line = checked(folder)
    assert (code, line[:39]) == (0, "all 42 codes and logits of 3 inputs agr")
    assert checked(folder, "--limit", "1")[1].startswith("all 14 codes and logits of 1")


def test_a_differing_code_is_named(folder, tmp_path):
    def change(data):
        facts, arrays = unsealed(data)
        [name] = [name for name in arrays if name.startswith("codes/")]
        arrays[name] = arrays[name].copy()
        arrays[name][2, 1] ^= 4
        models = {m: (folder / m).read_bytes() for m in onnx_check.MODELS}
        return sealed(models, arrays)

    code, line = checked(copied(folder, tmp_path, VECTORS, change))
    assert code == 1 and "one_shot.onnx: codes/" in line
    assert "differs first at example 2, place [1]: " in line


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("stepped.onnx", lambda data: data[:-1], "stepped.onnx is damaged"),
        (VECTORS, lambda data: data[:-1] + b"!", "its checksum is another"),
        (VECTORS, lambda data: b"", "is damaged, or not a file of test vectors"),
        (
            VECTORS,
            lambda data: data.replace(b'"version": "1"', b'"version": "2"'),
            "has version 2, this script reads 1: take both from one export",
        ),
    ],
)
def test_damaged_files_are_named(folder, tmp_path, name, change, message):
    code, line = checked(copied(folder, tmp_path, name, change))
    assert code == 2 and message in line


def test_an_export_without_test_vectors_says_so(folder, tmp_path):
    def change(data):
        models = {m: (folder / m).read_bytes() for m in onnx_check.MODELS}
        return sealed(models, {})

    code, line = checked(copied(folder, tmp_path, VECTORS, change))
    assert code == 2 and "holds no inputs" in line


def test_a_missing_file_is_named(folder, tmp_path):
    copied(folder, tmp_path, "", bytes)
    (tmp_path / "one_shot.onnx").unlink()
    code, line = checked(tmp_path)
    assert code == 2 and "one_shot.onnx cannot be read: No such file" in line
