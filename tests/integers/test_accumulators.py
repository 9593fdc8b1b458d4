"""Narrow membranes: the referee and the execution have the same spikes in them."""

from functools import cache

import jax
import numpy as np
import pytest

from bitsnn_jax import referee
from bitsnn_jax.exports import bundle_writer
from bitsnn_jax.integers.accumulators import OVERFLOWS, Accumulator
from bitsnn_jax.integers.execution import stepped
from bitsnn_jax.integers.graph import Dense, Scale, Shift, Term
from bitsnn_jax.integers.needs import layer_needs
from bitsnn_jax.integers.network import IntegerNetwork, IntegerNode, largest_sum
from bitsnn_jax.numerics.codings import CODINGS

SIZE, STEPS = 6, 3
IMAGES = np.random.default_rng(1).integers(0, 256, (5, SIZE))


@cache
def network():
    """Two layers of neurons, a sum between them, a skip, two outputs."""
    rng = np.random.default_rng(0)

    def dense(source, outputs=SIZE):
        kernel = rng.integers(-127, 128, (SIZE, outputs)).astype(np.int8)
        return Term(source, (), Dense(kernel), ())

    skip = Term("a", (), Scale(np.full((1, SIZE), -300, np.int16)), (Shift(1),))
    made = IntegerNetwork((IntegerNode("input", "input", (1, SIZE)),), STEPS, 8, 255)
    for name, kind, terms, fraction in (
        ("a", "neurons", (dense("input"),), 12),
        ("s", "sum", (dense("a"),), 2),
        ("b", "neurons", (dense("s"), dense("a"), skip), 10),
        ("output", "output", (dense("b"), dense("a")), 0),
    ):
        bias = rng.integers(-900, 900, (1, SIZE)).astype(np.int32)
        fraction = np.array(fraction, np.int32)
        node = IntegerNode(name, kind, (1, SIZE), terms, bias, fraction)
        node = node._replace(bound=largest_sum(node, made) + int(node.half))
        made = IntegerNetwork((*made.nodes, node), STEPS, 8, 255)
    return made


@cache
def held(overflow, coding="bits"):
    """The network in one program for all widths: (images, bits) -> Result."""
    run = jax.jit(lambda x, a: stepped(network(), accumulator=a, coding=coding)(x))
    return lambda images, bits: run(images, Accumulator(bits, overflow))


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("overflow", OVERFLOWS)
def test_the_referee_and_the_execution_agree_in_any_width(overflow, coding, tmp_path):
    bundle_writer.save(network(), tmp_path / "net", vectors=IMAGES)
    read = referee.read(tmp_path / "net")._replace(coding=coding)
    changed = 0
    for bits in (*range(4, 22, 2), 32):
        ours = held(overflow, coding)(IMAGES, bits)
        counts = {}
        for i, image in enumerate(IMAGES):
            theirs = referee.run(
                read, image, counts, referee.Accumulator(bits, overflow)
            )
            for name, codes in ours.codes.items():
                spikes = referee.pack(theirs.spikes[name])[0]
                np.testing.assert_array_equal(codes[i], spikes, f"{name}, {bits} bits")
            for name, output in ours.outputs.items():
                np.testing.assert_array_equal(output[i], theirs.outputs[name][0])
        for name, largest in ours.largest.items():
            assert counts[name].largest == largest.max(), (name, bits)
        changed += counts["b"].overflows > 0
    assert 3 < changed < 9  # some widths are too narrow, others are not


@pytest.mark.parametrize("overflow", OVERFLOWS)
def test_an_accumulator_that_is_wide_enough_changes_nothing(overflow):
    exact = jax.jit(stepped(network()))(IMAGES)
    assert exact.largest is None
    enough = max(need.accumulator_bits for need in layer_needs(network()))
    for bits in (enough, 32):
        ours = held(overflow)(IMAGES, bits)
        jax.tree.map(np.testing.assert_array_equal, exact, ours._replace(largest=None))
        for name, largest in ours.largest.items():
            assert 0 < largest.max() <= network()[name].bound


def test_wrapped_sums_do_not_depend_on_the_order_of_addition():
    numbers = np.random.default_rng(0).integers(-(2**9), 2**9, 30).astype(np.int32)
    register = Accumulator(8, "wrap")
    for order in (numbers, numbers[::-1], np.sort(numbers)):
        total = np.int32(0)
        for number in order:
            total = np.asarray(register.limited(total + number))
        assert total == register.limited(numbers.sum(dtype=np.int32))


def test_the_referee_reports_what_becomes_another(tmp_path, capsys):
    bundle_writer.save(network(), tmp_path / "net", vectors=IMAGES)
    folder = str(tmp_path / "net")
    assert referee.main([folder, "--accumulator", "32"]) == 0
    assert "0 of 60 codes and 0 of 30 outputs are others" in capsys.readouterr().out
    assert referee.main([folder, "--accumulator", "9", "--overflow", "wrap"]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    ours, exact = held("wrap")(IMAGES, 9), held("wrap")(IMAGES, 32)
    codes = sum(int((ours.codes[k] != exact.codes[k]).sum()) for k in exact.codes)
    assert last.startswith(f"9 bits, wrap: {codes} of 60 codes and ")


def test_a_width_that_no_register_has_is_refused():
    with pytest.raises(ValueError, match="an accumulator has 2 to 32 bits, got 33"):
        Accumulator(33)
    with pytest.raises(ValueError, match="overflow must be one of saturate, wrap; got"):
        Accumulator(8, "explode")
    with pytest.raises(ValueError, match="an accumulator needs unroll=True"):
        stepped(network(), unroll=False, accumulator=Accumulator(8))
