"""Files of ONNX as networks: names, batches, spikes, integers, and wrong files."""

import pickle

import jax
import numpy as np
import pytest
from onnx_models import drawn, saved

import bitsnn_jax
from bitsnn_jax import from_onnx, in_float64, quantise, referee, verify
from bitsnn_jax.exports import bundle_writer
from bitsnn_jax.integers.execution import one_shot, stepped
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.integers.lowering import lower
from bitsnn_jax.interop.onnx_program import Program
from bitsnn_jax.runtime.reading import ReadingError

onnx = pytest.importorskip("onnx")
make_node = onnx.helper.make_node
RELU = make_node("Relu", ["x"], ["y"], name="/act/Relu")


def ints(*values):
    return np.array(values, np.int64)


def expected_of(file, **inputs):
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


@pytest.fixture
def small(tmp_path):
    """Convolutions, a shortcut, a resize, poolings and a dense layer."""
    nodes = [
        make_node("Conv", ["x", "onnx::Conv_1", "b"], ["c"], name="/a/conv/Conv"),
        make_node("Clip", ["c", "zero", "six"], ["r"], name="/a/act/Clip"),
        make_node("Conv", ["r", "w"], ["d"], name="/a/a.1/Conv", pads=[1] * 4),
        make_node("Add", ["d", "r"], ["e"], name="/a/Add"),
        make_node("Relu", ["e"], ["f"], name="/a/a.act/Relu"),
        make_node("Resize", ["f", "", "twice"], ["g"], mode="nearest"),
        make_node("Conv", ["g", "w"], ["h"], name="/b/conv/Conv", strides=[2, 2]),
        make_node("Relu", ["h"], ["i"], name="/b/Relu"),
        make_node("GlobalAveragePool", ["i"], ["j"]),
        make_node("Flatten", ["j"], ["k"]),
        make_node("Gemm", ["k", "fc.weight", "fc.bias"], ["y"], name="/fc/Gemm"),
    ]
    constants = {
        "onnx::Conv_1": drawn(4, 3, 3, 3) / 128,
        "b": drawn(4),
        "w": drawn(4, 4, 3, 3) / 4,
        "zero": np.float32(0),
        "six": np.float32(6),
        "twice": np.array([1, 1, 2, 2], np.float32),
        "fc.weight": drawn(4, 5),
        "fc.bias": drawn(5),
    }
    x = np.random.default_rng(0).integers(0, 256, (2, 3, 6, 6)).astype(np.float32)
    file = saved(
        tmp_path / "s.onnx", nodes, {"x": x}, ["y"], constants, x=["n", 3, 6, 6]
    )
    return file, x


def test_a_file_becomes_a_network_with_the_names_of_its_modules(small):
    file, x = small
    apply_fn, variables = from_onnx(file)
    names = "a.conv.weight b w fc.weight fc.bias"
    assert list(variables) == names.split()
    [expected] = expected_of(file, x=x)
    np.testing.assert_allclose(apply_fn(variables, x), expected, rtol=1e-5, atol=1e-5)
    assert apply_fn(variables, x[:1]).shape == (1, 5)

    quantised = quantise(apply_fn, variables, [x], levels=15, per_channel=True)
    thetas = {name: a.shape for name, a in quantised.variables["theta"].items()}
    assert thetas == {"a.act": (4,), "a.act@2": (4,), "b": (4,)}
    again = pickle.loads(pickle.dumps(quantised.apply_fn))
    assert_exact(again, quantised.variables, x)


def assert_exact(apply_fn, variables, x, *, steps=4):
    with jax.enable_x64(True):
        wide = x.astype(np.float64)
        certificate = verify(apply_fn, in_float64(variables), wide, steps=steps)
    assert certificate.exact
    return list(certificate.layers)


def test_an_imported_network_is_exact_in_integers(small, tmp_path):
    file, x = small
    quantised = quantise(*from_onnx(file), [x], levels=15, per_channel=True)
    assert_exact_in_integers(*quantised, x, tmp_path / "bundle")


def assert_exact_in_integers(apply_fn, variables, x, bundle):
    network = fixed_point(lower(apply_fn, variables, x[:1]), steps=4)
    # One for each channel.
    assert any(np.ptp(node.fraction) for node in network.of_kind("neurons"))
    pixels = x.astype(np.uint8)
    once, spikes = (jax.jit(fn(network))(pixels) for fn in (one_shot, stepped))
    jax.tree.map(np.testing.assert_array_equal, once, spikes)
    bundle_writer.save(network, bundle, vectors=pixels)
    assert referee.main([str(bundle)]) == 0


def test_float64_is_float64_from_end_to_end(small):
    file, x = small
    apply_fn, variables = from_onnx(file)
    with jax.enable_x64(True):
        wide = {name: array.astype(np.float64) for name, array in variables.items()}
        program = jax.make_jaxpr(apply_fn)(wide, x.astype(np.float64))
    assert "f32" not in str(program)


def test_a_program_is_data(small):
    import msgspec

    apply_fn, _ = from_onnx(small[0])
    text = msgspec.json.encode(apply_fn.program)
    assert msgspec.json.decode(text, type=Program) == apply_fn.program


def with_reshape(tmp_path, sizes, batch=1):
    x = drawn(batch, 2, 3)
    nodes = [
        make_node("Reshape", ["x", "sizes"], ["r"]),
        make_node("MatMul", ["r", "w"], ["m"]),
        make_node("Relu", ["m"], ["y"]),
    ]
    constants = {"sizes": sizes, "w": drawn(6, 2)}
    return saved(tmp_path / "r.onnx", nodes, {"x": x}, ["y"], constants)


@pytest.mark.parametrize(
    "sizes, how", [(ints(1, 6), "mapped"), (ints(0, 6), "any"), (ints(-1, 6), "any")]
)
def test_a_file_for_one_example_takes_any_batch(sizes, how, tmp_path):
    file = with_reshape(tmp_path, sizes)
    apply_fn, variables = from_onnx(file)
    assert apply_fn.program.batch == how
    x = drawn(3, 2, 3)
    each = [expected_of(file, x=one[None])[0] for one in x]
    found = apply_fn(variables, x)
    np.testing.assert_allclose(found, np.concatenate(each), rtol=1e-5, atol=1e-6)


def test_a_file_for_a_fixed_batch_takes_no_other(tmp_path):
    apply_fn, variables = from_onnx(with_reshape(tmp_path, ints(2, 6), batch=2))
    assert apply_fn(variables, drawn(2, 2, 3)).shape == (2, 2)
    with pytest.raises(ValueError, match=r"x must have the shape \[2, 2, 3\]"):
        apply_fn(variables, drawn(3, 2, 3))


def test_sizes_are_computed_while_the_network_is_traced(tmp_path):
    """As exporters write x.view(len(x), -1) and zeros of the size of x."""
    nodes = [
        make_node("Shape", ["x"], ["s"]),
        make_node("Gather", ["s", "first"], ["n"], axis=0),
        make_node("Concat", ["n", "rest"], ["sizes"], axis=0),
        make_node("Reshape", ["x", "sizes"], ["r"]),
        make_node("ConstantOfShape", ["sizes1"], ["ones"], value=tensor(1.0)),
        make_node("Range", ["zero", "six", "one"], ["places"]),
        make_node("Cast", ["places"], ["floats"], to=1),
        make_node("NonZero", ["places"], ["found"]),
        make_node("Cast", ["found"], ["others"], to=1),
        make_node("Sum", ["r", "ones", "floats"], ["z"]),
        make_node("Mul", ["z", "others2"], ["y"]),
    ]
    nodes.insert(-1, make_node("ReduceSum", ["others"], ["others2"]))
    constants = {"first": ints(0), "rest": ints(-1), "sizes1": ints(1, 6)}
    constants |= {"zero": np.array(0), "six": np.array(6), "one": np.array(1)}
    x = drawn(3, 2, 3)
    file = saved(tmp_path / "z.onnx", nodes, {"x": x}, ["y"], constants, x=["n", 2, 3])
    apply_fn, variables = from_onnx(file)
    assert not variables
    found = jax.jit(apply_fn)(variables, x)
    np.testing.assert_allclose(found, expected_of(file, x=x)[0], rtol=1e-5)


def tensor(value):
    return onnx.numpy_helper.from_array(np.array([value], np.float32))


def test_inputs_and_results_may_be_several(tmp_path):
    nodes = [
        make_node("Add", ["x", "x2"], ["y"]),
        make_node("Mul", ["x", "x2"], ["z"]),
    ]
    x, other = drawn(2, 3), drawn(3, 3)[:2]
    file = saved(tmp_path / "t.onnx", nodes, {"x": x, "x2": other}, ["y", "z"])
    apply_fn, variables = from_onnx(file)
    for given in ((x, other), {"x2": other, "x": x}):
        total, product = apply_fn(variables, given)
        np.testing.assert_array_equal(total, x + other)
        np.testing.assert_array_equal(product, x * other)
    with pytest.raises(ValueError, match=r"takes 2 inputs \(x, x2\), got 1"):
        apply_fn(variables, x)
    with pytest.raises(ValueError, match="names x, x2; got z"):
        apply_fn(variables, {"z": x})


def test_layers_that_share_a_bias_in_the_file_have_one_each(tmp_path):
    nodes = [
        make_node("Gemm", ["x", "w", "b"], ["g"], name="/one/Gemm"),
        make_node("Identity", ["b"], ["same"]),
        make_node("Relu", ["g"], ["r"]),
        make_node("Gemm", ["r", "w", "same"], ["h"], name="/two/Gemm"),
        make_node("Gemm", ["h", "w", "b"], ["y"], name="/three/Gemm"),
    ]
    x, constants = drawn(2, 3), {"w": drawn(3, 3), "b": drawn(3)}
    _, variables = from_onnx(
        saved(tmp_path / "b.onnx", nodes, {"x": x}, ["y"], constants)
    )
    assert list(variables) == ["w", "b", "same", "b@2"]


def quantised_file(
    tmp_path, *, zero, kind=np.uint8, scale=0.05, after="DequantizeLinear"
):
    nodes = [
        make_node("DequantizeLinear", ["w_q", "ws", "wz"], ["w"], axis=1),
        make_node("MatMul", ["x", "w"], ["m"]),
        make_node("Relu", ["m"], ["r"], name="/act/Relu"),
        make_node("QuantizeLinear", ["r", "s", "z"], ["q"], name="q"),
        make_node(after, ["q", "s", "z"] if after[0] == "D" else ["q"], ["d"]),
        make_node("MatMul", ["d", "square"], ["n"]),
        make_node("Add", ["n", "b"], ["y"]),
    ]
    constants = {
        "w_q": np.arange(-6, 6, dtype=np.int8).reshape(3, 4),
        "ws": np.array([0.1, 0.2, 0.3, 0.4], np.float32),
        "wz": np.zeros(4, np.int8),
        "s": np.float32(scale),
        "z": kind(zero),
        "square": drawn(4, 4),
        "b": drawn(4),
    }
    file = tmp_path / "q.onnx"
    x = {"x": drawn(5, 3)}
    return saved(file, nodes, x, ["y"], constants, x=["n", 3]), x["x"]


def test_a_quantised_file_is_a_network_of_neurons(tmp_path):
    file, x = quantised_file(tmp_path, zero=0)
    apply_fn, variables = from_onnx(file)
    assert list(variables) == ["w", "act.theta", "square", "b"]
    np.testing.assert_allclose(variables["act.theta"], 255 * 0.05, rtol=1e-6)
    [expected] = expected_of(file, x=x)
    np.testing.assert_allclose(apply_fn(variables, x), expected, atol=1e-5)
    assert assert_exact(apply_fn, variables, x, steps=8) == ["act"]


@pytest.mark.parametrize("kind, zero", [(np.uint8, 100), (np.int8, 0), (np.int8, -20)])
def test_codes_of_both_signs_are_a_pair_of_neurons(kind, zero, tmp_path):
    file, x = quantised_file(tmp_path, zero=zero, kind=kind)
    apply_fn, variables = from_onnx(file)
    [expected] = expected_of(file, x=x)
    np.testing.assert_allclose(apply_fn(variables, x), expected, atol=1e-5)
    assert list(variables) == ["w", "q.theta", "q.theta_off", "square", "b"]


def test_a_quantised_file_of_another_kind_is_one_line(tmp_path):
    file, _ = quantised_file(tmp_path, zero=0, after="Identity")
    with pytest.raises(ReadingError, match="QuantizeLinear in q: integers are used by"):
        from_onnx(file)


def external(tmp_path):
    file = with_reshape(tmp_path, ints(1, 6))
    model = onnx.load(file)
    onnx.save(
        model, file, save_as_external_data=True, location="w.bin", size_threshold=0
    )
    return file


def test_weights_in_files_beside_it_are_read(tmp_path):
    _, variables = from_onnx(external(tmp_path))
    np.testing.assert_array_equal(variables["w"], drawn(6, 2))


def missing_weights(tmp_path):
    file = external(tmp_path)
    (tmp_path / "w.bin").unlink()
    return file


def damaged(tmp_path):
    file = with_reshape(tmp_path, ints(1, 6))
    file.write_bytes(file.read_bytes()[:-40])
    return file


def short_weights(tmp_path):
    file = with_reshape(tmp_path, ints(1, 6))
    model = onnx.load(file)
    model.graph.initializer[1].raw_data = b"1234"
    onnx.save(model, file)
    return file


def of_text(tmp_path):
    (tmp_path / "t.onnx").write_text("no network")
    return tmp_path / "t.onnx"


def empty(tmp_path):
    (tmp_path / "e.onnx").write_bytes(b"")
    return tmp_path / "e.onnx"


def unordered(tmp_path):
    file = with_reshape(tmp_path, ints(1, 6))
    model = onnx.load(file)
    del model.graph.node[0]
    onnx.save(model, file)
    return file


def unknown(tmp_path):
    nodes = [
        make_node("Det", ["x"], ["a"], name="/one/Det"),
        make_node("MaxPool", ["x"], ["b", "at"], kernel_shape=[1]),
        make_node("Celu", ["x"], ["c"], steep=1.0),
        make_node("Other", ["x"], ["d"], domain="com.other", name="/two/Other"),
        make_node("Sum", ["a", "at", "c", "d"], ["y"]),
    ]
    return saved(tmp_path / "u.onnx", nodes, {"x": drawn(2, 3, 3)}, ["y"])


def branching(tmp_path):
    branch = onnx.helper.make_graph([RELU], "b", [], [onnx.ValueInfoProto(name="y")])
    node = make_node(
        "If", ["c"], ["y"], name="/gate/If", then_branch=branch, else_branch=branch
    )
    inputs = {"x": drawn(2, 3), "c": np.array(True)}
    return saved(tmp_path / "i.onnx", [node], inputs, ["y"])


def old(tmp_path):
    return saved(tmp_path / "o.onnx", [RELU], {"x": drawn(2, 3)}, ["y"], opset=6)


@pytest.mark.parametrize(
    "make, words",
    [
        (
            lambda folder: folder / "nothing.onnx",
            ["expected a file of ONNX, found none"],
        ),
        (lambda folder: folder, ["expected a file of ONNX, found none"]),
        (of_text, ["no file of ONNX, or a damaged one"]),
        (empty, ["it holds no nodes"]),
        (damaged, ["no file of ONNX, or a damaged one"]),
        (short_weights, ["damaged: "]),
        (unordered, ["damaged: MatMul in MatMul uses r, which nothing"]),
        (missing_weights, ["the files with its weights cannot be read", "w.bin"]),
        (
            unknown,
            [
                "Det (in one)",
                "MaxPool with 2 results",
                "Celu (got an unexpected keyword argument 'steep')",
                "com.other.Other (in two)",
            ],
        ),
        (branching, ["If in gate decides by values what is computed"]),
        (old, ["operators of version 6; expected 7 or newer"]),
    ],
)
def test_a_wrong_file_is_one_line(make, words, tmp_path):
    with pytest.raises(ReadingError) as error:
        from_onnx(make(tmp_path))
    message = str(error.value)
    assert "\n" not in message and all(word in message for word in words), message


@pytest.mark.parametrize(
    "x, words",
    [
        (drawn(1, 2, 4), r"x must have the shape \[N, 2, 3\] that the file says; got"),
        (drawn(2, 3), r"got \[2, 3\]"),
    ],
)
def test_an_input_of_another_shape_is_one_line(x, words, tmp_path):
    apply_fn, variables = from_onnx(with_reshape(tmp_path, ints(0, 6)))
    with pytest.raises(ValueError, match=words):
        apply_fn(variables, x)
    with pytest.raises(
        ValueError, match="variables must hold w, as those of from_onnx"
    ):
        apply_fn({}, drawn(1, 2, 3))


def test_a_size_that_depends_on_values_is_one_line(tmp_path):
    nodes = [
        make_node("Cast", ["x"], ["s"], to=7),
        make_node("Expand", ["one", "s"], ["y"], name="/e/Expand"),
    ]
    constants = {"one": np.ones((1, 1), np.float32)}
    file = saved(
        tmp_path / "s.onnx", nodes, {"x": np.ones(2, np.float32)}, ["y"], constants
    )
    apply_fn, variables = from_onnx(file)
    with pytest.raises(ValueError, match="Expand in e fails: its shape must be known"):
        apply_fn(variables, np.ones(2, np.float32))


def test_the_name_of_the_package_has_it():
    assert "from_onnx" in bitsnn_jax.__all__


@pytest.mark.slow
@pytest.mark.parametrize("new", [True, False], ids=["dynamo", "torchscript"])
def test_a_resnet_of_torchvision_comes_from_either_exporter(new, tmp_path):
    torch = pytest.importorskip("torch")
    models = pytest.importorskip("torchvision.models")
    if new:
        pytest.importorskip("onnxscript")

    class OfPixels(models.ResNet):
        def forward(self, x):
            return super().forward(x / 64 - 2)

    torch.manual_seed(0)
    module = OfPixels(models.resnet.BasicBlock, [2, 2, 2, 2], num_classes=7)
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(layer.bias, std=0.1)
            torch.nn.init.normal_(layer.running_mean, std=0.1)
    x = torch.randint(0, 256, (2, 3, 32, 32)).float()
    file = tmp_path / "resnet.onnx"
    shapes = (
        {"dynamic_shapes": ({0: torch.export.Dim.DYNAMIC},)}
        if new
        else {"input_names": ["x"], "dynamic_axes": {"x": {0: "n"}}}
    )
    torch.onnx.export(module.eval(), (x,), file, dynamo=new, **shapes)
    apply_fn, variables = from_onnx(file)
    found = apply_fn(variables, x.numpy())
    [expected] = expected_of(file, x=x.numpy())
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    quantised = quantise(apply_fn, variables, [x.numpy()], levels=15)
    twice = "@2" if new else "_1"
    names = ["relu"]
    for i in range(1, 5):
        for j in range(2):
            names += [f"layer{i}.{j}.relu", f"layer{i}.{j}.relu{twice}"]
    assert list(quantised.variables["theta"]) == names
    assert_exact(*quantised, x.numpy()[:1])
    assert_exact_in_integers(*quantised, x.numpy(), tmp_path / "bundle")
