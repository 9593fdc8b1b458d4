"""What weights of few bits cost, and what quantisation-aware fine-tuning gives back.

    python experiments/bits.py [--networks NAME ...] [--bits B ...] [--epochs N]

Rounds trained networks to integers for T = 4, with and without fine-tuning on the
training split, and measures them on the test split. Every row is written to
docs/results/bits.json at once, and none is computed twice: a sweep that was stopped
goes on where it was.
"""

import argparse
import time
from pathlib import Path

from msgspec import structs

from bitsnn_jax import data
from bitsnn_jax.conversion.spiking import spiking
from bitsnn_jax.integers import qat
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.jobs.evaluation import evaluate
from bitsnn_jax.jobs.integers import accuracy, fine_tuned, lower_pixels
from bitsnn_jax.runs.loading import load_ann
from bitsnn_jax.runs.provenance import about_numbers
from bitsnn_jax.runtime.cli import (
    Distinct,
    Parser,
    a_path,
    as_script,
    between,
    filled,
    whole,
)
from bitsnn_jax.runtime.rows import Rows

NETWORKS = ("resnet20_fashion_mnist", "vgg_fashion_mnist")
BITS = (2, 3, 4, 6, 8)
NUMBERS = Path("docs/results/bits.json")
STEPS = 4
# What makes a row another one. No bits: the float SNN.
KEYS = ("network", "bits", "epochs", "learning_rate", "images")


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
    parser.add_argument(
        "--bits",
        nargs="+",
        type=whole(2, 8),
        action=Distinct,
        default=BITS,
        metavar="B",
    )
    parser.add_argument(
        "--epochs", type=whole(0, 10**5), default=2, help="of fine-tuning"
    )
    parser.add_argument(
        "--learning_rate", type=between(0, 1), default=qat.LEARNING_RATE
    )
    parser.add_argument(
        "--limit", type=whole(1), metavar="N", help="first N test images"
    )
    parser.add_argument("--out", type=a_path, default=NUMBERS, help="the JSON file")
    options = parser.parse_args()
    rows = Rows(options.out, KEYS)
    for name in options.networks:
        for row in missing(name, options, rows.known):
            rows.add(row)
            print(row, flush=True)


def missing(name: str, options: argparse.Namespace, known):
    """The rows of a network that are not there yet, one by one."""
    apply_fn, run = load_ann(name)
    settings = run.config.data
    test = data.load(settings, "test").first(options.limit)
    graph = lower_pixels(apply_fn, run.variables, test)
    wanted = [(None, 0), *((b, n) for b in options.bits for n in (0, options.epochs))]
    for bits, epochs in dict.fromkeys(wanted):
        rate = options.learning_rate if epochs else None
        row = dict(zip(KEYS, (name, bits, epochs, rate, len(test)), strict=True))
        if known(row):
            continue
        start, details = time.perf_counter(), {}
        if bits is None:
            snn_fn = spiking(apply_fn, steps=STEPS, mode="fused")
            found = evaluate(snn_fn, run.variables, settings, test).accuracy
        else:
            tuned = graph
            if epochs:
                tuned, tuning = fine_tuned(
                    graph,
                    settings,
                    steps=STEPS,
                    bits=bits,
                    epochs=epochs,
                    learning_rate=options.learning_rate,
                    seed=run.config.seed,
                )
                details = structs.asdict(tuning)
            network = fixed_point(tuned, steps=STEPS, bits=bits)
            found = accuracy(network, settings, test)
        seconds = round(time.perf_counter() - start, 1)
        measured = {"steps": STEPS, "accuracy": found, "seconds": seconds}
        about = about_numbers(config=name, seed=run.config.seed)
        yield {**details, **row, **measured, "about": about}


if __name__ == "__main__":
    as_script(main)
