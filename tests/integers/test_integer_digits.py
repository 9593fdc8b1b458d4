"""Integers that are sent as signed digits: the same codes, sums and outputs."""

import jax
import numpy as np
import pytest
from networks import PIXELS, Pooling, lowered

from bitsnn_jax.integers.carriers import CARRIERS
from bitsnn_jax.integers.execution import one_shot, stepped
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.integers.graph import Dense, Scale, Term
from bitsnn_jax.integers.network import IntegerNetwork, IntegerNode
from bitsnn_jax.integers.operations import count

DIGITS = {"coding": "signed_digits"}


def assert_same(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize(
    "carrier",
    [pytest.param(c, marks=[pytest.mark.slow] * (c != "int8")) for c in CARRIERS],
)
@pytest.mark.parametrize("unroll", [True, False])
def test_integers_in_digits_are_those_of_one_pass(carrier, unroll):
    made = fixed_point(lowered(Pooling), steps=4)
    run = stepped(made, carrier=carrier, unroll=unroll, **DIGITS)
    assert_same(jax.jit(one_shot(made))(PIXELS), jax.jit(run)(PIXELS))


def test_a_sum_that_overshoots_stays_exact():
    """The first digit of 15 is worth 16: in float32 1 would be lost beside it."""
    n, top = 8800, 15
    assert 127 * n * top + 5 < 2**24 < 127 * n * (top + 1)
    code = Term("input", (), Scale(np.array(1, np.int16)), ())
    total = Term("a", (), Dense(np.full((n, 1), 127, np.int8)), ())
    nodes = (
        IntegerNode("input", "input", (1, n)),
        IntegerNode("a", "neurons", (1, n), (code,), bound=top),
        IntegerNode(
            "output", "output", (1, 1), (total,), np.int32(5), bound=127 * n * top + 5
        ),
    )
    run = stepped(IntegerNetwork(nodes, 4, 8, top), carrier="float32", **DIGITS)
    assert jax.jit(run)(np.full((1, n), top)).outputs["output"] == 127 * n * top + 5


def test_operations_are_those_of_digits_one_by_one():
    made = fixed_point(lowered(Pooling), steps=4)
    codes = jax.jit(one_shot(made))(PIXELS).codes
    examples = len(PIXELS)
    bits = count(made, codes, examples=examples)
    digits = count(made, codes, examples=examples, **DIGITS)
    assert digits.steps == 5
    # As if for each digit there were a network whose codes are one bit or none.
    for name, found in codes.items():
        found = np.asarray(found)
        tripled = 3 * found
        sent = [(tripled >> p & 1) != (found >> p & 1) for p in range(5, 0, -1)]
        assert digits[name].spikes == tuple(int(s.sum()) for s in sent), name
        assert digits[name].resets == sum(digits[name].spikes)
        assert digits[name].compares == 2 * 5 * bits[name].compares // 4
    by_bits = [count(made, _nonzero(codes, p), examples=examples) for p in range(5)]
    for node in made.nodes[1:]:
        total = sum(each[node.name].synaptic_operations for each in by_bits)
        if "maximum" not in {made[t.source].kind for t in node.terms}:
            assert digits[node.name].synaptic_operations == total, node.name


def _nonzero(codes, place):
    return {k: ((3 * c ^ c) >> (place + 1)) & 1 for k, c in codes.items()}
