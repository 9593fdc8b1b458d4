"""Accuracy of onnxruntime's own INT8 beside that of our integers.

    python experiments/onnx_int8.py [--limit N]

The trained networks in floats, batch norm folded and every activation clipped to
0..theta, are written as ONNX and quantised by onnxruntime: statically, QDQ, a scale for
each channel of weights, calibrated on the first 512 training images. Test images then
run through the network of floats, through its INT8, and through our integers at T = 4
and 8 as ONNX. Needs onnx and onnxruntime. Writes docs/results/onnx_int8.json.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bitsnn_jax import data
from bitsnn_jax.exports.onnx_builder import Builder, Value
from bitsnn_jax.exports.onnx_sums import Part, Sums
from bitsnn_jax.exports.onnx_writer import export_onnx
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.integers.graph import Graph
from bitsnn_jax.integers.network import IntegerNode
from bitsnn_jax.jobs.integers import lower_pixels
from bitsnn_jax.runs.loading import load_ann
from bitsnn_jax.runs.provenance import store_numbers
from bitsnn_jax.runtime.cli import Parser, a_path, as_script, one_line, whole

with one_line():  # what the package does not bring
    import onnx
    import onnxruntime
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

NETWORKS = ("resnet20_fashion_mnist", "vgg_fashion_mnist")
STEPS = (4, 8)
CALIBRATION, BATCH = 512, 250
NUMBERS = Path("docs/results/onnx_int8.json")


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "--limit", type=whole(1), metavar="N", help="first N test images"
    )
    parser.add_argument("--out", type=a_path, default=NUMBERS, help="the JSON file")
    options = parser.parse_args()
    rows = []
    for name in NETWORKS:
        for row in measured(name, options.limit):
            rows.append(row)
            print(row, flush=True)
    store_numbers(
        options.out,
        rows,
        config=", ".join(NETWORKS),
        seed=0,
        calibration=CALIBRATION,
        onnxruntime=onnxruntime.__version__,
    )


def measured(name: str, limit: int | None) -> Iterator[dict[str, Any]]:
    """The accuracy of each form of a network."""
    apply_fn, run = load_ann(name)
    settings = run.config.data
    test = data.load(settings, "test").first(limit)
    train = data.load(settings, "train").first(CALIBRATION)
    graph = lower_pixels(apply_fn, run.variables, test)
    shown = {"network": name, "images": len(test)}
    floats = in_floats(graph)
    models = {"floats": floats, "onnxruntime INT8": in_int8(floats, settings, train)}
    for model, content in models.items():
        found = accuracy(content, settings, test, np.float32)
        yield {**shown, "model": model, "steps": None, "accuracy": found}
    for steps in STEPS:
        network = fixed_point(graph, steps=steps)
        content = export_onnx(network, codes=False).SerializeToString()
        found = accuracy(content, settings, test, np.uint8)
        yield {**shown, "model": "ours", "steps": steps, "accuracy": found}


def in_floats(graph: Graph) -> bytes:
    """Write the float graph, activations clipped to 0..theta, as ONNX."""
    builder, image = Builder(), graph.nodes[0]
    values = {image.name: Value(image.shape, forms={("f32", False): "input"})}
    for node in graph.nodes[1:]:
        sums = Sums(builder, IntegerNode(node.name, node.kind, node.shape, node.terms))
        z = sums.add([Part(t, values[t.source]) for t in node.terms], node.bias)
        [((kind, first), made)] = z.forms.items()
        if node.kind == "output":
            builder.output(node.name, made, kind, node.shape)
            continue
        if node.kind != "neurons" or node.fn is not None:
            raise ValueError(f"{node.name}: expected neurons behind sums of currents")
        [theta] = np.unique(node.theta)
        bounds = (builder.constant(n, np.float32) for n in (0, theta))
        clipped = {(kind, first): builder.add("Clip", made, *bounds)}
        values[node.name] = Value(node.shape, sums="f32", forms=clipped)
    return builder.model("f32", image.shape, {}).SerializeToString()


def in_int8(model: bytes, settings: Any, train: data.Examples) -> bytes:
    """Let onnxruntime quantise a model."""

    class Shown(quantization.CalibrationDataReader):
        def __init__(self):
            self.batches = batches(settings, train)

        def get_next(self) -> Any:
            batch = next(self.batches, None)
            return batch and {"input": batch[0].astype(np.float32)}

    with tempfile.TemporaryDirectory() as folder:
        plain, ready, out = (Path(folder, f"{n}.onnx") for n in ("a", "b", "c"))
        plain.write_bytes(model)
        quant_pre_process(plain, ready)
        quantization.quantize_static(
            ready,
            out,
            Shown(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            # onnxruntime 1.32 fails in it where scales are those of channels.
            extra_options={"QDQDisableWeightAdjustForInt32Bias": True},
        )
        return onnx.load(out).SerializeToString()


def batches(settings: Any, examples: data.Examples) -> Iterator[tuple[Any, Any]]:
    """Pixels and labels, batch by batch."""
    size = min(BATCH, len(examples))
    for batch in data.eval_batches(settings, examples, batch_size=size):
        mask = batch["mask"]
        yield np.asarray(batch["image"])[mask], np.asarray(batch["label"])[mask]


def accuracy(
    model: bytes, settings: Any, test: data.Examples, dtype: Callable[..., Any]
) -> float:
    """The share of test images that a model has right."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    correct = 0
    for images, labels in batches(settings, test):
        [logits] = session.run(None, {"input": images.astype(dtype)})
        scores = np.asarray(logits).reshape(len(labels), -1)
        correct += int(np.sum(np.argmax(scores, -1) == labels))
    return correct / len(test)


if __name__ == "__main__":
    as_script(main)
