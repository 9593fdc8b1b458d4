"""What calibration without training loses: the ways to find thresholds, compared.

    python experiments/calibration.py --network resnet20_fashion_mnist_relu
    python experiments/calibration.py --torch mobilenet_v2-b0353104.pth \
        --calibrate photos --pictures imagenet --others cifar

The first takes a network of the package that was trained with ReLU, thresholds from 512
training images, and judges on test images. The second takes torchvision's MobileNetV2,
thresholds from one folder and judges on the others; then it calibrates on one half of
`pictures` and judges on the other, both ways. Rows are stored as they come.
"""

import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bitsnn_jax import data
from bitsnn_jax.config import Config, Data
from bitsnn_jax.conversion.calibration import CAPS, calibrate_network
from bitsnn_jax.interop.torch_files import read_state_dict
from bitsnn_jax.interop.torch_networks import TORCHVISION, variables_from_torch
from bitsnn_jax.jobs.compare_examples import calibration_inputs
from bitsnn_jax.runs.loading import ann_fn, find_run
from bitsnn_jax.runs.provenance import store_numbers
from bitsnn_jax.runtime.cli import Distinct, Parser, a_path, as_script, filled, whole

SIZE, BATCH = 224, 20
AT_ONCE: dict[str, Any] = {"method": "mse"}
IN_ORDER = AT_ONCE | {"sequential": True}
OUTPUT: dict[str, Any] = {"method": "output"}
CORRECTED = {"correct_biases": True}
LAYER, CHANNEL = {"per_channel": False}, {"per_channel": True}
# From the most important on.
WAYS = [
    AT_ONCE | LAYER,
    OUTPUT | CORRECTED | LAYER,
    OUTPUT | CORRECTED | CHANNEL,
    AT_ONCE | CHANNEL,
    OUTPUT | LAYER,
    AT_ONCE | CORRECTED | LAYER,
    IN_ORDER | LAYER,
    IN_ORDER | CORRECTED | LAYER,
    IN_ORDER | CORRECTED | CHANNEL,
]


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--network", type=filled, help="of the package, with ReLU")
    parser.add_argument("--torch", type=filled, metavar="FILE")
    parser.add_argument("--calibrate", type=a_path, metavar="DIR")
    parser.add_argument("--pictures", type=a_path, metavar="DIR")
    parser.add_argument("--others", type=a_path, metavar="DIR")
    parser.add_argument("--limit", type=whole(1), help="test images (default: all)")
    parser.add_argument(
        "--steps", type=whole(1), action=Distinct, nargs="+", default=[4]
    )
    parser.add_argument("--ways", type=whole(1), default=len(WAYS), help="first only")
    parser.add_argument("--out", type=a_path, help="the JSON file")
    options = parser.parse_args()
    if (options.network is None) == (options.torch is None):
        parser.error("expected --network or --torch, one of them")
    if options.torch and not (options.calibrate and options.pictures):
        parser.error("--torch needs --calibrate and --pictures")
    of_package(options) if options.network else of_torch(options)


def of_package(options) -> None:
    run = find_run(options.network)
    settings = run.config.data
    images = calibration_inputs(run, data.load(settings, "train"), seed=0)
    test = data.load(settings, "test").first(options.limit)
    batches = list(data.eval_batches(settings, test, batch_size=min(500, len(test))))
    shown = [data.normalise(b["image"][b["mask"]], test) for b in batches]
    labels = np.concatenate([batch["label"][batch["mask"]] for batch in batches])
    network = Network(run.config, run.variables, run.metadata["image_shape"])
    rows = [{"set": "test", "accuracy": right(network.logits(shown), labels)}]
    rows[0] |= {"images": len(labels), "network": "as trained"}
    out = options.out or Path(
        "docs/results/calibration_" + options.network.partition("_")[0] + ".json"
    )
    for steps in options.steps:
        for way in WAYS[: options.ways]:
            rows += network.judged(steps, way, images, {"test": (shown, labels)})
            store_numbers(out, rows, config=options.network, seed=0)


def of_torch(options) -> None:
    model = TORCHVISION["mobilenetv2"]
    settings = Data(name="image_folder", image_size=SIZE, eval_batch_size=BATCH)
    variables = variables_from_torch(read_state_dict(options.torch), model)
    config = Config(name="mobilenetv2_torch", data=settings, model=model)
    network = Network(config, variables, (SIZE, SIZE, 3))
    own, pictures = (
        read(settings, folder) for folder in (options.calibrate, options.pictures)
    )
    sets = {"pictures": (pictures, None), "calibrated on": (own, None)}
    if options.others:
        sets["others"] = (read(settings, options.others), None)
    out = options.out or Path("docs/results/calibration_mobilenetv2.json")
    rows = []

    def add(steps, way, images, sets):
        nonlocal rows
        rows += network.judged(steps, way, images, sets)
        store_numbers(out, rows, config=Path(options.torch).name, seed=None)

    whole = np.concatenate(pictures)
    halves = whole[0::2], whole[1::2]
    for steps in options.steps:
        for i, way in enumerate(WAYS[: options.ways]):
            add(steps, way, own, sets)
            if i < 3:
                for one, other in (halves, halves[::-1]):
                    add(steps, way, [one], {"the other half": ([other], None)})


def read(settings: Data, folder: Path) -> list[np.ndarray]:
    examples = data.load_pictures(folder, size=SIZE)
    batches = data.eval_batches(
        settings, examples, batch_size=min(BATCH, len(examples))
    )
    return [data.normalise(b["image"][b["mask"]], examples) for b in batches]


def right(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(np.argmax(logits, -1) == labels))


class Network:
    """A network that was trained with ReLU."""

    def __init__(self, config: Config, variables: Any, shape: tuple[int, ...]):
        self.config, self.variables, self.shape = config, variables, shape
        self.apply_fn = jax.jit(ann_fn(config, shape))
        self.known: dict[str, np.ndarray] = {}

    def logits(self, batches) -> np.ndarray:
        outputs = [self.apply_fn(self.variables, x) for x in batches]
        return np.concatenate([np.asarray(y, np.float64) for y in outputs])

    def judged(self, steps: int, way: dict, images, sets: dict) -> list[dict]:
        """Calibrate in one way, and compare with the network itself on each set."""
        options = dict(way)
        model = dataclasses.replace(
            self.config.model,
            activation="qcfs",
            levels=2**steps - 1,
            per_channel=options.pop("per_channel"),
        )
        apply_fn = ann_fn(dataclasses.replace(self.config, model=model), self.shape)
        started = time.perf_counter()
        variables = calibrate_network(
            apply_fn,
            self.variables,
            images,
            cap=CAPS.get(self.config.model.activation),
            **options,
        )
        seconds = time.perf_counter() - started
        quantised_fn = jax.jit(apply_fn)
        rows = []
        for name, (shown, labels) in sets.items():
            found = [np.asarray(quantised_fn(variables, x), "f8") for x in shown]
            row = {"steps": steps, **way, "calibrated_on": sum(map(len, images))}
            row |= {"seconds": round(seconds, 1), "set": name}
            key = f"{name} {shown[0][0].sum()}"
            if key not in self.known:
                self.known[key] = self.logits(shown)
            row |= compared(np.concatenate(found), self.known[key])
            if labels is not None:
                row["accuracy"] = right(np.concatenate(found), labels)
            print(row, flush=True)
            rows.append(row)
        return rows


def compared(found: np.ndarray, wanted: np.ndarray) -> dict:
    """Agreement of the first guess, relative error of logits, divergence in nats."""
    spread = wanted - wanted.mean(1, keepdims=True)
    p, q = (jax.nn.log_softmax(y) for y in (wanted, found))
    return {
        "images": len(found),
        "same": int(np.sum(np.argmax(found, -1) == np.argmax(wanted, -1))),
        "error": float(np.sqrt(np.sum((found - wanted) ** 2) / np.sum(spread**2))),
        "divergence": float(np.mean(np.sum(np.exp(p) * (p - q), axis=1))),
    }


if __name__ == "__main__":
    as_script(main)
