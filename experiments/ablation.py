"""What left shift, BN shift and modified IF give: the paper's Table 4, on our networks.

    python experiments/ablation.py [--ckpt NAME] [--steps T ...] [--limit N]

Every cell of `bitsnn_jax.comparators.ablation` on the test split, T by T. A row is
written to docs/results/ablation.json as soon as it is there, and none is computed
twice: what was stopped goes on. Prints a table, with the paper's own numbers beside it,
which are of other networks on other data.
"""

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rows import Rows

from bitsnn_jax import data
from bitsnn_jax.comparators import Network, simulate
from bitsnn_jax.comparators.ablation import CELLS, ablated
from bitsnn_jax.runs.loading import load_ann
from bitsnn_jax.runs.provenance import about_numbers
from bitsnn_jax.runtime.cli import STEPS as MOST_STEPS
from bitsnn_jax.runtime.cli import Distinct, Parser, a_path, as_script, filled, whole

NUMBERS = Path("docs/results/ablation.json")
BATCH = 50
KEYS = ("network", "cell", "steps", "images")
# Accuracy on CIFAR-10 in %, T = 2, 4, 6, 8, 16.
PAPER_STEPS = (2, 4, 6, 8, 16)
PAPER = {
    "VGG16": {
        "none": (91.08, 93.82, 94.68, 94.90, 95.33),
        "modified_if": (92.42, 94.80, 95.17, 95.28, 95.21),
        "left_shift": (93.03, 95.12, 95.24, 95.18, 95.21),
        "left_shift_bn": (93.33, 95.23, 95.45, 95.45, 95.32),
        "all": (94.21, 95.82, 95.79, 95.82, 95.84),
    },
    "ResNet20": {
        "none": (71.42, 83.91, 84.12, 88.72, 92.64),
        "modified_if": (76.21, 90.18, 91.92, 92.49, 92.62),
        "left_shift": (76.10, 91.22, 91.43, 92.40, 92.62),
        "left_shift_bn": (79.86, 91.81, 92.07, 93.24, 93.48),
        "all": (86.92, 93.60, 93.57, 93.66, 93.75),
    },
}
MARKS = {
    "left_shift": "left shift",
    "bn_shift": "BN shift",
    "modified_if": "modified IF",
    "norm_first": "norm first",
}


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "--ckpt", type=filled, default="resnet20_fashion_mnist", metavar="NAME"
    )
    parser.add_argument(
        "--steps",
        nargs="+",
        type=whole(1, MOST_STEPS),
        action=Distinct,
        default=(2, 4),
        metavar="T",
    )
    parser.add_argument(
        "--limit", type=whole(1), metavar="N", help="first N test images"
    )
    parser.add_argument("--out", type=a_path, default=NUMBERS, help="the JSON file")
    options = parser.parse_args()
    rows = Rows(options.out, KEYS)
    for row in missing(options, rows.known):
        rows.add(row)
        print(row, flush=True)
    print(table(rows))


def missing(options: argparse.Namespace, known):
    """The rows of a network that are not there yet, one by one."""
    apply_fn, run = load_ann(options.ckpt)
    settings, network = run.config.data, Network(apply_fn, run.variables, "qcfs")
    test = data.load(settings, "test").first(options.limit)
    example = np.zeros((1, *test.image_shape), np.float32)
    for steps in options.steps:
        for name, cell in CELLS.items():
            row = dict(zip(KEYS, (options.ckpt, name, steps, len(test)), strict=True))
            if known(row):
                continue
            start, method = time.perf_counter(), ablated(cell)
            found = None
            if method.prepare is not None:
                found = method.prepare(network, [example], steps)
            snn = simulate(apply_fn, method.neuron(steps), steps=steps, found=found)
            measured = measure(snn, run.variables, settings, test)
            seconds = round(time.perf_counter() - start, 1)
            about = about_numbers(config=options.ckpt, seed=None)
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
        r, s = step(batch["image"], batch["label"], jnp.asarray(kept))
        right += int(r)
        if kept.all():  # the rows that fill up the last batch fire too
            spikes, images = spikes + float(s), images + len(kept)
    return {"accuracy": right / len(test), "spikes_per_image": spikes / images}


def table(rows: list[dict]) -> str:
    """A Markdown table for each network and number of images."""
    lines = []
    for network, images in dict.fromkeys((r["network"], r["images"]) for r in rows):
        found = {
            (r["cell"], r["steps"]): r["accuracy"]
            for r in rows
            if (r["network"], r["images"]) == (network, images)
        }
        steps = sorted({t for _, t in found})
        published = [t for t in steps if t in PAPER_STEPS]
        columns = [
            *MARKS.values(),
            *(f"T = {t}" for t in steps),
            *(f"paper, CIFAR-10 {n}, T = {t}" for n in PAPER for t in published),
        ]
        lines += [
            f"{network}, the first {images:,} test images; the paper's networks are "
            "others, on other data\n",
            f"| {' | '.join(columns)} |",
            "|---" * len(columns) + "|",
        ]
        for name, cell in CELLS.items():
            cells = ["yes" if getattr(cell, mark) else "" for mark in MARKS]
            ours = [found.get((name, t)) for t in steps]
            cells += ["" if a is None else f"{a:.2%}" for a in ours]
            cells += [
                f"{of[name][PAPER_STEPS.index(t)]:.2f}%" if name in of else ""
                for of in PAPER.values()
                for t in published
            ]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    as_script(main)
