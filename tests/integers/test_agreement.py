"""Program, graph and integers: a difference at one node is found, and named."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import Inverted, Pooling, Residual, build, lowered

from bitsnn_jax import qcfs
from bitsnn_jax.integers.agreement import drawn, graph_difference, integer_difference
from bitsnn_jax.integers.execution import one_shot, stepped
from bitsnn_jax.integers.fixed_point import FixedPointError, fixed_point
from bitsnn_jax.integers.graph import Graph, Node, Scale, evaluate
from bitsnn_jax.integers.lowering import lower

PIXELS = drawn((200, 8), 255)


def changed(graph, name, **fields):
    """The graph with another node of this name."""
    nodes = [n._replace(**fields) if n.name == name else n for n in graph.nodes]
    return dataclasses.replace(graph, nodes=tuple(nodes))


def twisted(node):
    """The terms of a node, every kernel in the other order."""
    return tuple(
        term
        if isinstance(term.weight, Scale)
        else term._replace(weight=reversed_outputs(term.weight))
        for term in node.terms
    )


def reversed_outputs(weight):
    return weight._replace(kernel=weight.kernel[..., ::-1].copy())


@pytest.mark.parametrize("network", [Residual, Inverted])
def test_another_sum_is_another_network(network):
    apply_fn, variables, x = build(network)
    graph = lower(apply_fn, variables, x[:1])
    assert graph_difference(graph, apply_fn, variables, x[:1]) is None
    for node in graph.of_kind("neurons")[-2:]:
        other = changed(graph, node.name, terms=twisted(node))
        found = graph_difference(other, apply_fn, variables, x[:1])
        assert found is not None and found.startswith(f"{node.name} is off by")


@pytest.mark.parametrize("network", [Residual, Inverted, Pooling])
@pytest.mark.parametrize("bits", [4, 8])
def test_rounding_is_no_difference_and_a_wrong_weight_is(network, bits):
    graph = lowered(network)
    integers = fixed_point(graph, steps=4, bits=bits)
    x = drawn(graph.nodes[0].shape)
    assert integer_difference(integers, graph, x) is None
    node = integers.of_kind("neurons")[-1]
    found = integer_difference(
        changed(integers, node.name, terms=twisted(node)), graph, x
    )
    assert found is not None and found.startswith(f"{node.name} is off by")


def test_the_bound_is_reached_by_hand():
    # 0.5 units of each of two weights and of the bias, at inputs 3 and 5: 4 + 1/2.
    def net(w, x):
        return x @ w + 0.125

    w = np.array([[1.125], [2.125]])
    graph = lower(net, w, np.zeros((1, 2), np.float32))
    integers = fixed_point(graph, steps=2, white=5)
    node = integers["output"]
    kernel = node.terms[0].weight._replace(kernel=np.array([[1], [2]], np.int8))
    coarse = node._replace(
        terms=(node.terms[0]._replace(weight=kernel),),
        bias=np.zeros((), np.int32),
        unit=np.array(0.25),
        bound=13,
    )
    # In units of 1/4 the weights are 4.5 and 8.5, the bias 0.5: rounded down here.
    kernel = kernel._replace(kernel=np.array([[4], [8]], np.int8))
    down = coarse._replace(terms=(node.terms[0]._replace(weight=kernel),))
    for made, agrees in ((down, True), (coarse, False)):
        other = dataclasses.replace(integers, nodes=(integers.nodes[0], made))
        found = integer_difference(other, graph, np.array([[3, 5]]))
        assert (found is None) == agrees


def test_integers_are_compared_on_what_is_given():
    graph = lowered(Residual)
    wrong = changed(graph, graph.nodes[1].name, theta=np.full((1, 1, 1, 1), np.nan))
    with pytest.raises((FixedPointError, ValueError)):
        fixed_point(wrong, steps=4, inputs=drawn((2, 8, 8, 3)))


def test_names_are_unique_and_sources_come_first():
    node = Node("a", "input", (1, 2))
    with pytest.raises(ValueError, match="two nodes are named a"):
        Graph((node, node))
    [term] = lower(lambda v, x: 2 * x, {}, jnp.zeros((1, 2)))["output"].terms
    with pytest.raises(ValueError, match="b is fed by input, which is no node before"):
        Graph((node, Node("b", "output", (1, 2), (term,))))


def in_one_scope(v, x):
    """Bottleneck sums and activations without a module of their own."""
    x = qcfs((x / 128 - 1) @ v[0], 2.0) @ v[1]
    for w in v[2:4]:
        x = x + qcfs(x @ w, 2.0) @ w
    return qcfs(x @ v[4], 2.0) @ v[5]


def called_output(v, x):
    with jax.named_scope("net/output"):
        return qcfs(x @ v[0] / 128, 2.0) @ v[1]


def called_input_and_at(v, x):
    with jax.named_scope("net/input"):
        x = qcfs(x @ v[0] / 128, 2.0)
    with jax.named_scope("net/a@3"):
        x = qcfs(x @ v[1], 2.0)
    for _ in range(2):  # the second would be a@3, if names were only counted
        with jax.named_scope("net/a"):
            x = qcfs(x @ v[2], 2.0)
    return x @ v[3]


@pytest.mark.parametrize("net", [in_one_scope, called_output, called_input_and_at])
def test_a_node_keeps_its_name_to_itself(net):
    rng = np.random.default_rng(0)
    v = [rng.normal(size=(8, 8)) / np.sqrt(8) for _ in range(6)]
    with jax.enable_x64(True):
        x = PIXELS.astype(np.float64)
        want = np.asarray(net(v, x))
        graph = lower(net, v, x[:1])
        got = np.asarray(evaluate(graph, jnp.asarray(x))[0]["output"])[:, 0]
    names = [node.name for node in graph.nodes]
    assert len(set(names)) == len(names)
    # Sums in another order, over some hundred terms of order 1.
    np.testing.assert_allclose(got, want, atol=1e-10)
    integers = fixed_point(graph, steps=4)
    once, spikes = one_shot(integers)(PIXELS), stepped(integers)(PIXELS)
    jax.tree.map(np.testing.assert_array_equal, once, spikes)
    # 8 bits: as in the script of the fault, most predictions stay.
    same = np.asarray(once.outputs["output"]).argmax(-1) == want.argmax(-1)
    assert same.mean() > 0.8


def relative_error(net, v):
    """Of the logits in integers, and the integers."""
    with jax.enable_x64(True):
        want = np.asarray(net(v, PIXELS.astype(np.float64)))
        graph = lower(net, v, PIXELS[:1].astype(np.float64))
    network = fixed_point(graph, steps=4)
    once, spikes = one_shot(network)(PIXELS), stepped(network)(PIXELS)
    jax.tree.map(np.testing.assert_array_equal, once, spikes)
    got = np.asarray(once.outputs["output"]) * network["output"].unit
    return np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2)), network


def beside_spikes(v, x):
    h = qcfs((x / 128 - 1) @ v[0], 2.0)
    s = h @ v[1]
    return (qcfs(s @ v[2], 2.0) + s) @ v[3]


def beside_a_skip(v, x):
    """Spikes that are added as they are to a sum of much smaller numbers."""
    h = qcfs((x / 128 - 1) @ v[0], 2.0)
    return (1000 * h + (h @ v[1]) @ v[2]) @ v[3]


def behind_a_sum(v, x):
    """Neurons that a sum alone feeds, of 16 bits where codes have four."""
    h = qcfs((x / 128 - 1) @ v[0], 2.0)
    return qcfs((1000 * h + h @ v[1]) @ v[2] / 300, 8.0) @ v[3]


@pytest.mark.parametrize("net", [beside_spikes, beside_a_skip, behind_a_sum])
def test_a_sum_beside_spikes_keeps_its_weights(net):
    rng = np.random.default_rng(0)
    v = [rng.normal(size=(8, 8)) / np.sqrt(8) for _ in range(4)]
    error, network = relative_error(net, v)
    assert error < 0.1  # a few per cent for each of the two roundings
    for term in network["output"].terms:
        kernel = getattr(term.weight, "kernel", np.ones(1))
        assert np.mean(kernel == 0) < 0.1, term.source


def test_what_brings_nothing_may_be_rounded_away():
    def net(v, x):
        h = qcfs((x / 128 - 1) @ v[0], 2.0)
        return h @ v[1] + 1e-9 * (qcfs(h @ v[2], 2.0) @ v[3])

    rng = np.random.default_rng(0)
    v = [rng.normal(size=(8, 8)) / np.sqrt(8) for _ in range(4)]
    assert relative_error(net, v)[0] < 0.1


def test_what_would_be_lost_is_refused_by_name():
    """Sums of 4096 weights of 7 bits leave little of 32 for finer ones."""

    def net(v, x):
        h = qcfs((x / 128 - 1) @ v[0], 2.0)
        return h @ v[1] + (h @ v[2]) @ v[3]

    rng = np.random.default_rng(0)
    shapes = (8, 4096), (4096, 4), (4096, 8), (8, 4)
    v = [rng.normal(size=s) / np.sqrt(s[0]) for s in shapes]
    v[1] = np.sign(v[1]) * 256
    with pytest.raises(FixedPointError, match="^output: .* what sum brings is rounded"):
        relative_error(net, v)
