"""Operations counted from codes against counting them one by one."""

import functools
import itertools

import networks
import numpy as np
import pytest

from bitsnn_jax import referee
from bitsnn_jax.exports import bundle_writer
from bitsnn_jax.integers.execution import one_shot
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.integers.graph import (
    Conv,
    Dense,
    Reshape,
    Scale,
    Shift,
    Sum,
    Term,
    WindowMax,
)
from bitsnn_jax.integers.lowering import lower
from bitsnn_jax.integers.network import IntegerNetwork, IntegerNode
from bitsnn_jax.integers.operations import COUNTS, NodeOperations, count, term_paths
from bitsnn_jax.tracing.fan_out import fan_out

STEPS, EXAMPLES = 3, 2


@functools.cache
def image_network(network):
    """(graph's function, variables, IntegerNetwork) with pixels for inputs."""
    apply_fn, variables, _ = networks.build(network)

    def of_pixels(v, p):
        return apply_fn(v, p / 64 - 2)

    example = np.zeros((1, 8, 8, 3), np.float32)
    made = fixed_point(lower(of_pixels, variables, example), steps=4)
    return of_pixels, variables, example, made


def pixels(n=EXAMPLES):
    return np.random.default_rng(0).integers(0, 256, (n, 8, 8, 3))


def tiny():
    """5x5 pixels; grouped, strided and padded; identity; maximum; sum; two outputs."""
    ints = np.random.default_rng(1).integers
    first = Conv(
        ints(-3, 4, (2, 2, 1, 4)).astype(np.int8),
        (2, 1),
        ((1, 0), (0, 1)),
        (1, 1),
        (1, 1),
        1,
    )
    grouped = Conv(
        ints(-3, 4, (3, 2, 2, 6)).astype(np.int8),
        (1, 2),
        ((1, 1), (1, 0)),
        (1, 1),
        (1, 1),
        2,
    )
    window = WindowMax((1, 2, 2, 1), (1, 1, 2, 1), ((0, 0), (0, 0), (0, 1), (0, 0)))
    identity = Scale(np.array(3, np.int16))

    def dense(i, o):
        return Dense(ints(-3, 4, (i, o)).astype(np.int8))

    nodes = (
        IntegerNode("input", "input", (1, 5, 5, 1)),
        IntegerNode("a", "neurons", (1, 3, 5, 4), (Term("input", (), first, ()),)),
        IntegerNode(
            "b",
            "sum",
            (1, 3, 3, 6),
            (Term("a", (), grouped, (Shift(2),)),),
        ),
        IntegerNode(
            "c",
            "neurons",
            (1, 3, 5, 4),
            (
                Term("a", (), identity, ()),
                Term("b", (Reshape((1, 54)),), dense(54, 60), (Reshape((1, 3, 5, 4)),)),
            ),
        ),
        IntegerNode(
            "m",
            "maximum",
            (1, 2, 3, 4),
            (Term("c", (window,), Scale(np.ones(())), ()),),
        ),
        IntegerNode(
            "output",
            "output",
            (1, 7),
            (
                Term("m", (Sum((1, 2)),), dense(4, 7), (Shift(1),)),
                Term("a", (Sum((1, 2)),), dense(4, 7), ()),
            ),
        ),
    )
    return IntegerNetwork(nodes, STEPS, 8, 255)


def tiny_codes():
    draw = np.random.default_rng(2).integers
    codes = {k: draw(0, 2**STEPS, (EXAMPLES, 3, 5, 4)) for k in "ac"}
    codes["a"][draw(0, 2, codes["a"].shape) == 0] = 0
    return codes


def conv_pairs(size, kernel, stride, padding):
    """(input, output) of each in-bounds place along one axis, by the definition."""
    outputs = (size + sum(padding) - kernel) // stride + 1
    for o, k in itertools.product(range(outputs), range(kernel)):
        i = o * stride + k - padding[0]
        if 0 <= i < size:
            yield i, o


def bits(code):
    return [int(b) for b in f"{code:0{STEPS}b}"]  # most significant first


def spikes_of(codes):
    return tuple(sum(bits(int(c))[t] for c in codes) for t in range(STEPS))


def test_counts_are_those_of_loops_over_spikes():
    codes = tiny_codes()
    counted = count(tiny(), codes, examples=EXAMPLES)
    # Into b: kernel 3x2, 2 groups, 6 outputs: a channel reaches 3 of them.
    rows = list(conv_pairs(3, 3, 1, (1, 1)))
    columns = list(conv_pairs(5, 2, 2, (1, 0)))
    into_b = sum(
        sum(bits(code[i, j, channel]))
        for code in codes["a"]
        for (i, _), (j, _) in itertools.product(rows, columns)
        for channel in range(4)
        for _ in range(3)
    )
    nonzero_into_b = sum(
        3 * int(code[i, j, channel] != 0)
        for code in codes["a"]
        for (i, _), (j, _) in itertools.product(rows, columns)
        for channel in range(4)
    )
    # The maximum: rows 0-1 and 1-2; columns 0-1, 2-3, and 4 alone.
    maxima = [
        max(code[i, j, c] for i in rows_ for j in columns_)
        for code in codes["c"]
        for rows_ in ((0, 1), (1, 2))
        for columns_ in ((0, 1), (2, 3), (4,))
        for c in range(4)
    ]
    spikes_a = spikes_of(codes["a"].reshape(-1))
    spikes_c = spikes_of(codes["c"].reshape(-1))
    pairs = [list(conv_pairs(5, 2, 2, (1, 0))), list(conv_pairs(5, 2, 1, (0, 1)))]

    assert counted["input"] == NodeOperations("input", "input", 25)
    assert counted["a"].spikes == spikes_a
    assert counted["a"].multiply_accumulates == (
        EXAMPLES * 4 * len(pairs[0]) * len(pairs[1])
    )
    assert counted["a"].synaptic_operations == counted["a"].shifts == 0
    assert counted["a"].compares == EXAMPLES * STEPS * 60
    assert counted["a"].resets == sum(spikes_a)
    assert counted["b"].synaptic_operations == into_b
    assert counted["b"].nonzero_paths == nonzero_into_b
    assert counted["b"].paths == EXAMPLES * 12 * len(rows) * len(columns)
    # T - 1 shifts of the current, T of the term: (2 + 3) for each of 54 entries.
    assert counted["b"].shifts == EXAMPLES * 5 * 54
    assert counted["b"].compares == counted["b"].resets == 0
    assert counted["c"].synaptic_operations == sum(spikes_a)  # the identity
    assert counted["c"].multiply_accumulates == EXAMPLES * 54 * 60
    assert counted["m"] == NodeOperations("m", "maximum", 24, spikes=spikes_of(maxima))
    assert counted["output"].synaptic_operations == 7 * (
        sum(spikes_of(maxima)) + sum(spikes_a)
    )
    assert counted["output"].shifts == EXAMPLES * 7 * (2 + 3)
    assert counted["output"].bias_additions == EXAMPLES * STEPS * 7
    assert counted["c"].membrane_reads == (
        sum(spikes_a) + EXAMPLES * (54 * 60 + 2 * STEPS * 60)
    )
    assert counted["c"].membrane_writes == (
        sum(spikes_a) + EXAMPLES * (54 * 60 + STEPS * 60) + sum(spikes_c)
    )


CHECKED = ["Convolutions", "Pooling", "Inverted"]


@pytest.mark.parametrize("name", CHECKED)
def test_counts_are_those_of_the_referee_that_walks_every_spike(name, tmp_path):
    *_, network = image_network(getattr(networks, name))
    bundle_writer.save(network, tmp_path / "net")
    read, counts = referee.read(tmp_path / "net"), {}
    for image in pixels():
        referee.run(read, image, counts)
    counted = count(network, one_shot(network)(pixels()).codes, examples=EXAMPLES)
    assert [node.name for node in counted.nodes] == list(counts)
    for node in counted.nodes:
        theirs = counts[node.name]
        assert list(node.spikes) == theirs.spikes
        for field in COUNTS:
            expected = getattr(theirs, field, 0)  # it has no products with codes
            assert getattr(node, field) == expected, (node.name, field)


@pytest.mark.parametrize("name", ["Residual", "Convolutions"])
def test_paths_through_kernels_are_the_fan_out_of_the_traced_program(name):
    """Where no sum is used twice and no kernel follows a number without time."""
    of_pixels, variables, example, network = image_network(getattr(networks, name))
    paths = term_paths(network)
    for neurons, expected in fan_out(of_pixels, variables, example).items():
        total = np.zeros(network[neurons].shape, int)
        for node in network.nodes[1:]:
            for term, reached in zip(node.terms, paths[node.name], strict=True):
                if term.source == neurons and not isinstance(term.weight, Scale):
                    total += reached
        np.testing.assert_array_equal(total, expected)


def test_counts_of_batches_add_up_and_empty_ones_count_nothing():
    network, codes = tiny(), tiny_codes()

    def of(a, b):
        part = {name: code[a:b] for name, code in codes.items()}
        return count(network, part, examples=b - a)

    assert of(0, 1) + of(1, 2) == of(0, 2)
    assert of(0, 2) + of(2, 2) == of(0, 2)
    assert of(0, 0).total("membrane_reads") == 0


def test_large_counts_are_exact_python_integers():
    # 2**13 sources of code 7, each to 2**13 + 1 entries: 3 * (2**26 + 2**13) additions.
    size = 2**13
    kernel = np.broadcast_to(np.int8(1), (size, size + 1))
    source = IntegerNode("a", "neurons", (1, size))
    fed = IntegerNode(
        "output", "output", (1, size + 1), (Term("a", (), Dense(kernel), ()),)
    )
    network = IntegerNetwork((source, fed), STEPS, 8, 255)
    counted = count(network, {"a": np.full((1, size), 7, np.uint8)}, examples=1)
    assert counted["output"].synaptic_operations == 3 * (2**26 + 2**13)
    assert type(counted["output"].synaptic_operations) is int


def test_rates_and_the_table():
    codes = tiny_codes()
    counted = count(tiny(), codes, examples=EXAMPLES)
    both = np.concatenate([codes["a"], codes["c"]])
    spikes = sum(bin(c).count("1") for c in both.reshape(-1))
    assert counted.neurons == 120
    assert counted.spikes_per_neuron == spikes / both.size
    assert counted.nonzero_fraction == np.count_nonzero(both) / both.size
    last = str(counted).splitlines()[-1]
    assert last.startswith("total") and f"{counted.total('membrane_reads'):,}" in last


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c.pop("c"), "no codes of c: got those of a"),
        (lambda c: c.update(c=c["c"][:1]), r"c: expected codes \(2, 3, 5, 4\)"),
        (lambda c: c.update(c=c["c"] + 8), "c: codes must be 0 to 7 at T = 3"),
        (lambda c: c.update(c=c["c"] / 2), "c: codes are integers, got float64"),
    ],
)
def test_codes_that_do_not_fit_are_an_error(change, message):
    codes = tiny_codes()
    change(codes)
    with pytest.raises(ValueError, match=message):
        count(tiny(), codes, examples=EXAMPLES)


def test_counts_of_two_networks_do_not_add_up():
    one = count(tiny(), tiny_codes(), examples=EXAMPLES)
    other = NodeOperations("x", "neurons", 1)
    with pytest.raises(ValueError, match="two networks"):
        one + type(one)((other,), 1, STEPS)
