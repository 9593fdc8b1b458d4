"""How early the read-out may stop: accuracy against the steps of its last layers.

    python experiments/anytime.py [--networks NAME ...]

The networks in integers at T = 4 on all test images: accuracy after each prefix of the
spikes that feed the output, and mean steps at the margins where accuracy is within 0.1
points of all T steps. The margin is chosen on the first half of the images; accuracies
are those of the second. Writes docs/results/anytime.json.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from bitsnn_jax import data
from bitsnn_jax.integers.anytime import (
    accuracy_curve,
    early_exit,
    mean_missing,
    prefix_logits,
)
from bitsnn_jax.integers.execution import one_shot
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.jobs.integers import BATCH, lower_pixels
from bitsnn_jax.runs.loading import load_ann
from bitsnn_jax.runs.provenance import store_numbers
from bitsnn_jax.runtime.cli import Distinct, Parser, a_path, as_script, filled

NETWORKS = ("resnet20_fashion_mnist", "vgg_fashion_mnist")
STEPS = 4
LOSS = 0.001
NUMBERS = Path("docs/results/anytime.json")


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "--networks",
        nargs="+",
        type=filled,
        action=Distinct,
        default=NETWORKS,
        metavar="NAME",
    )
    parser.add_argument("--out", type=a_path, default=NUMBERS, help="the JSON file")
    options = parser.parse_args()
    rows = []
    for name in options.networks:
        rows.append(row(name))
        print(rows[-1], flush=True)
    store_numbers(options.out, rows, config=", ".join(options.networks), seed=None)


def row(name: str) -> dict[str, Any]:
    """Choose the margin on one half of the images, and measure on the other."""
    logits, labels = prefixes(name)
    half = len(labels) // 2
    # What the later bits add on average is known from the first half.
    logits = logits + mean_missing(logits[:, :half])[:, None]
    right = (logits[:, half:].argmax(-1) == labels[half:]).mean(1)
    curve = accuracy_curve(logits[:, :half], labels[:half])
    enough = curve.accuracy >= curve.accuracy[-1] - LOSS
    margin = curve.margins[enough][np.argmin(curve.mean_steps[enough])]
    predictions, steps = early_exit(logits[:, half:], margin)
    return {
        "network": name,
        "images": len(labels) - half,
        "accuracy_after": [float(r) for r in right],
        "margin": float(margin),
        "mean_steps": float(steps.mean()),
        "accuracy": float((predictions == labels[half:]).mean()),
    }


def prefixes(name: str):
    """Logits [T, n, classes] after each step, and labels [n]."""
    apply_fn, run = load_ann(name)
    test = data.load(run.config.data, "test")
    network = fixed_point(lower_pixels(apply_fn, run.variables, test), steps=STEPS)
    read, once = prefix_logits(network), one_shot(network)
    logits, labels = [], []
    after = jax.jit(lambda images: read(once(images).codes))
    for batch in data.eval_batches(run.config.data, test, batch_size=BATCH):
        kept = batch["mask"]
        logits.append(np.asarray(after(batch["image"]))[:, kept])
        labels.append(batch["label"][kept])
    return np.concatenate(logits, 1), np.concatenate(labels)


if __name__ == "__main__":
    as_script(main)
