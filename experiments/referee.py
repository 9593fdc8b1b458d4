"""Every spike of three networks, found again by the NumPy referee.

    python experiments/referee.py [--images 200]

The trained ResNet-20 and VGG on the first test images of Fashion-MNIST, and a quarter
of MobileNetV2 with random weights, in integers at T = 4: saved with `exchange.save`,
read and run by `bitsnn_jax/referee.py`, as bits and as signed digits. Its counts of
operations, taken while it works, are compared with those that `operations.count`
derives from the codes. Writes docs/results/referee.json.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bitsnn_jax import data, referee
from bitsnn_jax.config import Data, Model
from bitsnn_jax.exports import bundle_writer
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.integers.operations import COUNTS, count
from bitsnn_jax.jobs.integers import lower_pixels
from bitsnn_jax.models import build_model
from bitsnn_jax.numerics.codings import CODINGS
from bitsnn_jax.runs.loading import load_ann
from bitsnn_jax.runs.provenance import store_numbers
from bitsnn_jax.runtime.cli import Parser, a_path, as_script, whole

FASHION = Data(name="idx", directory="/usr/share/datasets/fashion-mnist")
STEPS = 4
NETWORKS = ("resnet20_fashion_mnist", "vgg_fashion_mnist", "mobilenetv2")
NUMBERS = Path("docs/results/referee.json")


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--images", type=whole(1), default=200)
    parser.add_argument("--out", type=a_path, default=NUMBERS, help="the JSON file")
    options = parser.parse_args()
    test = data.load(FASHION, "test").first(options.images)
    rows = []
    for name in NETWORKS:
        for row in found(name, test):
            rows.append(row)
            print(row, flush=True)
    store_numbers(options.out, rows, config=", ".join(NETWORKS), seed=0)


def found(name: str, test: data.Examples) -> Iterator[dict[str, Any]]:
    """Save a network, let the referee run it, and compare spikes and counts."""
    network = fixed_point(lower_pixels(*ann(name), test), steps=STEPS)
    images = np.stack([test[i]["image"] for i in range(len(test))])
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "network"
        bundle_writer.save(network, folder, vectors=images)
        vectors = bundle_writer.load_vectors(folder)
        codes = {
            k.removeprefix("codes/"): v
            for k, v in vectors.items()
            if k.startswith("codes/")
        }
        read = referee.read(folder)
    for coding in CODINGS:
        started = time.perf_counter()
        counts, agreed, difference = referee.compare(read._replace(coding=coding))
        seconds = time.perf_counter() - started
        derived = count(network, codes, examples=len(test), coding=coding)
        yield {
            "network": name,
            "images": len(test),
            "coding": coding,
            "spikes": agreed,
            "difference": difference or None,
            "synaptic_operations": derived.total("synaptic_operations") / len(test),
            "counts_equal": all(
                getattr(counts[node.name], kind) == getattr(node, kind)
                for node in derived.nodes
                if node.name in counts
                for kind in COUNTS
                if hasattr(referee.Counts, kind)
            ),
            "seconds": round(seconds, 1),
        }


def ann(name: str):
    """(apply_fn, variables): trained, or with random weights."""
    if name != "mobilenetv2":
        apply_fn, run = load_ann(name)
        return apply_fn, run.variables
    model = build_model(
        Model(name=name, width=0.25, theta_init=2.0), image_shape=(28, 28, 1)
    )
    variables = model.init(jax.random.key(0), np.zeros((1, 28, 28, 1)), train=False)
    return lambda v, x: model.apply(v, x, train=False), variables


if __name__ == "__main__":
    as_script(main)
