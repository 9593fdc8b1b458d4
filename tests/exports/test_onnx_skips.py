"""Skips of tied networks in ONNX: behind the rounding of bytes, every code right."""

import collections

import numpy as np
import pytest
from networks import PIXELS, Residual, lowered

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from bitsnn_jax.exports.onnx_writer import export_onnx  # noqa: E402
from bitsnn_jax.integers.execution import one_shot  # noqa: E402
from bitsnn_jax.integers.fixed_point import fixed_point  # noqa: E402
from bitsnn_jax.integers.graph import Conv, Scale, Shift, Term  # noqa: E402
from bitsnn_jax.integers.network import (  # noqa: E402
    IntegerNetwork,
    IntegerNode,
    largest_sum,
)
from bitsnn_jax.integers.ties import tied  # noqa: E402

SHAPE = (1, 5, 5, 6)


def operators(network):
    model = export_onnx(network)
    return collections.Counter(node.op_type for node in model.graph.node)


def assert_same(network, x):
    """The model gives all codes; these take every value there is."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        export_onnx(network).SerializeToString(),
        settings,
        providers=["CPUExecutionProvider"],
    )
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(names, {"input": x}), strict=True))
    wanted = one_shot(network, carrier="int32")(x)
    for name, code in wanted.codes.items():
        np.testing.assert_array_equal(found[f"code_{name}"], code, err_msg=name)
    np.testing.assert_array_equal(found["output"], wanted.outputs["output"])
    return wanted.codes


def convolution(rng):
    kernel = rng.integers(-127, 128, (3, 3, 6, 6)).astype(np.int8)
    return Conv(kernel, (1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1), 1)


def layer(network, name, terms, fraction):
    rng = np.random.default_rng(len(network.nodes))
    bias = rng.integers(-(2**fraction), 2**fraction, SHAPE[-1:]).astype(np.int32)
    node = IntegerNode(name, "neurons", SHAPE, terms, bias.reshape(1, 1, 1, -1))
    node = node._replace(fraction=fraction.reshape(1, 1, 1, -1).astype(np.int32))
    bound = largest_sum(node, network) + int(node.half.max())
    return IntegerNetwork(
        (*network.nodes, node._replace(bound=bound)), network.steps, 8, 255
    )


def with_skip(steps, times, shift=0):
    """Codes of the input, and a layer with a convolution and `times` these codes."""
    rng = np.random.default_rng(steps)
    network = IntegerNetwork((IntegerNode("input", "input", SHAPE),), steps, 8, 255)
    # Sums leave the codes on both sides, and some are ties.
    fraction = rng.integers(7, 9, 6)
    first = Term("input", (), convolution(rng), ())
    network = layer(network, "a", (first,), fraction + 8 - steps)
    factor = (times * 2.0 ** (fraction - shift)).astype(np.int16)
    skip = Term(
        "a", (), Scale(factor.reshape(1, 1, 1, -1)), (Shift(shift),) * (shift > 0)
    )
    convolved = Term("a", (), convolution(rng), ())
    network = layer(network, "b", (convolved, skip), fraction)
    output = IntegerNode(
        "output", "output", SHAPE, (Term("b", (), Scale(np.int16(1)), ()),)
    )
    nodes = (*network.nodes, output._replace(bound=2**steps))
    return IntegerNetwork(nodes, steps, 8, 255)


# Convolutions in bytes of the second layer, and what is added up.
FORMS = {(4, 1): (1, 1), (7, 1): (1, 1), (8, 1): (2, 2), (4, 8): (1, 1), (6, 2): (1, 1)}


@pytest.mark.parametrize("steps, times", FORMS)
@pytest.mark.parametrize("shift", [0, 3])
def test_whole_codes_come_behind_the_rounding_and_every_code_is_right(
    steps, times, shift
):
    network = with_skip(steps, times, shift)
    x = np.random.default_rng(0).integers(0, 256, (120, *SHAPE[1:])).astype(np.uint8)
    codes = assert_same(network, x)
    assert len(np.unique(codes["b"])) == 2**steps
    convolutions, sums = FORMS[steps, times]
    found = operators(network)
    assert (found["QLinearConv"], found["QuantizeLinear"]) == (1 + convolutions, sums)
    assert not found["Conv"]


@pytest.mark.parametrize("steps, times", [(4, 0.5), (4, 1.25), (8, 2)])
def test_other_multipliers_stay_in_the_sum(steps, times):
    network = with_skip(steps, times)
    x = np.random.default_rng(0).integers(0, 256, (9, *SHAPE[1:])).astype(np.uint8)
    assert_same(network, x)
    assert not operators(network)["QuantizeLinear"]


def test_a_tied_network_of_eight_steps_needs_no_floats_for_its_skips():
    graph = lowered(Residual)
    untied = operators(fixed_point(graph, steps=8))
    network = fixed_point(tied(graph, steps=8).graph, steps=8)
    found = operators(network)
    assert_same(network, PIXELS)
    assert found["QuantizeLinear"] > untied["QuantizeLinear"] == 0
    assert found["Conv"] < untied["Conv"]
