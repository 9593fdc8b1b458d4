"""Integers as ONNX: onnxruntime has every code and logit, in one pass and stepped.

`execution.one_shot` in int32, which rounds nothing, says what is right.
"""

import numpy as np
import pytest
from blocks import BLOCKS, lowered_block
from networks import OF_ONE_IMAGE, PIXELS, lowered

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from bitsnn_jax.exports.onnx_builder import OnnxError  # noqa: E402
from bitsnn_jax.exports.onnx_writer import export_onnx  # noqa: E402
from bitsnn_jax.integers.execution import one_shot  # noqa: E402
from bitsnn_jax.integers.fixed_point import fixed_point  # noqa: E402
from bitsnn_jax.integers.graph import (  # noqa: E402
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
    apply,
    out_shape,
)
from bitsnn_jax.integers.network import (  # noqa: E402
    IntegerNetwork,
    IntegerNode,
    largest_sum,
)
from bitsnn_jax.integers.tables import ALWAYS, NEVER  # noqa: E402

MODES = ("one_shot", "stepped")
ONE = Scale(np.ones((), np.int16))


def session(model):
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )


def expected(network, x):
    result = one_shot(network, carrier="int32")(x)
    codes = {f"code_{name}": code for name, code in result.codes.items()}
    return {name: np.asarray(a) for name, a in {**result.outputs, **codes}.items()}


def assert_same(network, x, modes=MODES):
    """Both models give all codes and logits, for batches of several sizes."""
    wanted = expected(network, x)
    for mode in modes:
        runtime = session(export_onnx(network, mode=mode))
        names = [output.name for output in runtime.get_outputs()]
        assert set(names) == set(wanted)
        for batch in (x, x[:1]):
            found = runtime.run(names, {"input": batch})
            for name, array in zip(names, found, strict=True):
                np.testing.assert_array_equal(
                    array, wanted[name][: len(batch)], err_msg=f"{mode}: {name}"
                )
    return wanted


def numbers(rng, *shape, most=127):
    return rng.integers(-most, most + 1, shape).astype(np.int8)


def conv(rng, *shape, stride=1, padding=(0, 0), lhs=1, rhs=1, groups=1):
    space = len(shape) - 2
    kernel = numbers(rng, *shape)
    return Conv(
        kernel, (stride,) * space, (padding,) * space, (lhs,) * space, (rhs,) * space,
        groups,
    )  # fmt: skip


def bounded(node, network):
    """The node with the bound that its numbers have."""
    bound = largest_sum(node, network) + int(np.max(node.half))
    return node._replace(bound=bound)


def network_of(nodes, steps, white=255):
    """Nodes behind an input, each with its bound."""
    made = [nodes[0]]
    for node in nodes[1:]:
        before = IntegerNetwork(tuple(made), steps, 8, white)
        made.append(bounded(node, before))
    return IntegerNetwork(tuple(made), steps, 8, white)


def layer(rng, name, kind, shape, terms, fraction):
    bias = rng.integers(-(2**fraction) // 2, 2**fraction, shape[-1])
    each = fraction + rng.integers(0, 2, shape[-1])
    if kind == "output":
        each *= 0
    rank = (1,) * (len(shape) - 1) + (-1,)
    return IntegerNode(
        name, kind, shape, tuple(terms), bias.reshape(rank).astype(np.int32),
        each.reshape(rank).astype(np.int32),
    )  # fmt: skip


def one_term(seed, shape, *ops, steps=4, fraction=None):
    """Neurons that see the input, what `ops` make of their codes, and a read-out."""
    rng = np.random.default_rng(seed)
    fraction = fraction or min(6 + steps, 9)
    weight = next(i for i, op in enumerate(ops) if isinstance(op, Scale | Conv | Dense))
    term = Term("a", ops[:weight], ops[weight], ops[weight + 1 :])
    first = layer(
        rng, "a", "neurons", shape, [Term("input", (), ONE, ())], max(8 - steps, 0)
    )
    out = shape
    for op in ops:
        out = out_shape(op, out)
    second = layer(rng, "b/1", "neurons", out, [term], fraction)
    factor = Scale(np.int16(-3))
    last = layer(rng, "out", "output", out, [Term("b/1", (), factor, ())], 4)
    image = IntegerNode("input", "input", shape, bound=255)
    network = network_of([image, first, second, last], steps)
    pixels = rng.integers(0, 256, (3, *shape[1:])).astype(np.uint8)
    return network, pixels


R = np.random.default_rng(7)
IMAGE, LINE, BOX = (1, 6, 5, 4), (1, 9, 4), (1, 4, 3, 4, 2)
SHUFFLED = R.permutation(120).reshape(1, 6, 5, 4).astype(np.int32)
WITH_HOLES = R.integers(-1, 120, (1, 3, 4, 4)).astype(np.int32)
TURNED = np.arange(120).reshape(IMAGE).transpose(0, 3, 1, 2).astype(np.int32)
NOT = (0, 0)
POOL = WindowSum((1, 2, 2, 1), (1, 2, 2, 1), (NOT, (0, 1), (1, 0), NOT))
ODD_POOL = WindowSum((1, 2, 1, 3), (1, 1, 2, 1), (NOT, (2, 0), NOT, (1, 1)))
ROWS_POOL = Reshape((6, 20)), WindowSum((2, 3), (2, 1), ((1, 1), (0, 2)))
OPERATIONS = {
    "conv": (IMAGE, conv(R, 3, 3, 4, 5, padding=(1, 1))),
    "strided": (IMAGE, conv(R, 3, 3, 4, 5, stride=2, padding=(0, 1))),
    "grouped": (IMAGE, conv(R, 3, 3, 2, 6, padding=(1, 1), groups=2)),
    "depthwise": (IMAGE, conv(R, 3, 3, 1, 4, padding=(1, 1), groups=4)),
    "dilated": (IMAGE, conv(R, 2, 2, 4, 3, rhs=3, padding=(2, 0))),
    "transposed": (IMAGE, conv(R, 3, 3, 4, 3, lhs=2, padding=(1, 2))),
    "cut": (IMAGE, conv(R, 2, 2, 4, 3, padding=(-1, 0))),
    "cut and spread": (IMAGE, conv(R, 2, 2, 4, 3, lhs=3, padding=(1, -2))),
    "line": (LINE, conv(R, 3, 4, 5, padding=(2, 0))),
    "box": (BOX, conv(R, 2, 2, 2, 2, 3, padding=(1, 0))),
    "dense": (IMAGE, Reshape((1, 120)), Dense(numbers(R, 120, 7))),
    "rows": (IMAGE, Reshape((30, 4)), Dense(numbers(R, 4, 3)), Reshape((1, 30, 3))),
    "factor": (IMAGE, Scale(R.integers(-900, 900, (1, 1, 1, 4)).astype(np.int16))),
    "factors": (IMAGE, Scale(R.integers(-900, 900, IMAGE).astype(np.int16))),
    "shifted": (IMAGE, conv(R, 1, 1, 4, 3), Shift(2)),
    "moved behind": (IMAGE, Scale(np.int16(90)), Move(SHUFFLED)),
    "sum": (IMAGE, Sum((1, 2)), Dense(numbers(R, 4, 3))),
    "sum of channels": (IMAGE, Sum((3,)), Scale(np.int16(30))),
    "sum of all": (LINE, Reshape((9, 4)), Sum((0,)), Reshape((1, 4)), ONE),
    "pooled": (IMAGE, POOL, conv(R, 1, 1, 4, 3)),
    "pooled oddly": (IMAGE, ODD_POOL, Scale(np.int16(9))),
    "pooled rows": (IMAGE, *ROWS_POOL, Dense(numbers(R, 20, 3)), Reshape((1, 4, 3))),
    "pooled behind": (IMAGE, conv(R, 1, 1, 4, 3), POOL),
    "shuffled": (IMAGE, Move(SHUFFLED), conv(R, 1, 1, 4, 3)),
    "holes": (IMAGE, Move(WITH_HOLES), conv(R, 2, 2, 4, 3)),
    "channels first": (IMAGE, Move(TURNED), Scale(np.int16(50))),
}  # fmt: skip


@pytest.mark.parametrize("steps", [4, 8])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_exact(name, steps):
    shape, *ops = OPERATIONS[name]
    network, pixels = one_term(len(name), shape, *ops, steps=steps)
    codes = assert_same(network, pixels)["code_b/1"]
    assert np.ptp(codes), "a test of zeros"


def residual(seed, steps, *, most=2000, skip_window=1, white=255):
    """Two convolutions, a skip with multipliers of up to `most`, and a strided one."""
    rng = np.random.default_rng(seed)
    image = IntegerNode("input", "input", (1, 6, 6, 2), bound=white)
    shape, small = (1, 6, 6, 3), (1, 3, 3, 4)
    first = conv(rng, 3, 3, 2, 3, padding=(1, 1))
    second = conv(rng, 3, 3, 3, 3, padding=(1, 1))
    factor = Scale(rng.integers(-most, most + 1, (1, 1, 1, 3)).astype(np.int16))
    down = conv(rng, 3, 3, 3, 4, stride=2, padding=(1, 1))
    again = conv(rng, 3, 3, 4, 4, padding=(1, 1))
    skip = conv(
        rng, skip_window, skip_window, 3, 4, stride=2, padding=(skip_window // 2,) * 2
    )
    f = max(11 - steps, 0)
    skipped = [Term("a", (), second, ()), Term("a", (), factor, ())]
    shrunk = [Term("c", (), again, ()), Term("b", (), skip, (Shift(3),))]
    read = Term("d", (Sum((1, 2)),), Dense(numbers(rng, 4, 4)), ())
    nodes = [
        image,
        layer(rng, "a", "neurons", shape, [Term("input", (), first, ())], 15 - steps),
        layer(rng, "b", "neurons", shape, skipped, f),
        layer(rng, "c", "neurons", small, [Term("b", (), down, ())], f),
        layer(rng, "d", "neurons", small, shrunk, f),
        layer(rng, "out", "output", (1, 4), [read], 9),
    ]
    kind = np.uint8 if white < 256 else np.uint16 if white < 65536 else np.uint32
    pixels = rng.integers(0, white + 1, (3, 6, 6, 2)).astype(kind)
    return network_of(nodes, steps, white), pixels


def operators(network, mode="one_shot"):
    return [node.op_type for node in export_onnx(network, mode=mode).graph.node]


@pytest.mark.parametrize("steps", range(1, 9))
def test_skips_are_channels_of_a_convolution_of_bytes_where_codes_leave_room(steps):
    network, pixels = residual(steps, steps, most=1200 if steps < 6 else 100)
    assert_same(network, pixels)
    # Before 8 bits of a code there is room for the digits of what is 8 times a byte.
    kinds = operators(network)
    assert kinds.count("QLinearConv") == (4 if steps < 7 else 3)
    assert "Min" in kinds if steps < 8 else "Min" not in kinds


@pytest.mark.parametrize("steps", [2, 5])
def test_a_skip_with_a_window_of_its_own(steps):
    network, pixels = residual(3, steps, skip_window=3)
    assert_same(network, pixels)


@pytest.mark.parametrize("seed", range(8))
def test_ties_go_up_and_nothing_else_moves(seed):
    """Every z around every threshold, for each fraction that bytes take."""
    rng = np.random.default_rng(seed)
    steps, fraction = (4, 17 - seed) if seed % 2 else (8, 13 - seed)
    white, top = 2**8 - 1, 2**steps - 1
    # z = 127 (p1 - p2) + p3 + bias: all integers of a wide range, one bias a channel.
    reach = (top + 2) << fraction
    z = np.sort(rng.integers(-1, top + 2, 400)) * 2**fraction + 2 ** (fraction - 1)
    z = np.unique(np.concatenate([z + step for step in range(-2, 3)]))
    bias = z[(np.abs(z) < reach)]
    kernel = np.broadcast_to(np.int8([[127], [-127], [1]]), (3, len(bias)))
    term = Term("input", (), Dense(kernel), ())
    shape = (1, len(bias))
    neurons = IntegerNode(
        "a", "neurons", shape, (term,), bias.astype(np.int32)[None],
        np.full((1, len(bias)), fraction, np.int32),
    )  # fmt: skip
    image = IntegerNode("input", "input", (1, 3), bound=white)
    out = IntegerNode("out", "output", shape, (Term("a", (), ONE, ()),))
    network = network_of([image, neurons, out], steps)
    pixels = np.uint8([[0, 0, 0], [0, 0, 1], [1, 1, 1], [2, 1, 0], [0, 1, 129]])
    assert "QLinearConv" in operators(network)
    codes = assert_same(network, pixels, ["one_shot"])["code_a"]
    assert {0, top} <= set(codes.reshape(-1)) and len(np.unique(codes)) > 2**steps / 2


def test_larger_fractions_are_left_to_floats():
    for fraction, count in ((16, 2), (17, 1)):
        network, pixels = one_term(0, IMAGE, conv(R, 3, 3, 4, 5), fraction=fraction)
        [*_, last, _] = network.nodes
        last = last._replace(bias=last.bias + (3 << fraction))
        network = network_of([*network.nodes[:2], last, network.nodes[-1]], 4)
        assert operators(network).count("QLinearConv") == count
        assert np.ptp(assert_same(network, pixels)["code_b/1"])


@pytest.mark.parametrize("white", [255, 4095, 65535, 2**20])
@pytest.mark.parametrize("steps", [3, 8, 12])
def test_sums_beyond_2_to_24_are_exact(steps, white):
    network, pixels = residual(5, steps, most=20000, white=white)
    network = IntegerNetwork(network.nodes, steps, 8, white)
    if max(node.bound for node in network.nodes) < 2**31:
        assert_same(network, pixels)
    if white > 2**18 or steps == 12:
        assert max(node.bound for node in network.nodes) > 2**24


@pytest.mark.parametrize("steps", [3, 8])
def test_maxima_of_codes_and_products_of_layers(steps):
    rng = np.random.default_rng(steps)
    shape, f = (1, 4, 6, 2), 4 + steps
    window = WindowMax((1, 2, 3, 1), (1, 2, 2, 1), ((0, 0), (0, 0), (1, 2), (0, 0)))
    pooled = out_shape(window, shape)
    odd = WindowMax((1, 1, 1, 2), (1, 1, 1, 1), ((0, 0), (1, 0), (0, 0), (1, 0)))
    see = [Term("input", (), conv(rng, 3, 3, 2, 2, padding=(1, 1)), ())]
    columns = (Move(np.arange(48).reshape(shape).transpose(0, 3, 1, 2)),)
    held = Held("b", (*columns, Reshape((2, 4, 6))), (2, 4, 6))
    rows = Move(np.arange(48).reshape(2, 6, 4).transpose(1, 0, 2).reshape(6, 8))
    product = Term("a", (*columns, Reshape((2, 6, 4)), rows), held, ())
    gate = Held("low", (Reshape((48, 1, 1)),), (48, 1, 1))
    gated = Term("a", (Reshape((1, 48)),), gate, (Reshape(shape),))
    nodes = [
        IntegerNode("input", "input", shape, bound=255),
        layer(rng, "a", "neurons", shape, see, 15 - steps),
        layer(rng, "b", "neurons", shape, see, 15 - steps),
        layer(rng, "low", "neurons", shape, see, 15 - steps),
        IntegerNode("most", "maximum", pooled, tuple(
            Term(name, (window,), ONE, ()) for name in ("a", "b"))),
        IntegerNode("more", "maximum", (1, 5, 6, 2), (Term("a", (odd,), ONE, ()),)),
        IntegerNode("all", "maximum", (1, 2), (Term("b", (Max((1, 2)),), ONE, ()),)),
        IntegerNode("times", "sum", (6, 12), (product,), fraction=np.int32(3)),
        IntegerNode("gated", "sum", shape, (gated,), fraction=np.int32(2)),
        layer(rng, "c", "neurons", (1, 2), [
            Term("most", (Sum((1, 2)),), Dense(numbers(rng, 2, 2)), ()),
            Term("more", (Sum((1, 2)),), Dense(numbers(rng, 2, 2)), ()),
            Term("all", (), Dense(numbers(rng, 2, 2)), ()),
            Term("times", (Reshape((1, 72)),), Dense(numbers(rng, 72, 2)), ()),
            Term("gated", (), conv(rng, 4, 6, 2, 2), (Reshape((1, 2)),)),
        ], f + 3),
        layer(rng, "out", "output", (1, 2), [Term("c", (), ONE, ())], 3),
    ]  # fmt: skip
    pixels = rng.integers(0, 256, (3, *shape[1:])).astype(np.uint8)
    assert np.ptp(assert_same(network_of(nodes, steps), pixels)["code_c"])


@pytest.mark.parametrize("steps", [2, 5])
@pytest.mark.parametrize("axes", [(1, 1, 1, 1), (1, 1, 1, 3), (1, 4, 4, 3)])
def test_tables_that_rise_fall_and_do_both(axes, steps):
    rng, shape, levels = np.random.default_rng(steps), (1, 4, 4, 3), 2**steps - 1
    kernel = conv(rng, 3, 3, 3, 3, padding=(1, 1))
    image = IntegerNode("input", "input", shape, bound=255)
    steady = np.sort(rng.integers(-(10**5), 10**5, (levels, *axes)), 0)
    low, high = np.sort(rng.integers(-(10**5), 10**5, (2, levels, *axes)), 0)
    sides = {
        "rises": (steady, np.full_like(steady, NEVER)),
        "falls": (np.full_like(steady, ALWAYS), steady[::-1]),
        "both": (np.maximum.accumulate(low), np.minimum.accumulate(high)),
    }
    nodes = [image]
    for name, pair in sides.items():
        node = layer(rng, name, "neurons", shape, [Term("input", (), kernel, ())], 3)
        rise, fall = (side.astype(np.int32) for side in pair)
        nodes.append(node._replace(rise=rise, fall=fall))
    terms = [Term(name, (), Scale(np.int16(3)), ()) for name in sides]
    nodes.append(layer(rng, "out", "output", shape, terms, 2))
    pixels = rng.integers(0, 256, (3, *shape[1:])).astype(np.uint8)
    wanted = assert_same(network_of(nodes, steps), pixels)
    assert all(np.ptp(wanted[f"code_{name}"]) for name in sides)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 4, 8])
@pytest.mark.parametrize("network", [*OF_ONE_IMAGE, *BLOCKS])
def test_what_is_lowered_from_networks_is_exact(network, steps):
    make = lowered_block if network in BLOCKS else lowered
    assert_same(fixed_point(make(network), steps=steps), PIXELS)


def test_an_input_is_the_only_source():
    shape = (1, 2, 2, 3)
    bias = np.arange(12, dtype=np.int32).reshape(shape)
    nodes = [
        IntegerNode("input", "input", shape, bound=255),
        IntegerNode("still", "neurons", shape, (), bias, np.int32(2)),
        IntegerNode("out", "output", shape, (Term("still", (), ONE, ()),)),
    ]
    assert_same(network_of(nodes, 3), np.zeros((2, 2, 2, 3), np.uint8))


def test_codes_may_be_left_out_and_facts_are_in_the_file():
    network, _ = residual(1, 4)
    model = export_onnx(network, codes=False)
    assert [output.name for output in model.graph.output] == ["out"]
    facts = {fact.key: fact.value for fact in model.metadata_props}
    assert facts["mode"] == "one_shot" and facts["steps"] == "4"
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "n"


def test_what_cannot_be_exact_names_the_layer():
    network, _ = residual(1, 4)
    with pytest.raises(OnnxError, match="mode must be one of one_shot, stepped, got"):
        export_onnx(network, mode="both")
    wide = conv(R, 1, 1, 70000, 1)
    wide = wide._replace(kernel=np.full_like(wide.kernel, 127))
    image = IntegerNode("input", "input", (1, 1, 1, 70000), bound=255)
    out = IntegerNode(
        "wide/one", "output", (1, 1, 1, 1), (Term("input", (), wide, ()),)
    )
    with pytest.raises(OnnxError, match="wide/one: its sums reach 2,266,950,000, and"):
        export_onnx(network_of([image, out], 4))
    shape = (1, 2, 2, 2, 2, 1)
    image = IntegerNode("input", "input", shape, bound=255)
    term = Term("input", (), conv(R, 1, 1, 1, 1, 1, 1), ())
    with pytest.raises(OnnxError, match="cube: its convolution has 4 axes of space"):
        export_onnx(
            network_of([image, IntegerNode("cube", "output", shape, (term,))], 4)
        )


@pytest.mark.parametrize("stride, window, padding", [(1, 3, 1), (2, 3, 1), (1, 5, 2)])
def test_a_bias_that_differs_along_the_border_is_weights_of_constant_channels(
    stride, window, padding
):
    """As where a normalised image is padded with zeros."""
    rng, shape = np.random.default_rng(stride), (1, 7, 6, 2)
    kernel = conv(
        rng, window, window, 2, 3, stride=stride, padding=(padding, padding)
    )  # fmt: skip
    image = IntegerNode("input", "input", shape, bound=255)
    mean = np.full((1, *shape[1:]), 131, np.int32)
    shift = np.asarray(
        apply(kernel._replace(kernel=kernel.kernel.astype(np.int32)), mean)
    )
    node = layer(
        rng, "a", "neurons", shift.shape, [Term("input", (), kernel, ())], 10
    )  # fmt: skip
    node = node._replace(bias=(node.bias - shift).astype(np.int32))
    out = IntegerNode("out", "output", node.shape, (Term("a", (), ONE, ()),))
    network = network_of([image, node, out], 4)
    pixels = rng.integers(0, 256, (3, *shape[1:])).astype(np.uint8)
    kinds = operators(network)
    assert kinds.count("QLinearConv") == 1 and "Conv" not in kinds
    assert np.ptp(assert_same(network, pixels)["code_a"])
    # A bias of no such kind is left to floats.
    odd = node.bias.copy()
    odd[0, 2, 1, 1] += 1
    network = network_of([image, node._replace(bias=odd), out], 4)
    assert "Conv" in operators(network)
    assert_same(network, pixels)
