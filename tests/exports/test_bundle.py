"""Networks of integers on disk: the same ones come back, or a clear error does."""

import functools
import json
import os
import shutil

import jax
import numpy as np
import pytest
from damaged_bundles import change_arrays, change_text
from networks import (
    Concatenated,
    Convolutions,
    Inverted,
    Pooling,
    Reshaped,
    Residual,
    lowered,
)

from bitsnn_jax.exports import bundle_writer
from bitsnn_jax.exports.bundle_writer import ExchangeError
from bitsnn_jax.integers.execution import one_shot
from bitsnn_jax.integers.fixed_point import fixed_point

ODD = (Residual, Convolutions, Pooling, Inverted, Reshaped, Concatenated)
FILES = ["network.json", "network.safetensors", "vectors.safetensors"]


@functools.cache
def integer_network(network, steps=4):
    return fixed_point(lowered(network), steps=steps)


def images(n=2):
    return np.random.default_rng(0).integers(0, 256, (n, 8, 8, 3))


def assert_same(a, b):
    """Type, names and every array, with its type."""
    if isinstance(a, tuple):
        assert type(a) is type(b) and len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, (np.ndarray, np.generic)):
        assert np.asarray(a).dtype == b.dtype and a.shape == b.shape
        np.testing.assert_array_equal(a, b)
    else:
        assert a == b


@pytest.mark.parametrize("network", ODD)
def test_a_network_comes_back_array_by_array(network, tmp_path):
    saved = integer_network(network)
    bundle_writer.save(saved, tmp_path / "net")
    loaded = bundle_writer.load(tmp_path / "net")
    assert (loaded.steps, loaded.bits, loaded.white) == (4, 8, 255)
    assert_same(saved.nodes, loaded.nodes)
    assert bundle_writer.load_vectors(tmp_path / "net") == {}


def test_vectors_are_what_one_shot_computes(tmp_path):
    network, x = integer_network(Pooling), images()
    bundle_writer.save(network, tmp_path / "net", vectors=x)
    vectors = bundle_writer.load_vectors(tmp_path / "net")
    result = jax.jit(one_shot(network))(x)
    np.testing.assert_array_equal(vectors.pop("input"), x)
    for prefix, arrays in (("codes", result.codes), ("outputs", result.outputs)):
        for name, array in arrays.items():
            np.testing.assert_array_equal(vectors.pop(f"{prefix}/{name}"), array)
    assert not vectors


def test_vectors_as_arrays_are_stored_as_they_are(tmp_path):
    network = integer_network(Residual)
    bundle_writer.save(network, tmp_path / "a", vectors=images())
    vectors = bundle_writer.load_vectors(tmp_path / "a")
    bundle_writer.save(network, tmp_path / "b", vectors=vectors)
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (
            tmp_path / "b" / name
        ).read_bytes()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "net"
    bundle_writer.save(integer_network(Residual), folder, vectors=images())
    return folder


@pytest.fixture
def folder(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "net")


def put(path, value):
    """A change of the text: text[path[0]][path[1]]... = value."""

    def change(text):
        for key in path[:-1]:
            text = text[key]
        text[path[-1]] = value

    return change


# Node 1 is QCFS_0, fed by the input; node 3 is QCFS_2, with a Scale; 5 is the output.
WEIGHT = ("nodes", 1, "terms", 0, "weight")
BROKEN_TEXTS = {
    "format": (put(["format"], "onnx"), "the format is not 'bitsnn'"),
    "version": (put(["version"], 5), "version 5; this reader knows 4"),
    "version 1": (
        put(["version"], 1),
        "version 1 and has no checksum: export the network anew; this reader knows 4",
    ),
    "steps": (put(["steps"], 0), "network.json: steps must be"),
    "endless steps": (put(["steps"], 10**9), "network.json: steps must be at most 30"),
    "bits": (put(["bits"], 9), "network.json: bits 9"),
    "too few bits": (put(["bits"], 4), "QCFS_0: a weight of .* does not fit 4 bits"),
    "kind": (put(["nodes", 1, "kind"], "relu"), "QCFS_0: unknown kind 'relu'"),
    "operation": (put([*WEIGHT, "op"], "Fft"), "QCFS_0: unknown operation 'Fft'"),
    "structure as weight": (put([*WEIGHT, "op"], "Sum"), "QCFS_0: unknown operation"),
    "source": (
        put(["nodes", 1, "terms", 0, "source"], "QCFS_2"),
        "QCFS_0: its source 'QCFS_2' does not come before",
    ),
    "two of a name": (put(["nodes", 2, "name"], "QCFS_0"), "QCFS_0: there are two"),
    "no name": (put(["nodes", 2], {}), "network.json: node 2: name must be str"),
    "array name": (put([*WEIGHT, "kernel"], "W"), "QCFS_0: no array 'W'"),
    "strides": (put([*WEIGHT, "strides"], [2, 2]), "QCFS_0: what comes from input has"),
    "zero stride": (put([*WEIGHT, "strides"], [0, 1]), "QCFS_0: strides must"),
    "huge": (
        put(["nodes", 0, "shape"], [1, 2**20, 2**20, 3]),
        "input: shape: 3,298,534,883,328 entries; at most 16,777,216 are read",
    ),
    "nothing": (put(["nodes", 0, "shape"], [1, 0, 8, 3]), "input: shape must be above"),
    "huge padding": (
        put([*WEIGHT, "padding"], [[2**40, -(2**40)], [1, 1]]),
        "QCFS_0: Conv does not fit",
    ),
    "huge padding on the way": (
        put([*WEIGHT, "padding"], [[2**40, 1], [1, 1]]),
        "QCFS_0: Conv: padded: .* entries; at most 16,777,216 are read",
    ),
    "a window beyond its input": (
        put([*WEIGHT, "rhs_dilation"], [2**40, 1]),
        "QCFS_0: Conv does not fit .* is larger than",
    ),
    "groups": (put([*WEIGHT, "groups"], 2), "QCFS_0: Conv does not fit"),
    "padding": (put([*WEIGHT, "padding"], [[1], [1]]), "QCFS_0: padding must"),
    "axes": (
        put(["nodes", 5, "terms", 0, "before", 0, "axes"], [1, 9]),
        "output: Sum does not fit",
    ),
    "bound": (put(["nodes", 1, "bound"], 2**31), "QCFS_0: a bound of 2147483648"),
    "small bound": (put(["nodes", 1, "bound"], 5), "QCFS_0: its sum can reach"),
    "maximum": (put(["nodes", 3, "kind"], "maximum"), "QCFS_2: a node of kind"),
    "second input": (put(["nodes", 2, "kind"], "input"), "QCFS_1: the first node"),
    "nodes": (put(["nodes"], []), "network.json: no nodes"),
    "checksums": (put(["files"], {}), "network.safetensors: damaged"),
}


@pytest.mark.parametrize("case", BROKEN_TEXTS)
def test_a_broken_text_is_an_error_that_names_the_layer(folder, case):
    change, message = BROKEN_TEXTS[case]
    change_text(folder, change)
    with pytest.raises(ExchangeError, match=message) as caught:
        bundle_writer.load(folder)
    assert "\n" not in str(caught.value)


def widen(name, dtype):
    return lambda arrays: arrays.update({name: arrays[name].astype(dtype)})


def fill(name, value):
    return lambda arrays: arrays.update({name: np.full_like(arrays[name], value)})


KERNEL = "QCFS_1/terms/0/weight/kernel"
BROKEN_ARRAYS = {
    "missing": (lambda arrays: arrays.pop(KERNEL), f"QCFS_1: no array '{KERNEL}'"),
    "kernel": (widen(KERNEL, np.int16), "QCFS_1: kernel must be int8, got int16"),
    "bias": (widen("output/bias", np.int64), "output: bias must be int32"),
    "shape": (
        lambda arrays: arrays.update({KERNEL: arrays[KERNEL][:, :, :4]}),
        "QCFS_1: Conv does not fit",
    ),
    "bias shape": (
        lambda arrays: arrays.update({"QCFS_1/bias": np.zeros(5, np.int32)}),
        r"QCFS_1: bias of shape \(5,\) does not broadcast",
    ),
    "-128": (fill(KERNEL, -128), "QCFS_1: a weight of 128 does not fit 8 bits"),
    "fraction": (fill("QCFS_1/fraction", -1), "QCFS_1: fraction must be 0 to 30"),
    "divided output": (fill("output/fraction", 1), "output: a node of kind 'output'"),
    "unit": (fill("QCFS_1/unit", np.nan), "QCFS_1: unit must be above 0"),
}


@pytest.mark.parametrize("case", BROKEN_ARRAYS)
def test_a_wrong_array_is_an_error_that_names_the_layer(folder, case):
    change, message = BROKEN_ARRAYS[case]
    change_arrays(folder, change)
    with pytest.raises(ExchangeError, match=message) as caught:
        bundle_writer.load(folder)
    assert "\n" not in str(caught.value)


def test_an_index_beyond_its_source_is_an_error(tmp_path):
    bundle_writer.save(integer_network(Reshaped), tmp_path / "net")
    change_arrays(tmp_path / "net", fill("QCFS_1/terms/0/before/0/index", 8 * 8 * 8))
    with pytest.raises(ExchangeError, match="QCFS_1: Move: an index beyond"):
        bundle_writer.load(tmp_path / "net")


def test_every_changed_byte_of_the_text_is_noticed(folder):
    path = folder / "network.json"
    whole = path.read_bytes()
    for at in (*range(0, len(whole), 37), *range(len(whole) - 70, len(whole))):
        changed = bytearray(whole)
        changed[at] ^= 1
        path.write_bytes(changed)
        with pytest.raises(ExchangeError, match="network.json: "):
            bundle_writer.load(folder)
    # Other bytes of the same values are another file, and so is one without checksum.
    text = json.loads(whole)
    path.write_text(json.dumps(text))
    with pytest.raises(ExchangeError, match="network.json: damaged, its checksum is"):
        bundle_writer.load(folder)
    text.pop("checksum")
    path.write_text(json.dumps(text))
    with pytest.raises(ExchangeError, match="network.json: damaged, it holds no check"):
        bundle_writer.load(folder)


@pytest.mark.parametrize("text", (b"[" * 100_000, b"[]", b"null", b"\xff", b"9" * 9999))
def test_a_text_that_is_no_network_is_one_line(folder, text):
    (folder / "network.json").write_bytes(text)
    with pytest.raises(ExchangeError, match="network.json: ") as caught:
        bundle_writer.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ("cut", "flipped", "gone"))
def test_a_damaged_file_is_an_error_that_names_it(folder, name, damage):
    data = (folder / name).read_bytes()
    if damage == "gone":
        (folder / name).unlink()
    elif damage == "cut":
        (folder / name).write_bytes(data[:-9])
    else:
        flipped = b"\xff" if name == "network.json" else bytes([data[-1] ^ 1])
        (folder / name).write_bytes(data[:-1] + flipped)
    with pytest.raises(ExchangeError, match=name):
        bundle_writer.load(folder)


def test_vectors_of_another_network_are_an_error(folder):
    change_arrays(folder, lambda v: v.pop("codes/QCFS_1"), "vectors.safetensors")
    with pytest.raises(ExchangeError, match="vectors: .*codes/QCFS_1"):
        bundle_writer.load(folder)


BAD_VECTORS = {
    "normalised": (images() / 255, "input must be integers 0 to 255"),
    "too bright": (images() + 1, "input must be integers 0 to 255"),
    "another size": (images()[:, :7], "input must be"),
    "outputs missing": ({"input": images()}, "vectors: missing, or of no layer"),
}


@pytest.mark.parametrize("case", BAD_VECTORS)
def test_bad_vectors_leave_nothing_behind(tmp_path, case):
    vectors, message = BAD_VECTORS[case]
    with pytest.raises(ExchangeError, match=message):
        bundle_writer.save(integer_network(Residual), tmp_path / "net", vectors=vectors)
    assert not any(tmp_path.iterdir())


def test_arrays_of_another_type_are_not_written(tmp_path):
    network = integer_network(Residual)
    wide = network.nodes[1]._replace(bias=network.nodes[1].bias.astype(np.int64))
    network = type(network)((network.nodes[0], wide), 4, 8, 255)
    with pytest.raises(ExchangeError, match="QCFS_0: bias must be int32, got int64"):
        bundle_writer.save(network, tmp_path / "net")
    assert not any(tmp_path.iterdir())


def test_what_could_not_be_read_is_not_put_in_place(folder):
    network = integer_network(Residual)
    wide = network.nodes[1]._replace(bound=2**31)
    broken = type(network)((network.nodes[0], wide), 4, 8, 255)
    with pytest.raises(ExchangeError, match="QCFS_0: a bound of 2147483648 does not"):
        bundle_writer.save(broken, folder)
    assert_same(network.nodes, bundle_writer.load(folder).nodes)
    assert [path.name for path in folder.parent.iterdir()] == ["net"]


def test_an_export_is_replaced_as_a_whole(folder):
    bundle_writer.save(integer_network(Pooling), folder)
    assert sorted(os.listdir(folder)) == FILES[:2]
    assert_same(integer_network(Pooling).nodes, bundle_writer.load(folder).nodes)
    assert [path.name for path in folder.parent.iterdir()] == ["net"]


def test_an_empty_folder_is_filled(tmp_path):
    bundle_writer.save(integer_network(Residual), tmp_path)
    assert sorted(os.listdir(tmp_path)) == FILES[:2]


def foreign_file(folder):
    (folder / "thesis.tex").write_text("years of work")


def other_json(folder):
    (folder / "network.json").write_text('{"format": "other"}')


def a_file(folder):
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    folder.write_text("years of work")


@pytest.mark.parametrize("make", (foreign_file, other_json, a_file))
def test_what_is_no_export_is_not_overwritten(folder, make):
    make(folder)

    def seen():
        paths = sorted(folder.parent.rglob("*"))
        return [(path, path.read_bytes()) for path in paths if path.is_file()]

    before = seen()
    with pytest.raises(ExchangeError, match="not an exported network"):
        bundle_writer.save(integer_network(Residual), folder)
    assert seen() == before


@pytest.mark.parametrize("fails", ("fsync", "rename"))
def test_a_full_disk_leaves_the_old_export(folder, monkeypatch, fails):
    if fails == "fsync":
        target, name, real = os, "fsync", os.fsync
    else:
        target, name, real = type(folder), "rename", type(folder).rename
    calls = []

    def full(*args):
        calls.append(args)
        if len(calls) == 2:  # the second file; the new folder into its place
            raise OSError("No space left on device")
        return real(*args)

    monkeypatch.setattr(target, name, full)
    with pytest.raises(OSError, match="No space left"):
        bundle_writer.save(integer_network(Pooling), folder)
    monkeypatch.undo()
    assert_same(integer_network(Residual).nodes, bundle_writer.load(folder).nodes)
    assert [path.name for path in folder.parent.iterdir()] == ["net"]
