"""NIR: nothing is lost, and nodes mean what NIR says of them."""

import h5py
import jax
import nir
import numpy as np
import pytest
from networks import Pooling, Residual, lowered
from numpy.lib.stride_tricks import sliding_window_view

from bitsnn_jax import qcfs
from bitsnn_jax.exports.nir_nodes import NIRError
from bitsnn_jax.exports.nir_reader import from_nir
from bitsnn_jax.exports.nir_writer import read, to_nir, write
from bitsnn_jax.integers.execution import one_shot, stepped
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.integers.graph import (
    Conv,
    Dense,
    Move,
    Reshape,
    Scale,
    Shift,
    Sum,
    Term,
    WindowSum,
    out_shape,
)
from bitsnn_jax.integers.lowering import lower
from bitsnn_jax.integers.network import IntegerNetwork, IntegerNode

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (3, 8, 8, 3))


def kernel(*shape):
    return RNG.integers(-9, 10, shape).astype(np.int8)


def one_layer(shape, *ops, kind="neurons", steps=4):
    """A term of anything, from neurons that see the input as it is; a read-out."""
    weight = next(op for op in ops if isinstance(op, (Scale, Conv, Dense)))
    at = [op is weight for op in ops].index(True)
    one = Term("input", (), Scale(np.ones((), np.int16)), ())
    first = IntegerNode(
        "a/b:%2F", "neurons", shape, (one,), np.int32(3), np.int32(2), bound=260
    )
    term = Term(first.name, ops[:at], weight, ops[at + 1 :])
    for op in ops:
        shape = out_shape(op, shape)
    bias = RNG.integers(-50, 50, shape).astype(np.int32)
    fraction = RNG.integers(3, 6, (*(1,) * (len(shape) - 1), shape[-1]))
    made = IntegerNode("c", kind, shape, (term,), bias, fraction.astype(np.int32))
    out = IntegerNode("out", "output", shape, (Term("c", (), Scale(np.int16(2)), ()),))
    nodes = [IntegerNode("input", "input", first.shape, bound=255), first, made, out]
    # Bounds do not matter here but for their being large enough.
    nodes = [node._replace(bound=max(node.bound, 2**20)) for node in nodes]
    return IntegerNetwork(tuple(nodes), steps, 8, 255)


def same(network, x, rebuilt):
    """The same spikes in every layer, the same logits, spike by spike."""
    ours, theirs = jax.jit(stepped(network))(x), jax.jit(stepped(rebuilt))(x)
    assert ours.codes.keys() == theirs.codes.keys()
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    return ours


# A second formulation: a reader of NIR graphs, in NumPy, from what the documents say.


def convolved(node, x):
    stride, padding, dilation = (
        np.broadcast_to(v, 2) for v in (node.stride, node.padding, node.dilation)
    )
    x = np.pad(x, ((0, 0), *((p, p) for p in padding)))
    out, inputs, *window = node.weight.shape
    size = [d * (n - 1) + 1 for d, n in zip(dilation, window, strict=True)]
    views = sliding_window_view(x, size, (1, 2))
    views = views[:, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]
    groups = []
    for g in range(node.groups):
        weight = node.weight[g * out // node.groups : (g + 1) * out // node.groups]
        part = views[g * inputs : (g + 1) * inputs]
        groups.append(np.einsum("cxyij,ocij->oxy", part, weight.astype(int)))
    return np.concatenate(groups)


def pooled(x, window, strides, padding, kind):
    lowest = 0 if kind == "sum" else -(2**30)
    x = np.pad(x, padding, constant_values=lowest)
    views = sliding_window_view(x, window)[tuple(slice(None, None, s) for s in strides)]
    axes = tuple(range(x.ndim, 2 * x.ndim))
    return views.sum(axes) if kind == "sum" else views.max(axes)


def applied(node, x):
    match type(node).__name__:
        case "Conv2d":
            return convolved(node, x)
        case "Conv1d":
            views = np.pad(x, ((0, 0), (node.padding,) * 2))
            views = sliding_window_view(views, node.weight.shape[-1], 1)
            views = views[:, :: node.stride]
            return np.einsum("cxi,oci->ox", views, node.weight.astype(int))
        case "Linear":
            return node.weight.astype(int) @ x
        case "Scale":
            return node.scale.astype(int) * x
        case "Flatten":
            return x.reshape(-1)
        case "SumPool2d":
            window, strides = (1, *node.kernel_size), (1, *node.stride)
            padding = [(0, 0), *((p, p) for p in node.padding)]
            return pooled(x, window, strides, padding, "sum")
        case "BitSerialPool":
            return pooled(x, node.window, node.strides, node.padding, node.kind)
        case "BitSerialGather":
            return np.where(node.index < 0, 0, x.reshape(-1)[node.index])
    raise AssertionError(node)


def simulated(graph, image, steps):
    """name -> what the node sends at each step, [T, ...]; outputs: their value."""
    feeding = {name: [a for a, b in graph.edges if b == name] for name in graph.nodes}
    sent = {}

    def value(name):
        if name not in sent:
            sent[name] = send(graph.nodes[name], [value(a) for a in feeding[name]])
        return sent[name]

    def once(x):
        return np.stack([x] + [0 * x] * (steps - 1))

    def send(node, arrived):
        kind = type(node).__name__
        if kind == "Input":
            return once(np.moveaxis(image, -1, 0))
        if kind == "Output":
            return arrived[0]
        if not hasattr(node, "unit"):
            [x] = arrived
            if kind == "BitSerialPool" and node.kind == "max":
                return once(applied(node, x.sum(0)))
            return np.stack([applied(node, x_t) for x_t in x])
        charge = sum(arrived).sum(0)
        if kind == "BitSerialMax":
            return np.stack([charge & 2**t for t in range(steps)][::-1])
        u = charge + node.bias
        if kind == "BitSerialReadout":
            return u
        u = u + node.v_init
        if kind == "BitSerialRound":
            return once(u >> node.shift)
        trains = []
        for threshold, spike in zip(node.v_threshold, node.spike, strict=True):
            fires = u >= threshold
            u = u - fires * threshold
            trains.append(spike * fires)
        return np.stack(trains)

    return {name: value(name) for name in graph.nodes}


def assert_simulates(network, x):
    graph = to_nir(network)
    result = jax.jit(one_shot(network))(x)
    for i, image in enumerate(x):
        sent = simulated(graph, image, network.steps)
        by_name = {name.replace("%2F", "/"): v for name, v in sent.items()}
        for name, code in result.codes.items():
            ours = by_name.get(name, sent.get("a%2Fb%3A%252F")).sum(0)
            theirs = np.moveaxis(np.asarray(code[i]), -1, 0)
            np.testing.assert_array_equal(ours, theirs, err_msg=name)
        for name, logits in result.outputs.items():
            ours = sent[f"{name}:out"]
            np.testing.assert_array_equal(ours, np.moveaxis(logits[i], -1, 0))


@pytest.mark.parametrize("network", [Residual, Pooling])
def test_written_and_read_it_is_the_same_network(network, tmp_path):
    integers = fixed_point(lowered(network), steps=4)
    write(tmp_path / "net.nir", integers)
    rebuilt = read(tmp_path / "net.nir")
    result = same(integers, PIXELS, rebuilt)
    assert any(np.ptp(code) for code in result.codes.values())
    for name in (node.name for node in integers.nodes):
        ours, theirs = integers[name], rebuilt[name]
        assert (ours.kind, ours.shape, ours.bound) == (
            theirs.kind,
            theirs.shape,
            theirs.bound,
        )
        if ours.kind != "input":
            for a, b in zip(
                (ours.bias, ours.fraction, ours.unit),
                (theirs.bias, theirs.fraction, theirs.unit),
                strict=True,
            ):
                full = np.broadcast_to(b, ours.shape)
                np.testing.assert_array_equal(np.broadcast_to(a, ours.shape), full)
    assert_simulates(integers, PIXELS[:2])


PLAIN = ((1, 1), (1, 1))
CHAINS = {
    "conv": [Conv(kernel(3, 2, 3, 4), (1, 1), PLAIN, (1, 1), (1, 1), 1)],
    "odd pads": [Conv(kernel(3, 3, 3, 4), (2, 2), ((0, 1), (2, 0)), (1, 1), (1, 1), 1)],
    "dilated": [Conv(kernel(2, 3, 3, 4), (1, 2), ((0, 2), (2, 2)), (1, 1), (2, 2), 1)],
    "dilated, odd": [
        Conv(kernel(2, 2, 3, 4), (1, 1), ((0, 1), (1, 0)), (1, 1), (2, 2), 1)
    ],
    "grouped": [Conv(kernel(3, 3, 1, 6), (1, 1), PLAIN, (1, 1), (1, 1), 3)],
    "transposed": [
        Conv(kernel(3, 3, 3, 2), (1, 1), ((2, 1), (-1, 1)), (2, 3), (1, 1), 1)
    ],
    "shift": [Conv(kernel(1, 1, 3, 4), (1, 1), ((0, 0),) * 2, (1, 1), (1, 1), 1)]
    + [Shift(3)],
    "dense": [Reshape((1, 72)), Dense(kernel(72, 5))],
    "pooled, dense": [
        WindowSum((1, 2, 3, 1), (1, 2, 3, 1), ((0, 0),) * 4),
        Reshape((1, 12)),
        Dense(kernel(12, 5)),
    ],
    "global": [Sum((1, 2)), Dense(kernel(3, 5))],
    "sum of rows": [Sum((1,)), Scale(np.int16(-3))],
    "odd pooling": [
        WindowSum((1, 2, 2, 1), (1, 1, 1, 1), ((0, 0), (0, 1), (1, 0), (0, 0))),
        Scale(kernel(1, 4, 6, 1).astype(np.int16)),
    ],
    "moves": [
        Move(RNG.integers(-1, 72, (1, 5, 2, 7)).astype(np.int32)),
        Scale(kernel(1, 1, 1, 7).astype(np.int16)),
    ],
    "dense at each place": [
        Reshape((24, 3)),
        Dense(kernel(3, 2)),
        Reshape((1, 4, 6, 2)),
    ],
    "moved after": [
        Reshape((1, 72)),
        Dense(kernel(72, 4)),
        Move(np.array([[3, -1, 0, 0, 2]], np.int32)),
    ],
}


@pytest.mark.parametrize("ops", CHAINS.values(), ids=CHAINS)
def test_each_operation_is_kept_and_means_what_nir_says(ops, tmp_path):
    network = one_layer((1, 4, 6, 3), *ops)
    x = RNG.integers(0, 64, (2, 4, 6, 3))
    write(tmp_path / "net.nir", network)
    same(network, x, read(tmp_path / "net.nir"))
    assert_simulates(network, x)


def test_one_dimension():
    conv = Conv(kernel(3, 2, 4), (2,), ((0, 1),), (1,), (1,), 1)
    network = one_layer((1, 7, 2), conv)
    x = RNG.integers(0, 64, (2, 7, 2))
    same(network, x, from_nir(to_nir(network)))
    assert_simulates(network, x)


def test_three_dimensions_have_no_nir():
    conv = Conv(kernel(1, 1, 1, 2, 2), (1,) * 3, ((0, 0),) * 3, (1,) * 3, (1,) * 3, 1)
    with pytest.raises(NIRError, match="^c: NIR has convolutions in one and two"):
        to_nir(one_layer((1, 2, 2, 2, 2), conv))


def mlp():
    w = np.float32(RNG.normal(size=(6, 4)))

    def apply_fn(v, x):
        return qcfs(x @ w / 64 - 1, v) @ w.T

    return lower(apply_fn, np.float32(2), np.zeros((1, 6), np.float32))


def test_steps_are_of_the_network():
    graph = mlp()
    assert to_nir(graph, steps=3).nodes["neuron"].v_threshold.shape == (3, 4)
    with pytest.raises(ValueError, match="4 steps, got steps=3"):
        to_nir(fixed_point(graph, steps=4), steps=3)
    with pytest.raises(ValueError, match="needs steps"):
        to_nir(graph)


def test_readers_that_do_not_know_the_neuron_fail(tmp_path):
    write(tmp_path / "net.nir", fixed_point(mlp(), steps=4))
    with pytest.raises((AssertionError, KeyError)):
        nir.read(tmp_path / "net.nir")


def test_a_file_of_other_contents_is_an_error(tmp_path):
    path, network = tmp_path / "net.nir", fixed_point(mlp(), steps=4)
    with pytest.raises(NIRError, match="net.nir: .*FileNotFoundError"):
        read(path)
    write(path, network)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(NIRError, match="net.nir: not a NIR file, or a damaged one"):
        read(path)
    path.write_bytes(whole)
    with h5py.File(path, "r+") as file:
        file["node/nodes/neuron/bias"][0] += 1
    with pytest.raises(NIRError, match="do not have the checksum that they had"):
        read(path)
    nir.write(path, to_nir(network))
    with pytest.raises(NIRError, match="it has no checksum: write it with"):
        read(path)
    shape = {"input": np.array([2])}
    other = nir.NIRGraph.from_list(nir.Input(shape), nir.Scale(np.ones(2)))
    nir.write(path, other)
    with pytest.raises(NIRError, match="a NIR graph of format None"):
        read(path)


def test_what_unfolds_to_more_than_its_file_is_not_read(tmp_path):
    path = tmp_path / "net.nir"
    write(path, fixed_point(mlp(), steps=4))
    with h5py.File(path, "r+") as file:
        # 2.4 GB that take no place: no chunk of it was written.
        file.create_dataset("node/nodes/more", (3 * 10**8,), "f8", chunks=(2**20,))
    with pytest.raises(
        NIRError, match=r"declare 2,400,\S+; at most 134,217,728 are rea"
    ):
        read(path)
    with h5py.File(path, "r+") as file:
        del file["node/nodes/more"]
        file["node/nodes/more"] = h5py.ExternalLink("other.h5", "/node")
    with pytest.raises(NIRError, match="net.nir: more is a link to somewhere else"):
        read(path)
    with h5py.File(path, "r+") as file:
        del file["node/nodes/more"]
        file["node/nodes/more"] = file["node"]  # itself
    with pytest.raises(NIRError, match="net.nir: groups in groups, deeper than any"):
        read(path)


def changed(change):
    graph = to_nir(fixed_point(mlp(), steps=4))
    change(graph)
    return graph


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.metadata.update(format_version=2), "version 2, expected 1"),
        (lambda g: g.metadata.update(steps=2**31 - 1), "steps must be at most 30"),
        (lambda g: g.metadata.update(steps=2.5), "steps: numbers that are no int64"),
        (lambda g: g.metadata.update(bits=9), "bits 9, levels 255 are out of range"),
        (lambda g: g.metadata.update(bits=2), "neuron: a weight of .* 2 bits"),
        (
            lambda g: setattr(g.nodes["neuron"], "bias", np.full(4, 2**40)),
            "^neuron: numbers that are no int32",
        ),
        (
            lambda g: g.nodes["input"].output_type.update(output=np.array([2**40])),
            "^input: shape: 1,099,511,627,776 entries; at most 16,777,216 are read",
        ),
        (lambda g: g.nodes["neuron"].v_threshold.__imul__(3), "^neuron: .*halve"),
        (lambda g: g.nodes["neuron"].v_init.__iadd__(1), "^neuron: v_init"),
        (
            lambda g: g.nodes.update({"neuron:000.0": nir.Threshold(np.ones(4))}),
            "^neuron:000.0: the format has no nodes of type Threshold",
        ),
        (lambda g: g.edges.remove(("input", "neuron:000.0")), "got 0"),
        (
            lambda g: g.nodes.update(
                {"neuron:000.0": nir.Linear(np.ones((5, 6), np.int8))}
            ),
            r"^neuron: what comes from input has shape \(1, 5\), not \(1, 4\)",
        ),
    ],
)
def test_a_graph_that_is_not_of_the_format_is_an_error(change, message):
    with pytest.raises(NIRError, match=message):
        from_nir(changed(change))


def test_what_fails_writes_nothing(tmp_path):
    path = tmp_path / "net.nir"
    path.write_text("there before")
    graph = to_nir(fixed_point(mlp(), steps=4))
    graph.nodes["neuron"].bias = object()
    with pytest.raises(TypeError):
        write(path, graph)
    assert [p.name for p in tmp_path.iterdir()] == ["net.nir"]
    assert path.read_text() == "there before"
