"""SystemVerilog: the circuits do what the network does, as far as text can show."""

import dataclasses
import functools
import re
from pathlib import Path

import numpy as np
import pytest

from bitsnn_jax import referee
from bitsnn_jax.exports import bundle_writer, verilog_writer
from bitsnn_jax.exports.formats import FORMATS
from bitsnn_jax.exports.verilog_layers import design
from bitsnn_jax.exports.verilog_routes import VerilogError
from bitsnn_jax.exports.verilog_text import layer_text
from bitsnn_jax.exports.verilog_writer import expected, module_names, planes
from bitsnn_jax.integers.graph import (
    Conv,
    Dense,
    Held,
    Move,
    Reshape,
    Scale,
    Shift,
    Sum,
    Term,
    WindowMax,
    WindowSum,
    out_shape,
)
from bitsnn_jax.integers.network import IntegerNetwork, IntegerNode, largest_sum
from bitsnn_jax.integers.operations import count, term_paths

RNG = np.random.default_rng(0)
STEPS = 3
MODULES = [
    (Path(verilog_writer.__file__).with_name(f"verilog_{name}.sv")).read_text()
    for name in verilog_writer.MODULES
]


def kernel(*shape):
    return RNG.integers(-9, 10, shape).astype(np.int8)


def conv(shape, strides=(1, 1), padding=((1, 1), (1, 1)), *, lhs=1, rhs=1, groups=1):
    return Conv(kernel(*shape), strides, padding, (lhs, lhs), (rhs, rhs), groups)


def add(network, name, terms, *, kind, fraction=5):
    """Append a node that (source, *operations) feed."""
    made = []
    for source, *ops in terms:
        at = next(
            i for i, op in enumerate(ops) if isinstance(op, Scale | Conv | Dense | Held)
        )
        made.append(Term(source, (*ops[:at],), ops[at], (*ops[at + 1 :],)))
    shape = network[terms[0][0]].shape
    for op in terms[0][1:]:
        shape = out_shape(op, shape)
    spread = fraction if kind != "neurons" else RNG.integers(3, fraction + 1, shape[-1])
    node = IntegerNode(
        *(name, kind, shape, tuple(made)),
        RNG.integers(-40, 40, shape[-1]).astype(np.int32),
        np.asarray(spread, np.int32),
    )
    grown = dataclasses.replace(network, nodes=(*network.nodes, node))
    bound = largest_sum(node, grown) + int(node.half.max())
    return dataclasses.replace(
        grown, nodes=(*network.nodes, node._replace(bound=bound))
    )


@functools.cache
def small_network():
    """Every kind of connection, on a few neurons."""
    first = IntegerNode("input", "input", (1, 6, 5, 2), bound=15)
    net = IntegerNetwork((first,), STEPS, 8, 15)
    neurons = functools.partial(add, kind="neurons")
    net = neurons(net, "a", [("input", conv((3, 3, 2, 4), (2, 1)))])
    dilated = conv((3, 3, 4, 4), padding=((2, 2), (2, 2)), rhs=2)
    factors = Scale(np.array([900, -3, 0, 17], np.int16))
    net = neurons(net, "residual/1", [("a", dilated), ("a", factors)])
    net = neurons(net, "groups", [("a", conv((3, 3, 2, 6), groups=2))])
    depthwise = conv((2, 2, 1, 4), padding=((0, 1), (1, 0)), groups=4)
    pool = WindowSum((1, 2, 2, 1), (1,) * 4, ((0, 0), (0, 1), (0, 1), (0, 0)))
    pooled = ("residual/1", pool, Scale(np.int16(5)), Shift(2))
    net = neurons(net, "depthwise", [("a", depthwise), pooled])
    pointwise = conv((1, 1, 4, 3), padding=NONE)
    net = add(net, "rounded", [("depthwise", pointwise)], kind="sum", fraction=2)
    transposed = conv((3, 3, 3, 5), padding=((1, 1), (2, -1)), lhs=2)
    net = neurons(net, "mixed", [("rounded", transposed)])
    padded = np.pad(np.arange(60).reshape(1, 3, 5, 4)[:, ::2, ::2], WIDER, **OUTSIDE)
    several = [
        ("residual/1", conv((3, 3, 4, 6), (2, 2))),
        ("rounded", conv((1, 1, 3, 6), (2, 2), NONE)),
        ("a", Move(padded.astype(np.int32)), Scale(np.int16(7))),
    ]
    net = neurons(net, "several", several)
    flat = [("residual/1", Reshape((1, 60)), Dense(kernel(60, 8)))]
    net = neurons(net, "dense", flat)
    swapped = np.arange(60).reshape(1, 6, 5, 2).swapaxes(1, 3).astype(np.int32)
    moved = [("input", Move(swapped), Reshape((1, 60)), Dense(kernel(60, 2)))]
    net = neurons(net, "moved", moved)
    last = [("mixed", Sum((1, 2)), Dense(kernel(5, 3))), ("dense", Dense(kernel(8, 3)))]
    return add(net, "output", last, kind="output", fraction=0)


NONE = ((0, 0), (0, 0))
WIDER, OUTSIDE = ((0, 0), (0, 0), (0, 0), (1, 1)), {"constant_values": -1}


def designs():
    network = small_network()
    return [design(network, node) for node in network.nodes[1:]]


@functools.cache
def simulated_network():
    """Two inputs through all circuits, one after the other: values, and additions."""
    network = small_network()
    x = RNG.integers(0, network.white + 1, (2, *network.nodes[0].shape[1:]))
    values, additions = {"input": x}, {}
    for made in designs():
        runs = [
            simulated(made, [values[given.source][i] for given in made.inputs])
            for i in range(2)
        ]
        shape = (2, *made.node.shape[1:])
        values[made.node.name] = np.stack([sent for sent, _ in runs]).reshape(shape)
        additions[made.node.name] = sum(added for _, added in runs)
    return values, additions


# A second formulation: what the circuits do, in NumPy.


def wrapped(u, bits):
    """Keep the lowest bits, as a register does."""
    return (u + (1 << (bits - 1))) % (1 << bits) - (1 << (bits - 1))


def simulated(made, sources):
    """Walk over the lines for one example: what is sent, and how much was added."""
    u, additions = np.zeros((made.positions, made.lanes), np.int64), 0
    for step in range(made.planes):
        u = wrapped(2 * u, made.width)
        for given, source in zip(made.inputs, sources, strict=True):
            first = made.planes - given.planes
            if step < first:
                continue
            found = given.routes
            bits = planes(source[None], given.planes)[0, step - first]
            words = bits.reshape(found.sources, found.channels)
            sign = -1 if given.is_signed and step == first else 1
            place = 0
            for last, used, row, word in found.lines:
                for lanes, weights in used * [*brought(found, words[word], row)]:
                    u[place, lanes] += sign * (weights.astype(int) << found.shift)
                    additions += weights.size
                place += last
            assert place == made.positions
            u = wrapped(u, made.width)
    u = wrapped(u + made.biases, made.width)
    if not made.has_spikes:
        return u >> made.fractions, additions
    codes = 0 * u
    for step in range(made.steps):
        less = wrapped(u - (1 << (made.fractions + made.steps - 1 - step)), made.width)
        spikes = less >= 0
        u, codes = np.where(spikes, less, u), 2 * codes + spikes
    return codes, additions


def brought(found, word, row):
    """What a word of spikes brings: lanes, and a weight for each."""
    if found.at_once:
        [lanes] = np.nonzero((found.wires >= 0) & (word[found.wires] == 1))
        yield lanes, found.rows[row][lanes]
        return
    fan = found.rows.shape[1]
    for channel in np.flatnonzero(word):
        group = channel // (found.channels * fan // found.lanes)
        yield np.arange(group * fan, group * fan + fan), found.rows[row + channel]


def test_circuits_send_the_spikes_of_the_format(tmp_path):
    """Doubling the membrane at each step is shifting the current of each step."""
    values, _ = simulated_network()
    bundle_writer.save(small_network(), tmp_path / "bundle")
    network = referee.read(tmp_path / "bundle")
    for i, image in enumerate(values["input"]):
        result = referee.run(network, image, {})
        for name, spikes in result.spikes.items():
            ours = planes(values[name][i : i + 1], STEPS)[0]
            np.testing.assert_array_equal(ours, spikes[:, 0])
        np.testing.assert_array_equal(values["output"][i], result.outputs["output"][0])


def test_circuits_add_as_often_as_the_accounting_says():
    network, (values, additions) = small_network(), simulated_network()
    paths = term_paths(network)
    counted = count(network, values, examples=2, paths=paths)
    for made in designs():
        name = made.node.name
        assert expected(made, values, paths).additions == additions[name]
        if not counted[name].multiply_accumulates:  # fed by spikes alone
            assert counted[name].synaptic_operations == additions[name]


def test_only_constants_are_multiplied():
    texts = [layer_text(made, "layer") for made in designs()]
    for text in (*MODULES, *texts):
        for line in text.splitlines():
            code = line.split("//")[0]
            if not re.match(r" *(localparam|parameter) ", code):
                assert "*" not in re.sub(r"\[LANES\*\w+-1:0\]", "", code), line
                assert "/" not in code and "%" not in code, line


def network_of_unseen_weights():
    """A window of three on one place: two of the weights meet padding only."""
    first = IntegerNode("input", "input", (1, 1, 1), bound=1)
    weights = np.array([100, 1, -100], np.int8).reshape(3, 1, 1)
    window = Conv(weights, (1,), ((1, 1),), (1,), (1,), 1)
    node = IntegerNode("a", "neurons", (1, 1, 1), (Term("input", (), window, ()),))
    return IntegerNetwork((first, node._replace(bound=1)), STEPS, 8, 1)


def test_a_membrane_has_bits_for_its_bound_and_its_largest_threshold():
    for made in designs():
        largest = 2 ** int(made.fractions.max() + made.steps - 1)
        assert 2 ** (made.width - 1) > made.node.bound + largest
        assert f".WIDTH({made.width})" in layer_text(made, "layer")
    node = network_of_unseen_weights().nodes[-1]
    made = design(network_of_unseen_weights(), node)
    assert made.width >= made.weight_bits == 8 > node.bound.bit_length() + 1


def test_a_layer_without_a_circuit_is_named():
    network = small_network()
    node = network["dense"]
    bad = {
        "table": node._replace(rise=np.zeros((7, 1), np.int32)),
        "kind maximum": IntegerNode("dense", "maximum", (1, 2), node.terms),
        "product": node._replace(terms=(Term("a", (), Held("a", (), (60, 1, 1)), ()),)),
        "WindowMax": node._replace(
            terms=(
                Term(
                    "a",
                    (WindowMax((1,) * 4, (1,) * 4, ((0, 0),) * 4),),
                    *node.terms[0][2:],
                ),
            )
        ),
        "thresholds": network["a"]._replace(
            name="dense", fraction=np.arange(60, dtype=np.int32).reshape(1, 3, 5, 4) % 9
        ),
        "channels that move": node._replace(
            terms=(
                Term(
                    "dense",
                    (),
                    Dense(kernel(8, 8)),
                    (Move(np.arange(8, dtype=np.int32)[None, ::-1]),),
                ),
            )
        ),
    }
    for what, node in bad.items():
        with pytest.raises(VerilogError, match=f"^dense: .*{what}"):
            design(network, node)


def test_a_folder_has_the_layers_that_fit_and_names_the_others(tmp_path):
    network = small_network()
    table = np.zeros((7, 1, 1, 1, 1), np.int32)
    nodes = [
        node._replace(rise=table, fall=table) if node.name == "groups" else node
        for node in network.nodes
        if node.name in ("input", "a", "groups")
    ]
    network = dataclasses.replace(network, nodes=(*nodes,))
    FORMATS["verilog"].write(network, {}, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("README.md", "Makefile", "neurons.sv", "synapses.sv", "layer_a"),
    }
    assert "* groups: neurons with a table" in (tmp_path / "README.md").read_text()
    none = dataclasses.replace(
        network, nodes=(nodes[0], nodes[1]._replace(rise=table, fall=table))
    )
    with pytest.raises(VerilogError, match="^a: neurons with a table"):
        FORMATS["verilog"].write(none, {}, tmp_path)


def test_modules_have_names_of_their_own():
    names = ["a/1", "a_1", "a 1", "output", "neurons", "é"]
    assert len({*module_names(names)}) == len(names)
    assert all(
        re.fullmatch("layer_[a-zA-Z0-9_]+", name) for name in module_names(names)
    )
