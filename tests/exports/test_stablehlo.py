"""StableHLO: the file alone, in another process, gives the same bits."""

import hashlib
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitsnn_jax import qcfs, spiking
from bitsnn_jax.exports.stablehlo import ArtefactError, described_in, read, write
from bitsnn_jax.integers.execution import one_shot
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.integers.lowering import lower
from bitsnn_jax.runtime.reading import sealed

RNG = np.random.default_rng(0)
W = np.float32(RNG.normal(size=(3, 3, 2, 4)))
V = np.float32(RNG.normal(size=(4, 3)))
PIXELS = RNG.integers(0, 256, (5, 6, 6, 2)).astype(np.uint8)

# Without this package. Two sizes of batch, saved one after the other.
ALONE = """
import sys
import jax, numpy as np
from jax import export

program, inputs, outputs = sys.argv[1:]
exported = export.deserialize(bytearray(open(program, "rb").read()))
x = np.load(inputs)
leaves = [*jax.tree.leaves(exported.call(x)), *jax.tree.leaves(exported.call(x[:2]))]
assert not any(name.startswith("bitsnn") for name in sys.modules)
np.savez(outputs, *map(np.asarray, leaves))
"""


def apply_fn(theta, x):
    y = jax.lax.conv_general_dilated(
        x / 64, W, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return qcfs(y, theta).mean((1, 2)) @ V


def integers():
    graph = lower(apply_fn, np.float32(3), np.zeros((1, 6, 6, 2), np.float32))
    return one_shot(fixed_point(graph, steps=4))


def fused(x):
    snn = spiking(apply_fn, steps=4, mode="fused")
    return snn(jnp.float32(3), x.astype(jnp.float32))[0]


def alone(path, x, folder):
    np.save(folder / "x.npy", x)
    command = [sys.executable, "-c", ALONE, str(path)]
    command += [str(folder / "x.npy"), str(folder / "y.npz")]
    subprocess.run(command, check=True, cwd=folder)
    return list(np.load(folder / "y.npz").values())


@pytest.mark.parametrize("is_exact", [True, False])
def test_a_fresh_process_gives_the_same_bits(is_exact, tmp_path):
    fn = integers() if is_exact else fused
    path = tmp_path / "net.stablehlo"
    write(path, fn, PIXELS[:1], steps=4)
    artefact = read(path)
    here = [artefact.call(x) for x in (PIXELS, PIXELS[:2])]
    there = alone(path, PIXELS, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(here), there)
    ours = jax.tree.leaves([jax.jit(fn)(x) for x in (PIXELS, PIXELS[:2])])
    for a, b in zip(ours, there, strict=True):
        # Floats are added up in another order: a few roundings of logits of size 1.
        np.testing.assert_allclose(a, b, rtol=0, atol=0 if is_exact else 1e-6)
    assert np.ptp(there[0])


def test_the_description_says_what_is_in_the_file(tmp_path):
    path = tmp_path / "net"
    write(path, integers(), jax.ShapeDtypeStruct((9, 6, 6, 2), np.uint8), steps=4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net", "net.json"]
    description = json.loads(described_in(path).read_text())
    checksum = description.pop("checksum")
    assert description == read(path).description
    empty = described_in(path).read_text().replace(checksum, "0" * 64)
    assert checksum == hashlib.sha256(empty.encode()).hexdigest()
    assert description["steps"] == 4
    assert description["inputs"] == [
        {"shape": ["batch", "6", "6", "2"], "type": "uint8"}
    ]
    assert description["outputs"] == [
        {"shape": ["batch", "3"], "type": "int32"},
        {"shape": ["batch", "6", "6", "4"], "type": "int32"},
    ]


def test_what_cannot_be_exported_leaves_everything_as_it_was(tmp_path):
    path = tmp_path / "net"
    path.write_text("there before")
    counts = spiking(apply_fn, steps=4, mode="fused")
    for fn, message in (
        (
            lambda x: counts(jnp.float32(3), x / 1),
            r"\(4,\) for a batch of 1: it has no",
        ),
        (lambda x: x @ np.ones(5), "net: cannot be exported: .*shape"),
        (lambda x: float(x[0, 0, 0, 0]), "net: cannot be exported: .*"),
    ):
        with pytest.raises(ArtefactError, match=message) as caught:
            write(path, fn, PIXELS, steps=4)
        assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["net"]
    assert path.read_text() == "there before"


def test_other_files_are_an_error_of_one_line(tmp_path):
    path = tmp_path / "net"
    write(path, lambda x: x / 2, PIXELS, steps=4)
    whole, description = path.read_bytes(), json.loads(described_in(path).read_text())

    def fails(message):
        with pytest.raises(ArtefactError, match=message) as caught:
            read(path)
        assert "\n" not in str(caught.value)

    def described(**changes):
        described_in(path).write_bytes(sealed(description | changes))

    path.write_bytes(whole[:-10])
    fails("net: truncated, damaged, or not the file")
    # Foreign contents with a description that fits.
    path.write_bytes(b"something else")
    described(sha256=hashlib.sha256(b"something else").hexdigest())
    fails("net: JAX cannot read it")
    path.write_bytes(whole)
    described()
    described_in(path).write_text(
        described_in(path).read_text().replace('"steps": 4', '"steps": 5')
    )
    fails("net.json: damaged, its checksum is another")
    described_in(path).write_text(json.dumps(description))
    fails("net.json: damaged, its checksum is another")
    described(format_version=1)
    fails("format version 1, which has no checksum: write the file anew; expected 2")
    described(format="another")
    fails("net.json: does not describe")
    described_in(path).write_text("[]")
    fails("net.json: does not describe")
    described_in(path).write_text("{")
    fails("net.json: no JSON")
    described_in(path).write_text("[" * 100_000)
    fails("net.json: no JSON that is meant: it is nested too deep")
    described_in(path).unlink()
    fails("net: cannot be read: .*No such file")
