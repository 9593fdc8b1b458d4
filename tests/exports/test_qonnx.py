"""QONNX: its own executor finds every code and every logit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import (
    Inverted,
    MultilayerPerceptron,
    Pooling,
    Residual,
    lowered,
)

from bitsnn_jax import qcfs
from bitsnn_jax.exports import bundle_writer, check
from bitsnn_jax.exports.formats import FORMATS
from bitsnn_jax.integers.execution import one_shot
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.integers.graph import (
    Dense,
    Graph,
    Held,
    Move,
    Node,
    Reshape,
    Scale,
    Term,
)
from bitsnn_jax.integers.lowering import lower
from bitsnn_jax.integers.network import IntegerNetwork, IntegerNode
from bitsnn_jax.runs.loading import load_ann

pytest.importorskip("onnx")
pytest.importorskip("qonnx")

from qonnx.core.modelwrapper import ModelWrapper  # noqa: E402
from qonnx.core.onnx_exec import execute_onnx  # noqa: E402
from qonnx.transformation.change_batchsize import ChangeBatchSize  # noqa: E402
from qonnx.transformation.infer_shapes import InferShapes  # noqa: E402

from bitsnn_jax.exports.qonnx_tensors import QONNXError  # noqa: E402
from bitsnn_jax.exports.qonnx_writer import in_file_order, to_qonnx  # noqa: E402

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)


def agrees(network, pixels):
    """All tensors, where the codes and the logits among them are those of JAX."""
    result = jax.jit(one_shot(network))(pixels)
    vectors = {f"codes/{name}": codes for name, codes in result.codes.items()}
    vectors |= {f"outputs/{name}": sums for name, sums in result.outputs.items()}
    expected = in_file_order(network, {"input": pixels, **vectors})
    model = ModelWrapper(to_qonnx(network))
    model = model.transform(ChangeBatchSize(len(pixels))).transform(InferShapes())
    x = expected.pop("input").astype(np.float32)
    tensors = execute_onnx(model, {"input": x}, return_full_exec_context=True)
    assert expected
    for name, numbers in expected.items():
        name = name.split("/", 1)[1]
        np.testing.assert_array_equal(tensors[name], numbers, err_msg=name)
    check_types(model, tensors)
    return model, tensors


def check_types(model, tensors):
    """Every tensor holds the integers that its type says."""
    types = {note.tensor_name for note in model.graph.quantization_annotation}
    floats = [a for a in model.graph.initializer if a.data_type == 1]  # no sizes
    assert {array.name for array in floats} <= types
    for name in types:
        kind = model.get_tensor_datatype(name)
        assert kind.allowed(tensors[name].min()), (name, kind)
        assert kind.allowed(tensors[name].max()), (name, kind)


@pytest.mark.parametrize(
    ("network", "steps"),
    (
        (Residual, 1),
        (Pooling, 2),
        (Inverted, 4),
        (MultilayerPerceptron, 6),
    ),
)
def test_its_executor_finds_every_code_and_logit(network, steps):
    model, _ = agrees(fixed_point(lowered(network), steps=steps), PIXELS)
    kinds = {model.get_tensor_datatype(t).name for t in model.get_all_tensor_names()}
    assert {"UINT8", "INT8", f"UINT{steps}"} <= kinds or steps == 1


def channels_first(v, x):
    def conv(x, kernel):
        kinds = ("NCHW", "HWIO", "NCHW")
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=kinds
        )

    a = qcfs(conv(x / 64 - 2, v[0]), 1.0)
    return qcfs(conv(a, v[1]), 1.0).reshape(len(x), -1) @ v[2]


def test_channels_first_networks_keep_their_input():
    shapes = ((3, 3, 2, 4), (3, 3, 4, 5), (5 * 5 * 6, 3))
    v = [np.float32(RNG.normal(size=shape) / 5) for shape in shapes]
    pixels = RNG.integers(0, 256, (3, 2, 5, 6)).astype(np.uint8)
    network = fixed_point(lower(channels_first, v, pixels[:1]), steps=4)
    model, _ = agrees(network, pixels)
    assert model.get_tensor_shape("input") == [3, 2, 5, 6]
    assert not model.get_nodes_by_op_type("Transpose")


def through(fn, theta=1.0):
    """A layer of a function of the pixels, in integers."""
    one = (Term("input", (), Scale(np.full((1, 6), 1 / 40)), ()),)
    nodes = (
        Node("input", "input", (1, 6)),
        Node(
            "f", "neurons", (1, 6), one, np.full(6, -3.0), np.float64(theta), 15, fn=fn
        ),
        Node("out", "output", (1, 2), (Term("f", (), Dense(np.ones((6, 2))), ()),)),
    )
    return fixed_point(Graph(nodes), steps=4)


@pytest.mark.parametrize("fn", (jnp.tanh, jax.nn.silu, jax.nn.softplus))
def test_a_function_that_rises_is_thresholds(fn):
    model, tensors = agrees(through(fn), RNG.integers(0, 256, (9, 6)))
    assert len(model.get_nodes_by_op_type("MultiThreshold")) == 1
    assert len(np.unique(tensors["f"])) > 5


def summing(count):
    """Half of the weights are positive, half of them negative."""
    kernel = np.where(np.arange(count) % 2, 127, -127).astype(np.int8)[:, None]
    term = Term("input", (), Dense(kernel), ())
    bound = count * 127 * 255
    out = IntegerNode("out", "output", (1, 1), (term,), bound=bound)
    nodes = (IntegerNode("input", "input", (1, count)), out)
    return IntegerNetwork(nodes, 4, 8, 255)


def test_sums_are_exact_as_far_as_float32_counts():
    """Weights of one sign make the largest sum, in any order: half of the bound."""
    network = summing(1000)
    assert network["out"].bound > 2**24
    pixels = np.zeros((2, 1000), np.uint8)
    pixels[0, ::2], pixels[1, 1::2] = 255, 255
    agrees(network, pixels)
    with pytest.raises(QONNXError, match="out: QONNX has no sums of 17,811,750, only"):
        to_qonnx(summing(1100))


def layer(term, shape=(1, 6), **fields):
    """One layer of neurons of the pixels."""
    node = IntegerNode("f", "neurons", shape, (term,), bound=2**20)._replace(**fields)
    return IntegerNetwork((IntegerNode("input", "input", (1, 6)), node), 4, 8, 255)


def test_what_has_no_form_is_an_error_of_one_line():
    one = Scale(np.int16(1))
    moved = Term("input", (Move(np.array([[5, 4, 3, 2, 1, 0]], np.int32)),), one, ())
    rows = Term("input", (Reshape((2, 3)),), Dense(np.ones((3, 3), np.int8)), ())
    held = Term("input", (), Held("input", (), (6, 1, 1)), ())
    by_pixel = np.zeros((1, 2, 3), np.int32) + np.arange(2)[:, None].astype(np.int32)
    pixels = Term("input", (Reshape((1, 2, 3)),), one, ())
    for network, words in (
        (layer(moved), "moves of values but transpositions"),
        (layer(rows, (2, 3)), "values without an axis for the batch"),
        (layer(held), "products of two layers"),
        (layer(pixels, (1, 2, 3), fraction=by_pixel), "thresholds that differ within"),
        (
            through(lambda z: -jax.nn.silu(z), 0.27),
            "neurons with a function that falls",
        ),
    ):
        with pytest.raises(QONNXError, match=f"f: QONNX has no {words}") as caught:
            to_qonnx(network)
        assert "\n" not in str(caught.value)


@pytest.fixture
def folder(tmp_path):
    network = through(jnp.tanh)
    bundle_writer.save(network, tmp_path / "net", vectors=RNG.integers(0, 256, (3, 6)))
    (tmp_path / "out").mkdir()
    vectors = bundle_writer.load_vectors(tmp_path / "net")
    FORMATS["qonnx"].write(network, vectors, tmp_path / "out")
    return tmp_path / "out"


def test_the_script_of_an_export_compares_codes_and_logits(folder):
    found = check.compare(folder, "qonnx", limit=2)
    assert (found.inputs, found.compared, found.differing) == (2, 16, 0)


def test_a_model_of_another_network_is_named(folder):
    with np.load(folder / "vectors.npz") as arrays:
        arrays = dict(arrays)
    np.savez(folder / "vectors.npz", **arrays, **{"codes/g": arrays["codes/f"]})
    with pytest.raises(check.CheckError, match="has no codes/g: take both from one"):
        check.compare(folder, "qonnx")


@pytest.mark.slow
@pytest.mark.parametrize("name", ("resnet20_fashion_mnist", "vgg_fashion_mnist"))
@pytest.mark.parametrize("steps", (4, 8))
def test_shipped_networks_are_exact(name, steps):
    apply_fn, run = load_ann(name)
    pixels = RNG.integers(0, 256, (2, 28, 28, 1)).astype(np.uint8)
    graph = lower(lambda v, x: apply_fn(v, x / 128 - 1), run.variables, pixels[:1])
    agrees(fixed_point(graph, steps=steps), pixels)
