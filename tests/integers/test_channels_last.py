"""A network with channels first has the integers of the same one with channels last."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from bitsnn_jax import qcfs
from bitsnn_jax.integers import fixed_point, lowering
from bitsnn_jax.integers.agreement import graph_difference
from bitsnn_jax.integers.channels_last import channels_last
from bitsnn_jax.integers.graph import Conv, Graph, Move, Node, Scale, Term, evaluate
from bitsnn_jax.interop import windows

WIDTH, SIDE = 4, 6


def drawn(*shape):
    seed = np.random.default_rng(sum(shape))
    return (seed.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))).astype(np.float32)


def network(rank, *, first):
    """Shortcut, pooling, sum, concatenation, grouped convolution, a gate's shape."""
    space = "HW"[: rank - 2]
    layout = (f"NC{space}", f"OI{space}") if first else (f"N{space}C", f"{space}IO")
    channel, places = (1, range(2, rank)) if first else (rank - 1, range(1, rank - 1))
    one = (1,) * (rank - 2)
    kernels = {
        "stem": drawn(*(3,) * (rank - 2), 3, WIDTH),
        "point": drawn(*one, WIDTH, WIDTH),
        "grouped": drawn(*(3,) * (rank - 2), 1, 2 * WIDTH),
        "last": drawn(*one, 2 * WIDTH, WIDTH),
    }
    dense, bias = drawn(WIDTH, 5), drawn(WIDTH)

    def of_channels(v):
        return v.reshape(-1, *one) if first else v

    def conv(x, name, groups=1):
        kernel = kernels[name]
        if first:
            kernel = kernel.transpose(rank - 1, rank - 2, *range(rank - 2))
        numbers = (*layout, layout[0])
        return lax.conv_general_dilated(
            x, kernel, one, "SAME", None, None, numbers, groups
        )

    def window(x, init, combine):
        size = [2 if axis in places else 1 for axis in range(rank)]
        return lax.reduce_window(x, init, combine, size, size, "VALID")

    def act(z):
        return qcfs(z, jnp.float32(0.7), levels=15)

    def apply_fn(_, x):
        theta = of_channels(0.5 + np.abs(bias))
        x = (x - 128.0) / 64
        x = qcfs(conv(x, "stem") + of_channels(bias), theta, levels=15)
        x = window(act(conv(x, "point")), -np.inf, lax.max)
        x = act(conv(x, "point") + x)
        numbers = conv(x, "point")
        y = act(conv(numbers, "point") + numbers)
        y = jnp.concatenate([x, y], channel)
        y = act(conv(y, "grouped", 2 * WIDTH))
        y = act(conv(window(y, 0.0, lax.add), "last") / 4)
        gate = act(conv(jnp.mean(y, tuple(places), keepdims=True), "point"))
        y = act(conv(y, "point") + conv(gate, "point"))
        return jnp.sum(y, tuple(places)) @ dense

    return apply_fn


@pytest.fixture
def unchecked(monkeypatch):
    """Networks are not run to compare them with the program, as one test does."""
    monkeypatch.setattr(lowering, "graph_difference", lambda *args: None)
    monkeypatch.setattr(fixed_point, "integer_difference", lambda *args: None)


@pytest.mark.parametrize("rank", [3, 4])
def test_the_layout_of_a_network_does_not_change_its_integers(rank, unchecked):
    networks = {}
    for first in (True, False):
        size = (*(3,) * first, *(SIDE,) * (rank - 2), *(3,) * (not first))
        example = jax.ShapeDtypeStruct((1, *size), jnp.float32)
        graph = lowering.lower(network(rank, first=first), {}, example)
        networks[first] = fixed_point.fixed_point(graph, steps=4)
    assert networks[True]["input"].shape == (1, 3, *(SIDE,) * (rank - 2))
    assert np.ptp(networks[True]["neuron"].fraction) > 0  # one for each channel
    nodes = zip(networks[True].nodes[1:], networks[False].nodes[1:], strict=True)
    for node, expected in nodes:
        terms = [
            term._replace(before=()) if term.source == "input" else term
            for term in node.terms
        ]
        jax.tree.map(
            np.testing.assert_array_equal,
            node._replace(terms=tuple(terms)),
            expected,
        )


def test_the_graph_of_a_channels_first_network_is_compared_with_the_program():
    kernel, theta = drawn(2, 3, 1, 1).transpose(1, 0, 2, 3), np.array([0.3, 0.4, 0.5])

    def apply_fn(_, x):
        z = lax.conv_general_dilated(x, kernel, (1, 1), "VALID")
        return qcfs(z, jnp.float32(theta.reshape(-1, 1, 1)), levels=15)[:, 1:]

    x = jnp.arange(8.0).reshape(1, 2, 2, 2) / 4 - 1
    graph = lowering.lower(apply_fn, {}, x)
    neurons = graph["neuron"]
    assert (neurons.shape, neurons.order) == ((1, 2, 2, 3), (0, 2, 3, 1))
    assert graph["output"].shape == (1, 2, 2, 2)
    outputs, _ = evaluate(graph, x)
    np.testing.assert_array_equal(outputs["output"][:, 0], apply_fn(None, x))
    for wrong in (neurons._replace(bias=np.ones(())), neurons._replace(order=())):
        other = Graph((graph["input"], wrong, graph["output"]))
        assert graph_difference(other, apply_fn, {}, x)


def test_a_sum_that_is_resized_has_one_unit_for_all_channels(unchecked):
    """The weights of a resize are along an axis of space, and no channel's own."""
    first, second = drawn(2, 2, 1, 1), windows.linear_weights(3, np.arange(5) / 2)

    def apply_fn(_, x):
        z = lax.conv_general_dilated(qcfs(x, 200.0, levels=15), first, (1, 1), "VALID")
        return windows.along(z, 2, second)

    graph = lowering.lower(apply_fn, {}, np.arange(12.0).reshape(1, 2, 3, 2))
    assert [n.name for n in graph.nodes if n.has_one_unit] == ["sum"]
    network = fixed_point.fixed_point(graph, steps=4)
    assert network["sum"].unit.size == 1


def test_nothing_moves_where_channels_are_last_or_unknown():
    one, two = np.zeros((1, 1, 2, 2)), np.zeros((1, 1, 2, 1))
    image = Node("image", "input", (1, 3, 3, 2))
    plain = (1, 1), ((0, 0), (0, 0)), (1, 1), (1, 1), 1
    terms = [
        Term("image", (), Conv(one, *plain), ()),  # last
        Term("image", (), Scale(np.ones(())), ()),  # unknown
        # One channel could be on any axis.
        Term("image", (), Conv(two, *plain), (Move(np.arange(9).reshape(1, 1, 3, 3)),)),
    ]
    for term in terms:
        node = Node("neurons", "neurons", (1, 3, 3, 2), (term,))
        assert channels_last(node, {"image": image}.__getitem__) == node
