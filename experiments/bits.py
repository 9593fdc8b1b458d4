"""What weights of few bits cost, by the way they are rounded or fine-tuned.

    python experiments/bits.py [--networks NAME ...] [--bits B ...]
      [--roundings R ...] [--epochs N]

Rounds trained networks to integers for T = 4 and measures them on the test split. Each
rounding has what the one before it has, and one thing more: "nearest", "units",
"feedback", "biases", which is all of `gptq.gptq`. With --epochs, weights are also
fine-tuned on the training split and rounded to the nearest. Every row is written to
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
from bitsnn_jax.integers.gptq import Ingredients, gptq
from bitsnn_jax.jobs.evaluation import evaluate
from bitsnn_jax.jobs.integers import (
    accuracy,
    calibration_pixels,
    fine_tuned,
    lower_pixels,
)
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

NETWORKS = (
    "resnet20_fashion_mnist",
    "resnet20_fashion_mnist_sparse",
    "resnet20_fashion_mnist_sparse_tuned",
    "vgg_fashion_mnist",
)
ROUNDINGS = {
    "nearest": None,
    "units": Ingredients(units=True, feedback=False, biases=False),
    "feedback": Ingredients(units=True, feedback=True, biases=False),
    "biases": Ingredients(units=True, feedback=True, biases=True),
}
BITS = (2, 3, 4, 6, 8)
NUMBERS = Path("docs/results/bits.json")
STEPS = 4
# What makes a row another one. No bits: the float SNN.
KEYS = ("network", "bits", "rounding", "epochs", "learning_rate", "images")


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
        "--roundings",
        nargs="+",
        choices=ROUNDINGS,
        action=Distinct,
        default=tuple(ROUNDINGS),
    )
    parser.add_argument(
        "--epochs", type=whole(0, 10**5), default=0, help="of fine-tuning"
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
    pixels = calibration_pixels(graph, settings)
    wanted = [(None, None, 0)]
    for bits in options.bits:
        wanted += [(bits, rounding, 0) for rounding in options.roundings]
        wanted += [(bits, "nearest", options.epochs)] * (options.epochs > 0)
    for bits, rounding, epochs in wanted:
        rate = options.learning_rate if epochs else None
        values = (name, bits, rounding, epochs, rate, len(test))
        row = dict(zip(KEYS, values, strict=True))
        if known(row):
            continue
        start, details = time.perf_counter(), {}
        if bits is None:
            snn_fn = spiking(apply_fn, steps=STEPS, mode="fused")
            found = evaluate(snn_fn, run.variables, settings, test).accuracy
        else:
            closer = graph
            if epochs:
                closer, tuning = fine_tuned(
                    graph,
                    settings,
                    steps=STEPS,
                    bits=bits,
                    epochs=epochs,
                    learning_rate=options.learning_rate,
                    seed=run.config.seed,
                )
                details = structs.asdict(tuning)
            elif using := ROUNDINGS[rounding or "nearest"]:
                closer = gptq(graph, pixels, steps=STEPS, bits=bits, using=using)
                details = {"calibration_images": len(pixels)}
            network = fixed_point(closer, steps=STEPS, bits=bits)
            found = accuracy(network, settings, test)
        seconds = round(time.perf_counter() - start, 1)
        measured = {"steps": STEPS, "accuracy": found, "seconds": seconds}
        about = about_numbers(config=name, seed=run.config.seed)
        yield {**details, **row, **measured, "about": about}


if __name__ == "__main__":
    as_script(main)
