"""Needs of a network are counted exactly, and a target holds what its limits hold."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from bitsnn_jax.integers.accumulators import Accumulator
from bitsnn_jax.integers.execution import stepped
from bitsnn_jax.integers.graph import Conv, Dense, Scale, Shift, Sum, Term
from bitsnn_jax.integers.needs import layer_needs, sum_range
from bitsnn_jax.integers.network import IntegerNetwork, IntegerNode
from bitsnn_jax.integers.operations import term_paths
from bitsnn_jax.integers.targets import (
    LAYER_LIMITS,
    LIMITS,
    NEURONS,
    broken_limits,
    in_words,
    target,
    targets,
)

STEPS = 3
TOP = 2**STEPS - 1


def linear(weights, bias=0, white=TOP):
    """Codes as they come, and one output that adds them up with these weights."""
    count = len(weights)
    same = Term("input", (), Scale(np.ones((), np.int16)), ())
    added = Term("a", (), Dense(np.array(weights, np.int8)[:, None]), ())
    nodes = (
        IntegerNode("input", "input", (1, count), bound=white),
        IntegerNode("a", "neurons", (1, count), (same,), bound=white),
        IntegerNode(
            "output", "output", (1, 1), (added,), np.array(bias, np.int32), bound=10**6
        ),
    )
    return IntegerNetwork(nodes, STEPS, 8, white)


@pytest.fixture
def image_network():
    """A convolution of 4x4 pixels, a residual block, and a pooled output."""
    kernel = np.ones((3, 3, 1, 2), np.int8)
    kernel[0, 0, 0] = (3, -5)
    same = ((1, 1), (1, 1))
    conv = Conv(kernel, (1, 1), same, (1, 1), (1, 1), 1)
    square = np.full((3, 3, 2, 2), 7, np.int8)
    shape = (1, 4, 4, 2)
    skip = Term("a", (), Scale(np.full((1, 1, 1, 2), 160, np.int16)), (Shift(1),))
    terms = (Term("a", (), conv._replace(kernel=square), ()), skip)
    dense = Term("b", (Sum((1, 2)),), Dense(np.array([[100], [-1]], np.int8)), ())
    first = Term("input", (), conv, ())
    nodes = (
        IntegerNode("input", "input", (1, 4, 4, 1), bound=255),
        IntegerNode("a", "neurons", shape, (first,), bound=10**6),
        IntegerNode("b", "neurons", shape, terms, bound=10**6),
        IntegerNode("output", "output", (1, 1), (dense,), bound=10**6),
    )
    return IntegerNetwork(nodes, STEPS, 8, 255)


def test_connections_of_a_small_network_are_those_counted_by_hand(image_network):
    a, b, output = layer_needs(image_network)
    # A corner sees 4 pixels, an edge 6, one of the 4 in the middle 9; two channels.
    assert (a.fan_in, a.connections) == (9, 2 * (4 * 4 + 8 * 6 + 4 * 9))
    assert (b.fan_in, b.connections) == (2 * 9 + 1, 2 * a.connections + 32)
    assert (output.fan_in, output.connections) == (32, 32)
    assert (a.fan_out, b.fan_out, output.fan_out) == (2 * 9 + 1, 1, 0)
    # 160 = 5 << 5 is a weight of 4 bits, and a shift.
    assert [n.weight_bits for n in (a, b, output)] == [4, 4, 8]
    assert [n.distinct_weights for n in (a, b, output)] == [2, 1 + 1, 2]
    assert [n.weights for n in (a, b, output)] == [18, 36 + 2, 2]
    assert (a.input_bits, a.message_bits) == (8, 0)
    assert (b.input_bits, b.message_bits) == (0, 1)


def test_connections_into_entries_are_those_out_of_their_sources(image_network):
    for need in layer_needs(image_network):
        paths = term_paths(image_network)[need.name]
        assert need.connections == sum(int(p.sum()) for p in paths)


@pytest.mark.parametrize("weights", [(3, -2, 1), (-4, -1), (5,), (2, 2, -8)])
def test_every_order_of_addition_stays_in_the_range_and_one_reaches_its_end(weights):
    network = linear(weights, bias=-5)
    low, high = (int(end[0, 0]) for end in sum_range(network["output"], network))
    spikes = [w << place for w in weights for place in range(STEPS)]
    additions = [*spikes, -2, -2, -1]  # and the parts of the bias
    reached = set()
    for order in (sorted(additions), sorted(additions)[::-1], additions):
        sums = [0, *itertools.accumulate(order)]
        assert low <= min(sums) and max(sums) <= high
        reached |= {min(sums), max(sums)}
    assert {low, high} <= reached


@pytest.mark.parametrize("sign", (1, -1))
def test_the_bits_needed_are_the_fewest_that_hold_every_input(sign):
    weights = sign * np.array([100, -100, 77, 50])
    network = linear(weights.tolist())
    [need] = [n for n in layer_needs(network) if n.kind == "output"]
    worst = np.where(sign * weights > 0, TOP, 0)[None]  # ends at low or high
    run = jax.jit(lambda x, a: stepped(network, accumulator=a)(x).outputs["output"])
    exact = worst @ weights
    assert exact in (need.low, need.high)
    for bits in range(need.accumulator_bits, 14):
        assert run(worst, Accumulator(bits)) == exact
    assert run(worst, Accumulator(need.accumulator_bits - 1)) != exact


def test_a_layer_fits_if_and_only_if_each_of_its_limits_holds_it(image_network):
    needs = layer_needs(image_network)
    nothing = dataclasses.replace(target("fpga"), limits=dict.fromkeys(LIMITS))
    assert broken_limits(needs, nothing, steps=STEPS) == ()
    renamed = {"layer_neurons": "neurons", "layer_weights": "weights"}
    for limit in LAYER_LIMITS:
        needed = {n.name: getattr(n, renamed.get(limit, limit)) for n in needs}
        for available in {*needed.values()}:
            limits = nothing.limits | {limit: available}
            limited = dataclasses.replace(nothing, limits=limits)
            broken = broken_limits(needs, limited, steps=STEPS)
            assert {b.layer: b.needed for b in broken} == {
                name: number for name, number in needed.items() if number > available
            }
            assert {(b.limit, b.available) for b in broken} <= {(limit, available)}


def test_limits_of_the_chip_hold_the_sum_of_all_layers(image_network):
    needs = layer_needs(image_network)
    sums = {"layers": 3, "neurons": 32 + 32 + 1}
    sums["memory_bits"] = sum(n.memory_bits for n in needs)
    nothing = dict.fromkeys(LIMITS)
    for limit, needed in sums.items():
        for available in (needed, needed - 1):
            chip = dataclasses.replace(
                target("fpga"), limits=nothing | {limit: available}
            )
            broken = broken_limits(needs, chip, steps=STEPS)
            expected = [("", limit, needed, available)] * (available < needed)
            assert [*broken] == expected


def test_a_code_at_once_needs_as_many_bits_as_it_has_spikes(image_network):
    limits = dict.fromkeys(LIMITS) | {"message_bits": STEPS - 1}
    chip = dataclasses.replace(target("akida"), limits=limits)
    broken = broken_limits(layer_needs(image_network), chip, steps=STEPS)
    assert in_words(broken) == f"message bits {STEPS} > {STEPS - 1} (2 layers)"


def test_every_published_number_has_a_source_and_no_other_has():
    assert len(targets()) >= 8
    for name, each in targets().items():
        assert each.neuron in NEURONS, name
        assert {*each.limits} == {*LIMITS}, name
        known = {limit for limit, value in each.limits.items() if value is not None}
        known |= {"neuron"} | ({"overflow"} if each.overflow else set())
        assert {*each.sources} == known, name
        assert all(each.sources.values()), name


def test_an_unknown_target_is_refused_with_the_names_of_those_known():
    with pytest.raises(ValueError, match="target must be one of loihi2, loihi1, .*'x'"):
        target("x")
