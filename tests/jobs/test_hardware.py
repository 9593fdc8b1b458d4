"""The part of the job about chips: what it finds is what the executions do."""

import jax
import numpy as np
import pytest

from bitsnn_jax import data
from bitsnn_jax.config import Data
from bitsnn_jax.integers.accumulators import Accumulator, bits_for
from bitsnn_jax.integers.execution import one_shot, stepped
from bitsnn_jax.integers.graph import Dense, Reshape, Term
from bitsnn_jax.integers.network import IntegerNetwork, IntegerNode
from bitsnn_jax.jobs.hardware import HeldRuns, in_lines, measure_hardware

SETTINGS = Data(name="digits")


def digits(count):
    pytest.importorskip("sklearn")
    return data.load(SETTINGS, "test").first(count)


def random_network():
    """Untrained weights on 64 pixels; T = 4."""
    rng = np.random.default_rng(0)
    first = Dense(rng.integers(-127, 128, (64, 16)).astype(np.int8))
    second = Dense(rng.integers(-127, 128, (16, 10)).astype(np.int8))
    white = 255
    nodes = (
        IntegerNode("input", "input", (1, 8, 8, 1), bound=white),
        IntegerNode(
            "a",
            "neurons",
            (1, 16),
            (Term("input", (Reshape((1, 64)),), first, ()),),
            fraction=np.array(13, np.int32),
            bound=10**7,
        ),
        IntegerNode(
            "output", "output", (1, 10), (Term("a", (), second, ()),), bound=10**6
        ),
    )
    return IntegerNetwork(nodes, 4, 8, white)


def test_codes_and_accuracy_in_narrow_membranes_are_those_of_the_execution():
    network, examples = random_network(), digits(30)
    run = HeldRuns(network, SETTINGS, examples)
    images = np.stack([examples[i]["image"] for i in range(30)])
    labels = np.array([examples[i]["label"] for i in range(30)])
    exact = jax.jit(one_shot(network))(images)
    ours = jax.jit(stepped(network, accumulator=Accumulator(15)))(images)
    found = run(Accumulator(15))
    predictions = ours.outputs["output"].argmax(-1)
    assert found.accuracy == (predictions == labels).mean()
    assert found.codes_differing == (ours.codes["a"] != exact.codes["a"]).sum() > 0
    differing = ours.outputs["output"] != exact.outputs["output"]
    assert found.outputs_differing == differing.sum()
    moved = predictions != exact.outputs["output"].argmax(-1)
    assert found.predictions_differing == moved.sum()
    assert (found.codes, found.outputs, found.overflowing) == (30 * 16, 300, ("a",))
    # A width that holds what is seen is not run, and changes nothing.
    enough = bits_for(-max(run.seen.values()), max(run.seen.values()))
    for bits, count in ((enough, 0), (enough - 1, found.codes)):
        assert run(Accumulator(bits, "wrap")).codes_differing in range(count + 1)


def test_each_chip_is_judged_by_its_limits(capsys):
    network = random_network()
    names = ("loihi2", "speck", "truenorth")
    [found] = measure_hardware([network], SETTINGS, digits(4), names=names)
    loihi, speck, truenorth = found.targets
    assert loihi.fits and loihi.membranes is None and loihi.fitting == 2
    assert not speck.fires and speck.membranes is not None
    assert {"accumulator_bits", "input_bits"} <= {u.limit for u in speck.unmet}
    assert truenorth.membranes is None
    assert "accumulator_bits" in truenorth.unpublished
    assert capsys.readouterr().out == f"{in_lines(found)}\n"
    assert "Loihi 2    2 of 2            nothing" in in_lines(found)
