"""The second reading of an export: it agrees with the first, and needs NumPy only."""

import dataclasses
import functools
import shutil
import subprocess
import sys

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

from bitsnn_jax import referee
from bitsnn_jax.exports import bundle_writer
from bitsnn_jax.integers import operations
from bitsnn_jax.integers.execution import stepped
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.integers.graph import Conv, Dense, Move, Reshape, Shift, Term, WindowSum
from bitsnn_jax.integers.network import IntegerNetwork, IntegerNode

ODD = (Residual, Convolutions, Pooling, Inverted, Reshaped, Concatenated)
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3))


@functools.cache
def simulated(network, steps):
    network = fixed_point(lowered(network), steps=steps)
    return network, jax.jit(stepped(network))(IMAGES)


@pytest.mark.parametrize(
    "steps, coding", [(1, "bits"), (4, "bits"), (4, "signed_digits")]
)
@pytest.mark.parametrize("network", ODD)
def test_every_spike_output_and_count_agrees(network, steps, coding, tmp_path):
    network, expected = simulated(network, steps)
    bundle_writer.save(network, tmp_path / "net")
    read, counts = referee.read(tmp_path / "net")._replace(coding=coding), {}
    for i, image in enumerate(IMAGES):
        result = referee.run(read, image, counts)
        for name, codes in expected.codes.items():
            np.testing.assert_array_equal(
                referee.pack(result.spikes[name])[0], codes[i], err_msg=name
            )
        for name, output in expected.outputs.items():
            np.testing.assert_array_equal(result.outputs[name][0], output[i])
    # Counted from codes there, and spike by spike here.
    formula = operations.count(
        network, expected.codes, examples=len(IMAGES), coding=coding
    )
    for node in formula.nodes:
        counted = counts[node.name]
        assert tuple(counted.spikes) == node.spikes, node.name
        for field in operations.COUNTS:
            if field != "code_multiply_accumulates":
                where = f"{field} of {node.name}"
                assert getattr(counted, field) == getattr(node, field), where
    assert sum(c.synaptic_operations for c in counts.values()) > 0


def tiny():
    """Three pixels, three neurons, two outputs; T = 2."""
    conv = Conv(
        np.array([0, 1, 0], np.int8).reshape(3, 1, 1), (1,), ((1, 1),), (1,), (1,), 1
    )
    pool = WindowSum((1, 2, 1), (1, 1, 1), ((0, 0), (0, 0), (0, 0)))
    dense = Dense(np.array([[1, 2], [3, -1]], np.int8))
    after = (Shift(1),)
    terms = (
        (Term("input", (), conv, ()),),
        (Term("a", (pool, Reshape((1, 2))), dense, after),),
    )
    return IntegerNetwork(
        (
            IntegerNode("input", "input", (1, 3, 1), bound=255),
            IntegerNode("a", "neurons", (1, 3, 1), terms[0], bound=1000),
            IntegerNode(
                "output",
                "output",
                (1, 2),
                terms[1],
                bias=np.array([5, -3], np.int32),
                bound=1000,
            ),
        ),
        steps=2,
        bits=8,
        white=255,
    )


def test_operations_of_a_tiny_network_are_those_counted_by_hand(tmp_path):
    bundle_writer.save(tiny(), tmp_path / "net")
    counts = {}
    image = np.array([0, 1, 9]).reshape(3, 1)
    result = referee.run(referee.read(tmp_path / "net"), image, counts)
    # Codes 0, 1 and 3 (9 is clipped): the spikes of the two steps are 001 and 011.
    assert result.spikes["a"].astype(int).reshape(2, 3).tolist() == [
        [0, 0, 1],
        [0, 1, 1],
    ]
    # Windows hold 0 + 1 and 1 + 3; 2 * (1 * 1 + 4 * 3) + 5, 2 * (1 * 2 - 4 * 1) - 3.
    assert result.outputs["output"].tolist() == [[31, -7]]
    assert dataclasses.asdict(counts["a"]) == {
        "spikes": [1, 2],
        "synaptic_operations": 0,
        "multiply_accumulates": 7,  # 3 * 3 places of the window less 2 outside
        "lookups": 0,
        "bias_additions": 6,  # 2 steps * 3
        "shifts": 0,  # the image has no steps
        "compares": 6,
        "resets": 3,
        "routine_products": 0,
        "routine_additions": 0,
        "membrane_reads": 7 + 6 + 6,
        "membrane_writes": 7 + 6 + 3,
        "largest": 9,
        "overflows": 0,
    }
    assert dataclasses.asdict(counts["output"]) == {
        "spikes": [],
        # Pixel 2 lies in one window and fires twice, pixel 1 in two and fires once;
        # each window goes to 2 outputs.
        "synaptic_operations": (1 * 2 + 2 * 1) * 2,
        "multiply_accumulates": 0,
        "lookups": 0,
        "bias_additions": 4,
        "shifts": 2 + 2 * 2,  # step 1; and the term's own, at both steps
        "compares": 0,
        "resets": 0,
        "routine_products": 0,
        "routine_additions": 0,
        "membrane_reads": 8 + 4,
        "membrane_writes": 8 + 4,
        "largest": 31,
        "overflows": 0,
    }
    assert counts["output"].weight_reads == 8
    assert counts["input"] == referee.Counts()


def test_numbers_are_moved_and_pooled_as_spikes_are(tmp_path):
    # Entry 1 goes to two places, entry 0 to none, and the order is turned round.
    move = Move(np.array([[[3], [1], [-1], [1], [2]]], np.int32))
    pool = WindowSum((1, 3, 1), (1, 2, 1), ((0, 0), (1, 0), (0, 0)))
    dense = Dense(np.array([[1, -2], [3, 5]], np.int8))
    term = Term("input", (move, pool, Reshape((1, 2))), dense, ())
    network = IntegerNetwork(
        (
            IntegerNode("input", "input", (1, 4, 1), bound=255),
            IntegerNode("output", "output", (1, 2), (term,), bound=10_000),
        ),
        steps=2,
        bits=8,
        white=255,
    )
    bundle_writer.save(network, tmp_path / "net")
    counts = {}
    image = np.array([7, 10, 20, 40]).reshape(4, 1)
    result = referee.run(referee.read(tmp_path / "net"), image, counts)
    # Moved: 40 10 0 10 20; windows: 40 + 10 and 10 + 0 + 10.
    assert result.outputs["output"].tolist() == [[50 + 3 * 20, -2 * 50 + 5 * 20]]
    assert counts["output"].multiply_accumulates == (2 + 2) * 2


def test_a_sum_is_rounded_to_the_nearest_and_upwards_at_ties(tmp_path):
    def to(source, kernel):
        return (Term(source, (), Dense(kernel), ()),)

    signs = np.diag([1, 1, -1, -1]).astype(np.int8)
    network = IntegerNetwork(
        (
            IntegerNode("input", "input", (1, 4), bound=255),
            IntegerNode(
                "rounded",
                "sum",
                (1, 4),
                to("input", signs),
                fraction=np.array(2, np.int32),
                bound=260,
            ),
            IntegerNode(
                "output",
                "output",
                (1, 4),
                to("rounded", np.eye(4, dtype=np.int8)),
                bound=70,
            ),
        ),
        steps=4,
        bits=8,
        white=255,
    )
    bundle_writer.save(network, tmp_path / "net")
    image = np.array([5, 6, 6, 7])
    result = referee.run(referee.read(tmp_path / "net"), image)
    # A quarter each: 1.25, 1.5, -1.5 and -1.75.
    assert result.outputs["output"].tolist() == [[1, 2, -1, -2]]
    expected = stepped(network)(image[None]).outputs["output"]
    np.testing.assert_array_equal(result.outputs["output"], expected)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "net"
    network = fixed_point(lowered(Pooling), steps=4)
    bundle_writer.save(network, folder, vectors=IMAGES)
    return folder


@pytest.fixture
def folder(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "net")


def test_a_copy_of_the_file_runs_where_there_is_no_jax(folder, tmp_path):
    script = shutil.copy(referee.__file__, tmp_path / "alone.py")
    program = (
        "import runpy, sys\n"
        "for name in ('jax', 'jaxlib', 'flax', 'bitsnn_jax', 'safetensors'):\n"
        "    sys.modules[name] = None\n"  # importing it is an error
        f"sys.argv = ['alone.py', {str(folder)!r}, '--limit', '1']\n"
        f"runpy.run_path({str(script)!r}, run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "spikes agree, and all outputs (1 examples)" in done.stdout
    assert not done.stderr


def test_the_first_wrong_spike_is_named(folder, capsys):
    def flip(arrays):
        arrays["codes/QCFS_1"] = arrays["codes/QCFS_1"].copy()
        arrays["codes/QCFS_1"][1, 2, 3, 4] ^= 4  # bit 2 of 4: the spike of step 2

    change_arrays(folder, flip, "vectors.safetensors")
    assert referee.main([str(folder)]) == 1
    assert "QCFS_1, example 1, entry (2, 3, 4), step 2: expected" in (
        capsys.readouterr().out
    )
    assert referee.main([str(folder), "--limit", "1"]) == 0


def test_a_wrong_output_is_named(folder, capsys):
    def change(arrays):
        arrays["outputs/output"] = arrays["outputs/output"] + np.int32([0, 0, 1])

    change_arrays(folder, change, "vectors.safetensors")
    assert referee.main([str(folder)]) == 1
    assert "output, example 0, entry (2,), expected" in capsys.readouterr().out


def changed_text(change):
    return lambda folder: change_text(folder, change)


def changed_arrays(change, name="network.safetensors"):
    return lambda folder: change_arrays(folder, change, name)


def replaced(content, name="network.json"):
    return lambda folder: (folder / name).write_bytes(content)


def cut(folder):
    path = folder / "network.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def weight_of(text):
    return text["nodes"][1]["terms"][0]["weight"]


KERNEL = "QCFS_0/terms/0/weight/kernel"
# Of 5 x 5 entries, as many as there were: nine of them are 25**9 ways.
WINDOWS = {
    "op": "WindowSum",
    "window": [1, 5, 5, 1],
    "strides": [1, 1, 1, 1],
    "padding": [[0, 0], [2, 2], [2, 2], [0, 0]],
}
UNREADABLE = {
    "version": (changed_text(lambda t: t.update(version=1)), "version 1: export the"),
    "cut": (cut, "network.safetensors: damaged"),
    "operation": (
        changed_text(lambda t: t["nodes"][1]["terms"][0]["weight"].update(op="Fft")),
        "QCFS_0: unknown operation 'Fft'",
    ),
    "kind": (
        changed_text(lambda t: t["nodes"][1].update(kind="relu")),
        "QCFS_0: unknown kind 'relu'",
    ),
    "source": (
        changed_text(lambda t: t["nodes"][1]["terms"][0].update(source="x")),
        "QCFS_0: there is no 'x'",
    ),
    "shape": (
        changed_text(lambda t: t["nodes"][1].update(shape=[1, 8, 8, 5])),
        "QCFS_0: a term of shape (1, 8, 8, 6)",
    ),
    "bound": (
        changed_text(lambda t: t["nodes"][1].update(bound=7)),
        "QCFS_0: a membrane of",
    ),
    "text": (replaced(b"{"), "network.json"),
    "list": (replaced(b"[]"), "network.json: no JSON object"),
    "deep": (replaced(b"[" * 100_000), "network.json: RecursionError"),
    "no text": (replaced(b"\xff"), "network.json: UnicodeDecodeError"),
    "checksum": (
        lambda folder: (folder / "network.json").write_text(
            (folder / "network.json").read_text().replace('"bits": 8', '"bits": 7')
        ),
        "network.json: damaged: another checksum",
    ),
    "steps": (changed_text(lambda t: t.update(steps=10**9)), "steps must be 1 to 30"),
    "half a step": (changed_text(lambda t: t.update(steps=0.5)), "a whole number"),
    "null": (changed_text(lambda t: t.update(nodes=None)), "no list of nodes"),
    "files": (changed_text(lambda t: t.update(files=7)), "files is no object"),
    "name": (changed_text(lambda t: t["nodes"][1].update(name="a\nb")), "the name"),
    "huge": (
        changed_text(lambda t: t["nodes"][0].update(shape=[1, 2**20, 2**20, 3])),
        "input: more entries than",
    ),
    "many large layers": (
        changed_text(lambda t: t["nodes"][0].update(shape=[1, 2**11, 2**11, 2])),
        "input: more entries than",
    ),
    "huge padding": (
        changed_text(lambda t: weight_of(t).update(padding=[[2**23, 0], [2**23, 0]])),
        "QCFS_0: 70,368,878,395,456 entries, more than",
    ),
    "amount": (
        changed_text(
            lambda t: t["nodes"][1]["terms"][0].update(
                after=[{"op": "Shift", "amount": 2**40}]
            )
        ),
        "QCFS_0: amount must be 0 to 30",
    ),
    "windows of windows": (
        changed_text(lambda t: t["nodes"][1]["terms"][0].update(before=[WINDOWS] * 9)),
        " pairs, more than 8,388,608",
    ),
    "type": (
        changed_arrays(
            lambda a: a.update({KERNEL: a[KERNEL].astype(np.int16)}),
        ),
        "QCFS_0: kernel is int16, not int8",
    ),
    "no examples": (
        changed_arrays(
            lambda a: a.update({"input": np.zeros((2, 0), np.uint8)}),
            "vectors.safetensors",
        ),
        "vectors.safetensors: input has 0 entries, its layer 192",
    ),
    "no vectors": (
        changed_text(lambda t: t["files"].pop("vectors.safetensors")),
        "no 'input' to compare with",
    ),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_an_unreadable_folder_is_one_line_and_status_2(folder, case, capsys):
    damage, message = UNREADABLE[case]
    damage(folder)
    assert referee.main([str(folder)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
