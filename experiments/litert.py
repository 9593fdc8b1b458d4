"""ResNet-20 in the int8 kernels of LiteRT: is every code that of the network?

    python experiments/litert.py [--images 64]

Kernels of LiteRT round the quotient of a sum and its scale in different ways at ties:
up, away from zero, to even. Weights of 6 bits times 4 and biases 4 b + 1 leave no ties,
so every kernel finds the code of Eq. (2). What is more than one convolution becomes
more input channels of it:

    a skip of an integer factor m = 16 h + l   the codes, and the codes times 16
    a bias that differs from pixel to pixel    planes of 255, 16 and 1
    a sum that is shifted left                 its codes, shifted

which fits as T = 4 leaves 4 bits of a byte free. The last layer is in float32, exact.
Compares all codes and logits, in the three sets of kernels that LiteRT has on a CPU.
Writes docs/results/litert.json.

Needs ai-edge-litert and flatbuffers.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import flatbuffers
import jax
import numpy as np

from bitsnn_jax import data
from bitsnn_jax.config import Data
from bitsnn_jax.integers.execution import one_shot
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.integers.graph import Conv, Scale
from bitsnn_jax.integers.network import IntegerNetwork, IntegerNode
from bitsnn_jax.jobs.integers import lower_pixels
from bitsnn_jax.runs.loading import load_ann
from bitsnn_jax.runs.provenance import store_numbers
from bitsnn_jax.runtime.cli import Parser, a_path, as_script, one_line, whole

with one_line():  # what the package does not bring
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

FASHION = Data(name="idx", directory="/usr/share/datasets/fashion-mnist")
NETWORK, STEPS, BITS, BATCH = "resnet20_fashion_mnist", 4, 6, 16
LARGEST = 2 ** (BITS - 1) - 1
NUMBERS = Path("docs/results/litert.json")
# A fused ReLU6 is the clip at code 15.
CODE = np.float32(6 / 15)
KERNELS = {
    "reference": OpResolverType.BUILTIN_REF,
    "optimised": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    "XNNPACK": OpResolverType.AUTO,
}


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--images", type=whole(BATCH), default=64)
    parser.add_argument("--out", type=a_path, default=NUMBERS, help="the JSON file")
    options = parser.parse_args()
    test = data.load(FASHION, "test").first(options.images // BATCH * BATCH)
    pixels = np.stack([test[i]["image"] for i in range(len(test))])
    apply_fn, run = load_ann(NETWORK)
    graph = lower_pixels(apply_fn, run.variables, test)
    network = fixed_point(graph, steps=STEPS, bits=BITS)
    result = jax.jit(one_shot(network))(pixels)
    model, names = written(network)
    rows = []
    for kernels, resolver in KERNELS.items():
        found = executed(model, names, resolver, pixels)
        codes = {name: found[name] + 128 for name in result.codes}
        rows.append(
            {
                "kernels": kernels,
                "images": len(pixels),
                "codes": sum(code.size for code in codes.values()),
                "codes_differing": differing(codes, result.codes),
                "logits": sum(sums.size for sums in result.outputs.values()),
                "logits_differing": differing(found, result.outputs),
            }
        )
        print(rows[-1], flush=True)
    about = {"steps": STEPS, "bits": BITS, "litert": version("ai-edge-litert")}
    store_numbers(options.out, rows, config=NETWORK, seed=None, **about)


def differing(found, expected) -> int:
    return sum(int((found[name] != array).sum()) for name, array in expected.items())


def executed(model: bytes, names, resolver, pixels) -> dict[str, np.ndarray]:
    interpreter = Interpreter(
        model_content=model, experimental_op_resolver_type=resolver, num_threads=2
    )
    interpreter.allocate_tensors()
    [image] = interpreter.get_input_details()
    places = {d["name"]: d["index"] for d in interpreter.get_output_details()}
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for i in range(0, len(pixels), BATCH):
        stored = (pixels[i : i + BATCH].astype(int) - 128).astype(np.int8)
        interpreter.set_tensor(image["index"], stored)
        interpreter.invoke()
        for name in names:
            found[name].append(interpreter.get_tensor(places[name]))
    whole = {name: np.concatenate(arrays) for name, arrays in found.items()}
    return {name: np.rint(array).astype(int) for name, array in whole.items()}


class Model:
    """A flat buffer that grows tensor by tensor. Codes are bytes, less 128."""

    def __init__(self):
        self.model = schema.ModelT()
        self.model.version, self.model.buffers, self.model.operatorCodes = 3, [], []
        self.graph = schema.SubGraphT()
        self.graph.name, self.graph.tensors, self.graph.operators = "main", [], []
        self.model.subgraphs, self.codes = [self.graph], {}
        self._buffer(None)

    def _buffer(self, array) -> int:
        made = schema.BufferT()
        if array is not None:
            data = np.ascontiguousarray(array).tobytes()
            made.data = np.frombuffer(data, np.uint8)
        self.model.buffers.append(made)
        return len(self.model.buffers) - 1

    def tensor(self, name, shape, kind, array=None, scale=None, zero=0, axis=0) -> int:
        made = schema.TensorT()
        made.name, made.shape, made.type = name, [*map(int, shape)], kind
        made.buffer = self._buffer(array)
        if scale is not None:
            scale = np.atleast_1d(scale)
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale = scale.astype(float).tolist()
            made.quantization.zeroPoint = [zero] * len(scale)
            made.quantization.quantizedDimension = axis
        self.graph.tensors.append(made)
        return len(self.graph.tensors) - 1

    def code(self, name, shape, array=None) -> int:
        return self.tensor(name, shape, schema.TensorType.INT8, array, CODE, -128)

    def op(self, name: str, inputs, to: int, options: str = "", **fields) -> int:
        kind = getattr(schema.BuiltinOperator, name)
        if kind not in self.codes:
            code = schema.OperatorCodeT()
            code.builtinCode = code.deprecatedBuiltinCode = kind
            code.version = {"CAST": 1, "FULLY_CONNECTED": 1, "PAD": 2}.get(name, 3)
            self.codes[kind] = len(self.model.operatorCodes)
            self.model.operatorCodes.append(code)
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = self.codes[kind], inputs, [to]
        made.builtinOptionsType = getattr(schema.BuiltinOptions, options)
        made.builtinOptions = getattr(schema, f"{options}T")()
        for field, value in fields.items():
            setattr(made.builtinOptions, field, value)
        self.graph.operators.append(made)
        return to

    def weighted(self, x, kernel, bias, fraction, to: int, *, depth=False, **fields):
        """A convolution without padding, whose result is divided by 2**fraction."""
        assert np.abs(kernel).max() <= 127
        scale, axis = (2.0**-fraction).astype(np.float32), 3 if depth else 0
        kind, counts = schema.TensorType.INT8, kernel.astype(np.int8)
        weights = self.tensor("w", kernel.shape, kind, counts, scale, axis=axis)
        kind, counts = schema.TensorType.INT32, bias.astype(np.int32)
        biases = self.tensor("b", bias.shape, kind, counts, scale * CODE)
        name = "DepthwiseConv2DOptions" if depth else "Conv2DOptions"
        op = "DEPTHWISE_CONV_2D" if depth else "CONV_2D"
        fields |= {"padding": schema.Padding.VALID}
        fields |= {"dilationWFactor": 1, "dilationHFactor": 1}
        return self.op(op, [x, weights, biases], to, name, **fields)

    def times(self, x, factor, shape, stride=1) -> int:
        """Codes times a factor, at each place or at some."""
        if factor == stride == 1:
            return x
        kernel = np.full((1, 1, 1, shape[-1]), factor)
        none, fields = np.zeros(shape[-1], int), {"strideW": stride, "strideH": stride}
        to = self.code("times", shape)
        fields["depthMultiplier"] = 1
        return self.weighted(x, kernel, none, none, to, depth=True, **fields)

    def finished(self, inputs, outputs) -> bytes:
        self.graph.inputs, self.graph.outputs = inputs, outputs
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def written(network: IntegerNetwork) -> tuple[bytes, list[str]]:
    model = Model()
    values = {"input": model.code("input", (BATCH, *network.nodes[0].shape[1:]))}
    for node in network.nodes[1:]:
        make = neurons if node.kind == "neurons" else logits
        values[node.name] = make(model, node, values, network)
    names = [node.name for node in network.nodes[1:]]
    return model.finished([values["input"]], [values[name] for name in names]), names


def logits(model: Model, node: IntegerNode, values, network) -> int:
    """Bytes as floats, and a product that also takes off the 128."""
    [term] = node.terms
    shape = network[term.source].shape
    kernel = np.tile(term.numbers.astype(np.float32), (shape[1] * shape[2], 1)).T
    bias = np.float32(node.bias.reshape(-1) + 128 * kernel.sum(1))
    kind = schema.TensorType
    bytes_ = model.tensor("floats", (BATCH, *shape[1:]), kind.FLOAT32)
    types = {"inDataType": kind.INT8, "outDataType": kind.FLOAT32}
    model.op("CAST", [values[term.source]], bytes_, "CastOptions", **types)
    weights = model.tensor("w", kernel.shape, kind.FLOAT32, kernel)
    biases = model.tensor("b", bias.shape, kind.FLOAT32, bias)
    to = model.tensor(node.name, (BATCH, node.shape[-1]), kind.FLOAT32)
    return model.op(
        "FULLY_CONNECTED", [bytes_, weights, biases], to, "FullyConnectedOptions"
    )


def neurons(model: Model, node: IntegerNode, values, network) -> int:
    kernels: list[Any] = [t for t in node.terms if isinstance(t.weight, Conv)]
    main = max(kernels, key=lambda term: term.weight.kernel.shape[0])
    shape, channels = network[main.source].shape, node.shape[-1]
    shape = (BATCH, *shape[1:])
    inputs = [model.times(values[main.source], amount(main), shape)]
    kernel = np.moveaxis(main.weight.kernel, -1, 0).astype(int)
    parts, bias = [kernel], node.bias.reshape(-1)
    if node.bias.size > channels:
        for value, digits in planes(node.bias):
            full = np.full((*shape[:-1], 1), value - 128, np.int8)
            inputs.append(model.code("plane", full.shape, full))
            parts.append(digits[..., None])
        bias = np.zeros(channels, int)
    for term in node.terms:
        if term is not main:
            for x, digits in skipped(model, term, values, network, node):
                inputs.append(x)
                centre = np.zeros((channels, *kernel.shape[1:3], digits.shape[-1]), int)
                centre[:, 1, 1] = digits
                parts.append(centre)
    kernel = np.concatenate(parts, -1)
    assert np.abs(kernel).max() <= LARGEST, node.name
    joined = (*shape[:-1], kernel.shape[-1])
    x = inputs[0]
    if len(inputs) > 1:
        to = model.code("joined", joined)
        x = model.op("CONCATENATION", inputs, to, "ConcatenationOptions", axis=3)
    low, high = np.array(main.weight.padding).T
    pads = np.array([(0, 0), *zip(low, high, strict=True), (0, 0)], np.int32)
    padded = model.code("padded", np.array(joined) + pads.sum(1))
    edges = model.tensor("pads", pads.shape, schema.TensorType.INT32, pads)
    x = model.op("PAD", [x, edges], padded, "PadOptions")
    to = model.code(node.name, (BATCH, *node.shape[1:]))
    stride_h, stride_w = main.weight.strides
    fraction = np.broadcast_to(node.fraction.reshape(-1), channels) + 2
    return model.weighted(
        x,
        4 * kernel,
        4 * np.broadcast_to(bias, channels) + 1,
        fraction,
        to,
        strideH=stride_h,
        strideW=stride_w,
        fusedActivationFunction=schema.ActivationFunctionType.RELU6,
    )


def amount(term) -> int:
    """The factor of the shifts behind a weight."""
    return 2 ** sum(op.amount for op in term.after)


def skipped(model: Model, term, values, network, node):
    """The channels of a skip, each with the weights at the centre."""
    x, shape = values[term.source], (BATCH, *network[term.source].shape[1:])
    if isinstance(term.weight, Scale):
        factor = term.weight.factor.astype(int) * amount(term)
        factor = np.broadcast_to(factor.reshape(-1), node.shape[-1])
        high = np.rint(factor / 16).astype(int)
        yield x, np.diag(factor - 16 * high)
        yield model.times(x, 16, shape), np.diag(high)
    else:
        places = (*shape[:1], *node.shape[1:3], shape[-1])
        x = model.times(x, amount(term), places, term.weight.strides[0])
        yield x, term.weight.kernel[0, 0].T.astype(int)


def planes(bias: np.ndarray):
    """Kernels [channels, 3, 3] on constants whose sums, padding seen, are the bias."""
    corners = bias[0][np.ix_([0, 1, -1], [0, 1, -1])].astype(int)
    inside = np.array([[0, 1, 1], [1, 1, 1], [1, 1, 0]])
    back = np.rint(np.linalg.inv(inside)).astype(int)
    rest = np.einsum("ij,jkc,lk->cil", back, corners, back)
    for value in (255, 16, 1):
        digits = np.clip(np.rint(rest / value), -LARGEST, LARGEST).astype(int)
        rest = rest - value * digits
        yield value, digits
    assert not rest.any()


if __name__ == "__main__":
    as_script(main)
