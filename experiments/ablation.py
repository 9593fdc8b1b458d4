"""What left shift, BN shift and modified IF give: the paper's Table 4, on our networks.

    python experiments/ablation.py [--ckpt NAME ...] [--steps T ...] [--limit N]

Every cell of `bitsnn_jax.comparators.ablation` on the test split, T by T. A row is
written to docs/results/ablation.json as soon as it is there, and none is computed
twice: a sweep that was stopped goes on where it was.
"""

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax import data
from bitsnn_jax.comparators import Network, simulate
from bitsnn_jax.comparators.ablation import CELLS, ablated
from bitsnn_jax.runs.loading import load_ann
from bitsnn_jax.runs.provenance import about_numbers
from bitsnn_jax.runtime.cli import STEPS as MOST_STEPS
from bitsnn_jax.runtime.cli import Distinct, Parser, a_path, as_script, filled, whole
from bitsnn_jax.runtime.rows import Rows

NUMBERS = Path("docs/results/ablation.json")
BATCH = 50
KEYS = ("network", "cell", "steps", "images")


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "--ckpt",
        nargs="+",
        type=filled,
        action=Distinct,
        default=("resnet20_fashion_mnist", "vgg_fashion_mnist"),
        metavar="NAME",
    )
    parser.add_argument(
        "--steps",
        nargs="+",
        type=whole(1, MOST_STEPS),
        action=Distinct,
        default=(2, 4, 6, 8, 16),
        metavar="T",
    )
    parser.add_argument(
        "--limit", type=whole(1), metavar="N", help="first N test images"
    )
    parser.add_argument("--out", type=a_path, default=NUMBERS, help="the JSON file")
    options = parser.parse_args()
    rows = Rows(options.out, KEYS)
    for ckpt in options.ckpt:
        for row in missing(ckpt, options, rows.known):
            rows.add(row)
            print(row, flush=True)


def missing(ckpt: str, options: argparse.Namespace, known):
    """The rows of a network that are not there yet, one by one."""
    apply_fn, run = load_ann(ckpt)
    settings, network = run.config.data, Network(apply_fn, run.variables, "qcfs")
    test = data.load(settings, "test").first(options.limit)
    example = np.zeros((1, *test.image_shape), np.float32)
    for steps in options.steps:
        for name, cell in CELLS.items():
            row = dict(zip(KEYS, (ckpt, name, steps, len(test)), strict=True))
            if known(row):
                continue
            start, method = time.perf_counter(), ablated(cell)
            found = method.prepare(network, [example], steps).found
            snn = simulate(apply_fn, method.neuron(steps), steps=steps, found=found)
            measured = measure(snn, run.variables, settings, test)
            seconds = round(time.perf_counter() - start, 1)
            about = about_numbers(config=ckpt, seed=None)
            yield {**row, **measured, "seconds": seconds, "about": about}


def measure(snn, variables, settings, test) -> dict:
    """Accuracy at the last step, and spikes of an image."""

    @jax.jit
    def step(image, label, mask):
        found = snn(variables, image)
        right = (found.outputs[-1].argmax(-1) == label) & mask
        return right.sum(), sum(s.sum() for s in found.spikes.values())

    right, spikes, images = 0, 0.0, 0
    batch_size = min(BATCH, len(test))
    for batch in data.eval_batches(settings, test, batch_size=batch_size):
        kept = batch["mask"]
        normalised = data.normalise(batch["image"], test)
        r, s = step(normalised, batch["label"], jnp.asarray(kept))
        right += int(r)
        if kept.all():  # the rows that fill up the last batch fire too
            spikes, images = spikes + float(s), images + len(kept)
    return {"accuracy": right / len(test), "spikes_per_image": spikes / images}


if __name__ == "__main__":
    as_script(main)
