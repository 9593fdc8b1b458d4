"""Each operator of ONNX, against onnxruntime."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest
from onnx_models import drawn, saved

from bitsnn_jax.interop.onnx_networks import from_onnx
from bitsnn_jax.interop.onnx_program import OPERATORS

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

IMAGE, ROW = drawn(2, 4, 6, 5), drawn(2, 4, 6)
INTS = np.array([[3, -7, 8], [5, 6, -2]], np.int64)
BOOLS = np.array([True, False, True])
ONE, POSITIVE = np.abs(drawn(4)) + 0.1, np.abs(ROW) + 0.1


def ints(*values):
    return np.array(values, np.int64)


def number(value):
    return np.array(value, np.float32)


def case(operator, *inputs, opset=20, results=1, **attributes):
    label = f"{operator}-{opset}-{'-'.join(map(str, attributes.values()))}"
    return pytest.param(operator, inputs, opset, results, attributes, id=label)


# The first input is that of the network, the others are in the file; None: left out.
ONE_EACH = [
    case(name, ROW)
    for name in """
    Abs Ceil Celu Cos Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity IsNaN
    LeakyRelu Mish Neg Relu Round Selu Shrink Sigmoid Sign Sin Softplus Softsign Tanh
    ThresholdedRelu Softmax LogSoftmax ReduceL1 ReduceL2 ReduceSumSquare ReduceMean
    ReduceLogSumExp ArgMax ArgMin Shape Size Flatten Transpose
    """.split()
]
TWO_EACH = [
    case(name, ROW, drawn(4, 1))
    for name in "Add Sub Mul Div Max Min Mean Sum Less LessOrEqual Greater "
    "GreaterOrEqual Equal".split()
]
OTHERS = [
    *(case(name, POSITIVE) for name in ("Log", "Sqrt", "Reciprocal")),
    *(case(name, BOOLS, ~BOOLS[::-1]) for name in ("And", "Or", "Xor")),
    case("Not", BOOLS),
    case("Gelu", ROW, approximate="tanh"),
    case("HardSigmoid", ROW, alpha=1 / 6, beta=0.5),
    case("Elu", ROW, alpha=0.5),
    case("LeakyRelu", ROW, alpha=0.3),
    case("PRelu", ROW, drawn(4, 1)),
    case("Clip", ROW, number(0), number(6)),
    case("Clip", ROW, number(-0.5), number(0.25)),
    case("Clip", ROW, None, number(0.5)),
    case("Clip", ROW, opset=7, min=0.0, max=1.0),
    case("Pow", POSITIVE, number(2)),
    case("Pow", POSITIVE, number(0.5)),
    case("Div", INTS, ints(2)),
    case("Mod", INTS, ints(3)),
    case("Mod", ROW, number(0.7), fmod=1),
    case("Where", BOOLS, drawn(2, 3), number(0)),
    case("Cast", ROW, to=6),
    case("Cast", INTS, to=1),
    case("CastLike", INTS, number(0)),
    case("Dropout", ROW),
    case("Softmax", ROW, axis=1),
    case("Softmax", ROW, opset=11),
    case("Conv", IMAGE, drawn(6, 4, 3, 3), drawn(6), pads=[1, 0, 2, 1], strides=[2, 1]),
    case("Conv", IMAGE, drawn(4, 2, 3, 3), group=2, dilations=[2, 1]),
    case("Conv", IMAGE, drawn(6, 4, 2, 3), auto_pad="SAME_UPPER", strides=[2, 2]),
    case("Conv", IMAGE, drawn(6, 4, 2, 3), auto_pad="SAME_LOWER"),
    case("Conv", ROW, drawn(3, 4, 3), drawn(3)),
    case("Conv", drawn(1, 2, 3, 3, 3), drawn(3, 2, 2, 2, 2)),
    case("ConvTranspose", IMAGE, drawn(4, 3, 3, 3), drawn(3), strides=[2, 2]),
    case(
        "ConvTranspose",
        IMAGE,
        drawn(4, 2, 2, 3),
        group=2,
        pads=[1, 0, 0, 1],
        strides=[2, 1],
        output_padding=[1, 0],
    ),
    case(
        "ConvTranspose", IMAGE, drawn(4, 2, 3, 3), output_shape=[12, 9], strides=[2, 2]
    ),
    case(
        "ConvTranspose", IMAGE, drawn(4, 2, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2]
    ),
    case("Gemm", drawn(2, 3), drawn(4, 3), drawn(4), transB=1),
    case("Gemm", drawn(3, 2), drawn(3, 4), drawn(2, 1), transA=1, alpha=0.5, beta=2.0),
    case("MatMul", ROW, drawn(6, 3)),
    case("Einsum", ROW, drawn(6, 3), equation="bij,jk->bki"),
    case("BatchNormalization", IMAGE, drawn(4), drawn(4), drawn(4), ONE),
    case(
        "BatchNormalization",
        IMAGE,
        drawn(4),
        drawn(4),
        drawn(4),
        ONE,
        opset=14,
        training_mode=0,
    ),
    case("InstanceNormalization", IMAGE, drawn(4), ONE),
    case("GroupNormalization", IMAGE, drawn(4), ONE, opset=21, num_groups=2),
    case("GroupNormalization", IMAGE, drawn(2), ONE[:2], opset=18, num_groups=2),
    case("LayerNormalization", ROW, drawn(4, 6), drawn(4, 6), axis=1),
    case("LayerNormalization", ROW, drawn(6)),
    case("RMSNormalization", ROW, drawn(6), opset=23),
    case("LRN", IMAGE, size=3),
    case("LpNormalization", ROW),
    case("LpNormalization", ROW, p=1, axis=1),
    case("MaxPool", IMAGE, kernel_shape=[2, 3], pads=[1, 1, 0, 1], strides=[2, 1]),
    case("MaxPool", IMAGE, kernel_shape=[3, 2], ceil_mode=1, strides=[2, 2]),
    case("MaxPool", IMAGE, kernel_shape=[2, 2], dilations=[2, 1]),
    case("AveragePool", IMAGE, kernel_shape=[2, 3], pads=[1, 1, 0, 1], strides=[2, 1]),
    case("AveragePool", IMAGE, kernel_shape=[2, 2], pads=[1] * 4, count_include_pad=1),
    case("AveragePool", IMAGE, kernel_shape=[2, 2], auto_pad="SAME_UPPER"),
    case("GlobalAveragePool", IMAGE),
    case("GlobalMaxPool", IMAGE),
    case("ReduceMean", IMAGE, ints(2, 3), keepdims=0),
    case("ReduceMean", IMAGE, opset=13, axes=[-1]),
    case("ReduceSum", IMAGE, ints(1)),
    case("ReduceSum", ROW, noop_with_empty_axes=1),
    *(case(f"Reduce{name}", ROW, ints(0, 2)) for name in ("Max", "Min", "Prod")),
    case("ArgMax", ROW, axis=1, keepdims=0),
    case("ArgMax", np.round(ROW), axis=2, select_last_index=1),
    case("CumSum", ROW, ints(1), exclusive=1, reverse=1),
    case("Reshape", ROW, ints(0, -1, 3)),
    case("Flatten", IMAGE, axis=2),
    case("Transpose", IMAGE, perm=[0, 2, 3, 1]),
    case("Squeeze", drawn(2, 1, 3), ints(1)),
    case("Squeeze", drawn(2, 1, 3), opset=11, axes=[1]),
    case("Unsqueeze", ROW, ints(0, 4)),
    case("Unsqueeze", ROW, opset=11, axes=[1]),
    case("Concat", ROW, drawn(2, 1, 6), axis=1),
    case("Split", IMAGE, ints(1, 3), axis=1, results=2),
    case("Split", IMAGE, axis=2, num_outputs=4, results=4),
    case("Split", IMAGE, opset=11, axis=1, split=[3, 1], results=2),
    case("Split", IMAGE, opset=13, axis=1, results=2),
    case("Slice", IMAGE, ints(1, -3), ints(2**40, -1), ints(1, 3)),
    case("Slice", ROW, ints(-1), ints(-(2**40)), ints(2), ints(-2)),
    case("Slice", ROW, opset=9, starts=[1], ends=[3], axes=[1]),
    case("Gather", ROW, ints(2, 0, -1), axis=1),
    case("Gather", ROW, ints(1, 2), axis=1),
    case("Gather", ROW, np.array(-1), axis=2),
    case("GatherElements", ROW, ints(0, 1, -1).reshape(1, 3, 1), axis=2),
    case("GatherND", ROW, ints(1, 2, 0, 3).reshape(2, 2)),
    case("GatherND", ROW, ints(1, 2, 0, 3).reshape(2, 2), batch_dims=1),
    case("ScatterND", ROW, ints(1, 0).reshape(2, 1), drawn(2, 4, 6)),
    case("ScatterElements", ROW, ints(1, 0).reshape(1, 1, 2), drawn(1, 1, 2), axis=1),
    case("Expand", drawn(2, 1, 3), ints(2, 4, 1)),
    case("Tile", ROW, ints(1, 2, 3)),
    case("Pad", ROW, ints(0, 1, 0, 0, 0, 2)),
    case("Pad", ROW, ints(1, 2), number(0.5), ints(2)),
    case("Pad", ROW, ints(0, 0, 1, 0, 0, -2)),
    case("Pad", ROW, ints(0, 1, 2, 0, 1, 0), mode="reflect"),
    case("Pad", ROW, ints(0, 1, 2, 0, 1, 0), mode="edge"),
    case("Pad", ROW, opset=9, pads=[0, 1, 0, 0, 0, 2], value=1.5),
    case("DepthToSpace", IMAGE, blocksize=2),
    case("DepthToSpace", drawn(1, 8, 2, 3), blocksize=2, mode="CRD"),
    case("SpaceToDepth", drawn(1, 2, 4, 6), blocksize=2),
    case("Trilu", ROW, np.array(1), upper=0),
    case("Shape", IMAGE, start=1, end=3),
    case("Resize", IMAGE, None, number([1, 1, 2, 2]), mode="nearest"),
    case("Resize", IMAGE, None, number([1, 1, 1.5, 0.6]), mode="linear"),
    case("Resize", IMAGE, None, None, ints(2, 4, 3, 9), mode="linear"),
    case("Resize", IMAGE, None, None, ints(2, 4, 3, 9), mode="cubic"),
    *(
        case(
            "Resize",
            IMAGE,
            None,
            None,
            ints(2, 4, 4, 11),
            mode=mode,
            coordinate_transformation_mode=where,
            nearest_mode=nearest,
        )
        for mode, where, nearest in [
            ("linear", "align_corners", "floor"),
            ("linear", "pytorch_half_pixel", "floor"),
            ("cubic", "asymmetric", "floor"),
            ("nearest", "asymmetric", "floor"),
            ("nearest", "half_pixel", "ceil"),
            ("nearest", "align_corners", "round_prefer_ceil"),
        ]
    ),
    case("Resize", IMAGE, number([1, 1, 2, 2]), opset=10, mode="nearest"),
    case("Upsample", IMAGE, number([1, 1, 2, 2]), opset=9, mode="nearest"),
    case("Upsample", IMAGE, opset=7, mode="linear", scales=[1.0, 1.0, 2.0, 2.0]),
]
# What makes arrays of numbers alone, and so has a law below; QCFS is our own.
ELSEWHERE = {"ConstantOfShape", "NonZero", "Range", "QCFS", "Swish"}


def model(tmp_path, operator, inputs, opset, results, attributes):
    names = ["" if a is None else f"in{i}" for i, a in enumerate(inputs)]
    outputs = [f"out{i}" for i in range(results)]
    node = onnx.helper.make_node(operator, names, outputs, **attributes)
    constants = {n: a for n, a in zip(names[1:], inputs[1:], strict=True) if n}
    given = {"in0": inputs[0]}
    return saved(tmp_path / "one.onnx", [node], given, outputs, constants, opset=opset)


@pytest.mark.parametrize(
    "operator, inputs, opset, results, attributes", [*ONE_EACH, *TWO_EACH, *OTHERS]
)
def test_an_operator_computes_what_onnxruntime_does(
    operator, inputs, opset, results, attributes, tmp_path
):
    file = model(tmp_path, operator, inputs, opset, results, attributes)
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(str(file), providers=providers)
    expected = session.run(None, {"in0": inputs[0]})
    apply_fn, variables = from_onnx(file)
    found = jax.tree.leaves(apply_fn(variables, inputs[0]))
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    if inputs[0].dtype != np.float32:
        return
    with jax.enable_x64(True):  # no number of float32 comes in
        wide = {name: array.astype(np.float64) for name, array in variables.items()}
        exact = jax.tree.leaves(apply_fn(wide, inputs[0].astype(np.float64)))
    for ours, theirs in zip(exact, expected, strict=True):
        assert ours.dtype != np.float32
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_every_operator_is_compared_and_documented():
    compared = {param.values[0] for param in [*ONE_EACH, *TWO_EACH, *OTHERS]}
    assert compared | ELSEWHERE == set(OPERATORS)
    page = Path(__file__).parents[2].joinpath("docs", "from_onnx.md").read_text()
    lists = page.partition("## Operators")[2].partition("Each is")[0]
    words = set(re.findall(r"\w+", lists)) - set(
        "Elementwise Layers Moves and sizes".split()
    )
    assert words | {"QCFS"} == set(OPERATORS)
