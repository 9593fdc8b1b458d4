"""What the tools of others make of the files that leave in QONNX and in ONNX of floats.

    python experiments/other_runtimes.py [--images 16]

ResNet-20 and VGG on the first test images of Fashion-MNIST. Their integers go to
qonnx's own executor, and through the steps of FINN+ that lead to layers of hardware,
which its Python then runs. Their float networks go to ONNX by jax2onnx and are run by
onnxruntime. Every code, or activation, and every logit is compared with JAX. Writes
docs/results/other_runtimes.json.

Needs the extras `qonnx` and `jax2onnx`. FINN+ asks for more than its reader needs:
pip install --no-deps finn-plus==1.6.1 brevitas==0.13.0 onnx-passes mip mashumaro
termcolor torch unfoldNd scikit-learn cffi; where it is missing, its rows are left out.
"""

import sys
import tempfile
import types
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bitsnn_jax import data
from bitsnn_jax.config import Data
from bitsnn_jax.integers.execution import one_shot
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.integers.network import IntegerNetwork
from bitsnn_jax.jobs.integers import lower_pixels
from bitsnn_jax.runs.loading import load_ann
from bitsnn_jax.runs.provenance import store_numbers
from bitsnn_jax.runtime.cli import Parser, a_path, as_script, one_line, whole

with one_line():  # what the package does not bring
    import onnxruntime

    from bitsnn_jax.exports import onnx_floats, qonnx_writer

FASHION = Data(name="idx", directory="/usr/share/datasets/fashion-mnist")
NETWORKS = ("resnet20_fashion_mnist", "vgg_fashion_mnist")
NUMBERS = Path("docs/results/other_runtimes.json")


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--images", type=whole(1), default=16)
    parser.add_argument("--out", type=a_path, default=NUMBERS, help="the JSON file")
    options = parser.parse_args()
    test = data.load(FASHION, "test").first(options.images)
    pixels = np.stack([test[i]["image"] for i in range(len(test))])
    rows = []
    for name in NETWORKS:
        apply_fn, run = load_ann(name)
        for steps in (4, 8):
            graph = lower_pixels(apply_fn, run.variables, test)
            network = fixed_point(graph, steps=steps)
            rows.append({"network": name, "steps": steps, **in_qonnx(network, pixels)})
            print(rows[-1], flush=True)
            if steps == 4 and (row := in_finn(network, pixels)):
                rows.append({"network": name, "steps": steps, **row})
                print(rows[-1], flush=True)
        images = data.normalise(pixels, test)
        rows.append({"network": name, **in_floats(apply_fn, run.variables, images)})
        print(rows[-1], flush=True)
    store_numbers(options.out, rows, config=", ".join(NETWORKS), seed=0)


def expected(network: IntegerNetwork, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """All codes and logits, in the order of the file's axes."""
    result = jax.jit(one_shot(network))(pixels)
    arrays = {f"codes/{name}": codes for name, codes in result.codes.items()}
    arrays |= {f"outputs/{name}": sums for name, sums in result.outputs.items()}
    arrays = qonnx_writer.in_file_order(network, {"input": pixels, **arrays})
    return {name.split("/", 1)[-1]: array for name, array in arrays.items()}


def in_qonnx(network: IntegerNetwork, pixels: np.ndarray) -> dict[str, Any]:
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx

    arrays = expected(network, pixels)
    model, x = ModelWrapper(qonnx_writer.to_qonnx(network)), arrays.pop("input")
    numbers = differing = 0
    for i in range(len(x)):
        fed = {"input": x[i : i + 1].astype(np.float32)}
        found = execute_onnx(model, fed, return_full_exec_context=True)
        numbers += sum(array[i].size for array in arrays.values())
        differing += sum(
            int((found[name][0] != array[i]).sum()) for name, array in arrays.items()
        )
    about = {"reader": f"qonnx {version('qonnx')}", "images": len(x)}
    return {**about, "numbers": numbers, "differing": differing}


def in_finn(network: IntegerNetwork, pixels: np.ndarray) -> dict[str, Any] | None:
    """The steps of its builder as far as layers of hardware; None without FINN+."""
    try:
        import finn.util.settings as settings
    except ImportError:
        return None
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx

    settings.initialize_dummy_settings()
    simulator: Any = types.ModuleType("finn.xsi")  # that of Vivado, which is not there
    simulator.SimEngine = object
    sys.modules["finn.xsi"] = simulator
    import finn.builder.build_dataflow_steps as steps

    defaults: Any = types.SimpleNamespace(
        _resolve_verification_steps=list,
        standalone_thresholds=True,
        requant_bitwidth_threshold=9,
        infer_shuffle_skip_first=True,
    )
    model = ModelWrapper(qonnx_writer.to_qonnx(network))
    for step in (steps.step_tidy_up, steps.step_streamline, steps.step_convert_to_hw):
        model = getattr(step, "__wrapped__", step)(model, defaults)
    layers = Counter(n.op_type for n in model.graph.node if "finn" in n.domain)
    arrays, numbers, differing = expected(network, pixels), 0, 0
    [logits] = [arrays[node.name] for node in network.of_kind("output")]
    for i, image in enumerate(arrays["input"]):
        fed = {model.graph.input[0].name: image[None].astype(np.float32)}
        [found] = execute_onnx(model, fed).values()
        numbers += logits[i].size
        differing += int((found.reshape(-1) != logits[i].reshape(-1)).sum())
    return {
        "reader": f"FINN+ {version('finn-plus')}",
        "images": len(pixels),
        "numbers": numbers,
        "differing": differing,
        "layers": dict(layers),
        "others": [n.op_type for n in model.graph.node if "finn" not in n.domain],
    }


def in_floats(apply_fn, variables, images: np.ndarray) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        onnx_floats.write(path, apply_fn, variables, images, activations=True)
        session = onnxruntime.InferenceSession(path.read_bytes())
    program = onnx_floats.Program(apply_fn, variables, images, activations=True)
    ours = jax.jit(program)(images)
    theirs = [np.asarray(x) for x in session.run(None, {"input": images})]
    names = [output.name for output in session.get_outputs()]
    differing = numbers = 0
    for name, a, b in zip(names, ours, theirs, strict=True):
        if name.startswith("activation"):
            numbers, differing = numbers + b.size, differing + int((a != b).sum())
    return {
        "reader": f"onnxruntime {onnxruntime.__version__}",
        "writer": f"jax2onnx {version('jax2onnx')}",
        "images": len(images),
        "numbers": numbers,
        "differing": differing,
        "largest_difference_of_logits": float(
            abs(np.asarray(ours[0]) - theirs[0]).max()
        ),
    }


if __name__ == "__main__":
    as_script(main)
