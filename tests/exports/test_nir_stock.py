"""NIR of stock nodes: a plain reading of the graph has every spike and every output."""

import functools

import jax
import nir
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

import export
from bitsnn_jax.exports import bundle_writer, check
from bitsnn_jax.exports.nir_nodes import NIRError
from bitsnn_jax.exports.nir_stock import to_stock_nir, write
from bitsnn_jax.exports.nir_stock_nodes import NEURONS
from bitsnn_jax.integers.execution import one_shot
from bitsnn_jax.integers.graph import (
    Conv,
    Dense,
    Held,
    Max,
    Move,
    Reshape,
    Scale,
    Shift,
    Sum,
    Term,
    WindowMax,
    WindowSum,
)
from bitsnn_jax.integers.network import IntegerNetwork, IntegerNode
from bitsnn_jax.integers.tables import ALWAYS, NEVER

RNG = np.random.default_rng(0)
STEPS, BOUND = 3, 2**15
STOCK = (nir.Input, nir.Output, nir.Conv2d, nir.SumPool2d, nir.Affine)
PIXELS = RNG.integers(0, 16, (2, 4, 6, 3))


def numbers(*shape, high=10):
    return RNG.integers(-high + 1, high, shape)


def kernel(*shape):
    return numbers(*shape).astype(np.int8)


def conv(*shape, strides=1, padding=((1, 1), (1, 1)), dilation=1, between=1, groups=1):
    ones = np.ones(len(shape) - 2, int)
    strides, dilation, between = (tuple(n * ones) for n in (strides, dilation, between))
    return Conv(kernel(*shape), strides, padding, between, dilation, groups)


def term(source, *ops):
    """A term of operations, one of which may have weights."""
    at = [isinstance(op, Scale | Conv | Dense | Held) for op in ops]
    if not any(at):
        return Term(source, ops, Scale(np.int16(1)), ())
    i = at.index(True)
    return Term(source, ops[:i], ops[i], ops[i + 1 :])


def node(name, shape, *terms, kind="neurons", **fields):
    """A node with biases of channels; thresholds differ from channel to channel."""
    made = IntegerNode(name, kind, shape, terms, bound=BOUND)
    if kind == "neurons":
        fraction = RNG.integers(2, 5, shape[-1:]).astype(np.int32)
        made = made._replace(fraction=fraction)
    if kind != "maximum":
        # Neurons that see nothing: some of them fire all the same.
        bias = numbers(shape[-1], high=40) if terms else np.resize((9, -9), shape[-1])
        made = made._replace(bias=bias.astype(np.int32))
    return made._replace(**fields)


def network(*nodes, shape=(1, 4, 6, 3), outputs=()):
    """Nodes behind neurons "a" that see the image; all else feeds the output."""
    see = term("input", Scale(np.int16(3)))
    first = node("a", shape, see, bias=np.int32(1), fraction=np.int32(3))
    made = [IntegerNode("input", "input", shape, bound=15), first, *nodes]
    if not outputs:
        read = {
            source for node in nodes for term in node.terms for source in term.sources
        }
        last = [term(n.name, *to(n.shape, 5)) for n in made[1:] if n.name not in read]
        outputs = [node("out", (1, 5), *last, kind="output")]
    return IntegerNetwork((*made, *outputs), STEPS, 8, 15)


def to(shape, outputs):
    """A layer of numbers of every entry."""
    n = int(np.prod(shape))
    return Reshape((1, n)), Dense(kernel(n, outputs))


IMAGE = (1, 4, 6, 3)
ALONE = ((0, 0), (0, 0))


def fed_by_a(layers):
    """Layers that each see "a" through one or several terms."""
    return network(
        *(
            node(name, shape, *(term("a", *ops) for ops in terms))
            for name, (shape, *terms) in layers.items()
        )
    )


def convolutions():
    pool = WindowSum((1, 2, 2, 1), (1, 2, 2, 1), ((0, 0),) * 4)
    return fed_by_a(
        {
            "same": (IMAGE, [conv(3, 3, 3, 3)]),
            "strides": (
                (1, 2, 3, 4),
                [conv(3, 3, 3, 4, strides=2, padding=((0, 1), (0, 1)))],
            ),
            "no square": ((1, 4, 6, 2), [conv(1, 3, 3, 2, padding=((0, 0), (1, 1)))]),
            "one place": ((1, 1, 1, 2), [conv(4, 5, 3, 2, strides=2, padding=ALONE)]),
            "dilated": (
                (1, 4, 6, 2),
                [conv(2, 3, 3, 2, padding=((0, 2), (2, 2)), dilation=2)],
            ),
            "groups": ((1, 4, 6, 6), [conv(3, 3, 1, 6, groups=3)]),
            "skip": (
                IMAGE,
                [conv(3, 3, 3, 3)],
                [Scale(numbers(3).astype(np.int16)), Shift(2)],
            ),
            "pooled": (
                (1, 2, 3, 4),
                [pool, conv(1, 1, 3, 4, padding=ALONE)],
                [conv(2, 2, 3, 4, strides=2, padding=ALONE)],
            ),
        }
    )


def matrices():
    """What is no convolution of images, or none with a square window."""
    padded = WindowSum((1, 3, 3, 1), (1,) * 4, ((0, 0), (1, 1), (1, 1), (0, 0)))
    moves = Move(RNG.integers(-1, 72, (1, 5, 7)).astype(np.int32))
    return fed_by_a(
        {
            "odd": (
                (1, 3, 5, 2),
                [conv(2, 2, 3, 2, padding=((0, 1), (1, 0)), dilation=2)],
            ),
            "transposed": ((1, 8, 12, 2), [conv(2, 2, 3, 2, between=2)]),
            "cropped": ((1, 2, 4, 2), [conv(1, 1, 3, 2, padding=((-1, -1),) * 2)]),
            "places": (IMAGE, [Scale(numbers(1, 4, 6, 1).astype(np.int16))]),
            "padded": (IMAGE, [padded]),
            "moves": ((1, 5, 7), [moves]),
            "rows": ((1, 5), [Sum((1, 2)), Dense(kernel(3, 5))]),
            "nothing": (IMAGE,),
        }
    )


def in_rows():
    """A sequence: images of one row."""
    layer = node("b", (1, 7, 4), term("a", conv(3, 2, 4, padding=((1, 1),))))
    even = node("c", (1, 6, 4), term("a", conv(2, 2, 4, padding=((0, 0),))))
    return network(layer, even, shape=(1, 7, 2))


def of_vectors():
    longer = Move(np.array([[0, 1, 2, 3, 4, -1]], np.int32))
    terms = term("a", Dense(kernel(5, 6)), Shift(1)), term("a", longer)
    return network(node("b/1.x", (1, 6), *terms), shape=(1, 5))


def of_places():
    """Biases and thresholds that differ within a channel."""
    bias = numbers(1, 4, 6, 3, high=99).astype(np.int32)
    fraction = RNG.integers(2, 5, (1, 4, 6, 1)).astype(np.int32)
    one = node("b", IMAGE, term("a", conv(3, 3, 3, 3)), bias=bias)
    two = node("c", IMAGE, term("b", conv(3, 3, 3, 3)), fraction=fraction)
    odd = node("d", (1, 3, 6, 2), term("b", conv(2, 1, 3, 2, padding=ALONE)))
    odd = odd._replace(bias=numbers(1, 3, 6, 1).astype(np.int32))
    read = term("c", Reshape((1, 72)), Reshape(IMAGE)), term("b", conv(3, 3, 3, 3))
    out = node("out", IMAGE, *read, term("d", PAD), kind="output", bias=bias)
    return network(one, two, odd, outputs=[out])


PAD = Move(np.pad(np.arange(36), (0, 36), constant_values=-1).reshape(IMAGE))


def sums_and_tables():
    """A number with a second weight behind it; codes of functions.

    One rises, one rises and falls. Some codes are always reached, others never.
    """
    number = node("b", IMAGE, term("a", conv(3, 3, 3, 3)), kind="sum")
    number = number._replace(fraction=np.int32(3), bound=2**12)
    rise = np.sort(numbers(7, 1, 1, 1, 3, high=200), 0).astype(np.int32)
    fall = rise[::-1] + numbers(3, high=99).astype(np.int32)
    rise[0], rise[-1], fall[0], fall[-1] = ALWAYS, NEVER, NEVER, -50
    never = np.full_like(rise, NEVER)
    one = node("c", IMAGE, term("b", conv(3, 3, 3, 3)), rise=rise, fall=never)
    two = node("d", IMAGE, term("c", conv(3, 3, 3, 3)), rise=rise, fall=fall)
    return network(number, one, two)


def maxima():
    """Over windows, over axes, and of two layers side by side; a maximum feeds one."""
    window = WindowMax((1, 2, 3, 1), (1, 2, 2, 1), ((0, 0), (0, 0), (1, 1), (0, 0)))
    one = node("b", (1, 2, 3, 3), term("a", window), kind="maximum")
    index = np.arange(72, dtype=np.int32)[None]
    front, back = (np.where(index < 18, index, -1), np.where(index < 18, -1, index))
    terms = term("b", Move(front)), term("a", Move(back))
    two = node("c", (1, 72), *terms, kind="maximum")
    rows = node("d", (1, 6, 3), term("a", Max((1,))), kind="maximum")
    square = WindowMax((1, 2, 2, 1), (1, 2, 2, 1), ((0, 0),) * 4)
    image = node("e", (1, 2, 3, 3), term("a", square), kind="maximum")
    return network(one, two, rows, image)


NETWORKS = (
    convolutions,
    matrices,
    in_rows,
    of_vectors,
    of_places,
    sums_and_tables,
    maxima,
)


def images(made):
    shape = made.nodes[0].shape
    return PIXELS.reshape(-1)[: 2 * int(np.prod(shape))].reshape(2, *shape[1:])


@functools.cache
def expected(make):
    """The network, and what it makes of two images."""
    made = make()
    x = images(made)
    result = jax.jit(one_shot(made))(x)
    codes = {f"codes/{name}": np.asarray(code) for name, code in result.codes.items()}
    outputs = {f"outputs/{name}": np.asarray(z) for name, z in result.outputs.items()}
    return made, {"input": x, **codes, **outputs}


# A second formulation: NIR in NumPy, from what its documents say.


def applied(node, x):
    """[n, ...] of one node, all floats of 32 bits."""
    kind = type(node).__name__
    if kind == "Conv2d":
        x = np.pad(x, ((0, 0), (0, 0), *((int(p), int(p)) for p in node.padding)))
        _, _, *window = node.weight.shape
        size = [
            int(d) * (n - 1) + 1 for d, n in zip(node.dilation, window, strict=True)
        ]
        views = sliding_window_view(x, size, (2, 3))
        views = views[:, :, :: node.stride[0], :: node.stride[1]]
        views = views[..., :: node.dilation[0], :: node.dilation[1]]
        y = np.einsum("ncxyij,ocij->noxy", views, node.weight)
        return y + node.bias[:, None, None]
    if kind == "Affine":
        return x @ node.weight.T + node.bias
    if kind == "SumPool2d":
        views = sliding_window_view(x, node.kernel_size, (2, 3))
        return views[:, :, :: node.stride[0], :: node.stride[1]].sum((-2, -1))
    if kind in NEURONS:
        [threshold] = np.unique(
            getattr(node, "v_threshold", getattr(node, "threshold", 0))
        )
        assert threshold % 1 == 0.5 and (x % 1 == 0).all()
        assert x.max() < 2 * threshold, "it could fire twice"
        return (x > threshold).astype(np.float32)
    return x


def simulated(graph, x):
    """What the graph sends: codes and outputs of layers, and all spikes."""
    x = np.moveaxis(x, -1, 1).reshape(
        len(x), *graph.input_type[next(iter(graph.inputs))]
    )
    sent, found, spikes = {}, {}, {}
    for name, made in sorted(graph.nodes.items()):
        fed_by = [sent[a] for a, b in graph.edges if b == name]
        assert len(fed_by) <= 1 or isinstance(made, (*STOCK[2:], *TYPES)), "unadded"
        sent[name] = applied(made, sum(fed_by) if fed_by else x.astype(np.float32))
        if isinstance(made, TYPES) and "value" in made.metadata:
            key, value = f"codes/{made.metadata['layer']}", made.metadata["value"]
            found[key] = found.get(key, 0) + value * sent[name]
            spikes.setdefault(key, []).append(sent[name])
        if isinstance(made, nir.Output):
            found[f"outputs/{made.metadata['layer']}"] = sent[name]
    return {key: np.moveaxis(y, 1, -1) for key, y in found.items()}, spikes


TYPES = (nir.Threshold, nir.IF, nir.LIF)


@pytest.mark.parametrize("make", NETWORKS)
def test_every_code_and_every_output_is_that_of_the_integers(make):
    made, wanted = expected(make)
    graph = to_stock_nir(made)
    assert {type(node) for node in graph.nodes.values()} <= {*STOCK, nir.Threshold}
    found, spikes = simulated(graph, wanted["input"])
    for name, numbers in wanted.items():
        if name != "input":
            theirs = found[name].reshape(numbers.shape)
            np.testing.assert_array_equal(theirs, numbers, name)
            assert np.ptp(numbers), f"{name} is not tested"
        if name.startswith("codes"):
            assert len(spikes[name]) == STEPS


def test_neurons_of_each_type_say_the_same():
    made, wanted = expected(of_vectors)
    for neuron in NEURONS:
        found, _ = simulated(to_stock_nir(made, neuron=neuron), wanted["input"])
        assert (found["codes/b/1.x"] == wanted["codes/b/1.x"]).all()


def test_a_lif_neuron_forgets_within_a_step():
    graph = to_stock_nir(expected(of_vectors)[0], neuron="LIF")
    for node in graph.nodes.values():
        if isinstance(node, nir.LIF):
            assert (1 - 1e-4 / node.tau == 0).all() and (node.r == 1).all()


def test_files_are_read_by_nir_and_say_the_same(tmp_path):
    made, wanted = expected(of_vectors)
    write(made, {}, tmp_path)
    names = {"check.py", "if.nir", "lif.nir", "threshold.nir"}
    assert {path.name for path in tmp_path.iterdir()} == names
    graph = nir.read(tmp_path / "threshold.nir")
    found, _ = simulated(graph, wanted["input"])
    assert (found["outputs/out"] == wanted["outputs/out"]).all()
    assert [*graph.nodes] == sorted(graph.nodes)
    assert (graph.metadata["steps"], graph.metadata["levels"]) == (STEPS, 15)


def test_the_command_writes_files_vectors_and_the_script_that_compares(tmp_path):
    made, wanted = expected(of_vectors)
    bundle_writer.save(made, tmp_path / "b", vectors=wanted)
    words = ["--ckpt", str(tmp_path / "b"), "--to", "nir_stock", "--out", str(tmp_path)]
    export.main(words)
    folder = tmp_path / "nir_stock"
    assert {path.name for path in folder.iterdir()} > {"vectors.npz", "check.py"}
    assert nir.read(folder / "if.nir").metadata["steps"] == STEPS


def a_product():
    weight = Held("a", (Reshape((72, 1, 1)),), (72, 1, 1))
    layer = node("b", (1, 72), term("a", Reshape((1, 72)), weight), kind="sum")
    return network(layer)


def too_large(name, bound):
    """Sums that do not fit 24 bits, in neurons or in the output."""
    made = of_vectors()
    nodes = [n._replace(bound=bound) if n.name == name else n for n in made.nodes]
    return IntegerNetwork(tuple(nodes), STEPS, 8, 15)


def too_many():
    index = np.arange(4500, dtype=np.int32).reshape(1, 30, 50, 3)
    return network(
        node("b", index.shape, term("input", Move(index))), shape=index.shape
    )


WRONG = {
    "^b: NIR has no product of nodes .a and a": a_product,
    "^b/1.x: sums .* 18,000,.* not exact in float32, which ends at 16,777,216": (
        lambda: too_large("b/1.x", 9_000_000)
    ),
    "^out: sums of up to 16,777,217 are not": lambda: too_large("out", 2**24 + 1),
    "^b: what comes from input .* 4500 x 4500 it has more than 16,777,216": too_many,
    "^input: expected .1, n. or an image, got .1, 2, 2, 2, 2": lambda: network(
        shape=(1, 2, 2, 2, 2)
    ),
}


@pytest.mark.parametrize(("message", "made"), WRONG.items())
def test_what_has_no_form_is_an_error_of_its_layer(message, made):
    with pytest.raises(NIRError, match=message) as error:
        to_stock_nir(made())
    assert "\n" not in str(error.value)


def test_neurons_have_one_of_three_types():
    with pytest.raises(ValueError, match="one of Threshold, IF, LIF, got 'CubaLIF'"):
        to_stock_nir(of_vectors(), neuron="CubaLIF")


# Readers of others.


def mixed():
    """A network of everything that readers have to know."""
    pool = WindowSum((1, 2, 2, 1), (1, 2, 2, 1), ((0, 0),) * 4)
    skip = [conv(3, 3, 3, 3)], [Scale(numbers(3).astype(np.int16)), Shift(2)]
    largest = WindowMax((1, 2, 2, 1), (1, 1, 2, 1), ((0, 0),) * 4)
    bias = numbers(1, 4, 6, 3, high=99).astype(np.int32)
    nodes = [
        node("b/1", IMAGE, *(term("a", *ops) for ops in skip), bias=bias),
        node("c", (1, 2, 3, 3), term("b/1", pool, conv(3, 3, 3, 3))),
        node("d", (1, 1, 1, 3), term("c", largest), kind="maximum"),
        node("e", (1, 4), term("d", *to((1, 3), 4))),
    ]
    return network(*nodes)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Exports of a network of images and of one of vectors."""
    found = {make: tmp_path_factory.mktemp("export") for make in (of_vectors, mixed)}
    for make, folder in found.items():
        write(*expected(make), folder)
    return found


READERS = ("nirtorch", "snntorch", "norse", "sinabs", "spikingjelly")


@pytest.mark.parametrize("reader", READERS)
def test_readers_of_others_send_the_same_spikes(reader, request, monkeypatch):
    pytest.importorskip("nirtorch")
    pytest.importorskip({"norse": "norse.torch"}.get(reader, reader))
    monkeypatch.setattr(check, "BATCH", 1)
    for make, folder in request.getfixturevalue("folders").items():
        found = check.compare(folder, reader)
        assert not found.differing, found.first
        wanted = [x.size for name, x in expected(make)[1].items() if name != "input"]
        assert (found.inputs, found.compared) == (2, sum(wanted))
