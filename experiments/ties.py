"""What tying thresholds along skip connections costs.

    python experiments/ties.py [--networks NAME ...] [--steps T ...] [--ties HOW ...]
      [--roundings R ...] [--epochs N] [--limit N]

Ties the thresholds of trained networks by powers of two, for each T, rounds them to
integers of 8 bits, and measures them on the test split. Ties are "none", "ratios" of
the thresholds alone, or what "images" of the training split choose. Roundings are
"float", for the network that is rounded, "nearest" and "gptq". With --epochs, weights
are also fine-tuned on the training split and rounded to the nearest. Every row is
written to docs/results/ties.json at once, and none is computed twice: a sweep that was
stopped goes on where it was.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from msgspec import structs

from bitsnn_jax import data
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.integers.gptq import gptq
from bitsnn_jax.integers.graph import Graph, Scale, evaluate
from bitsnn_jax.integers.network import IntegerNetwork
from bitsnn_jax.integers.ties import tied
from bitsnn_jax.jobs.integers import (
    BATCH,
    accuracy,
    calibration_pixels,
    fine_tuned,
    lower_pixels,
)
from bitsnn_jax.runs.loading import load_ann
from bitsnn_jax.runs.provenance import about_numbers
from bitsnn_jax.runtime.cli import Distinct, Parser, a_path, as_script, filled, whole
from bitsnn_jax.runtime.rows import Rows

NETWORKS = (
    "resnet20_fashion_mnist",
    "resnet20_fashion_mnist_sparse",
    "resnet20_fashion_mnist_sparse_tuned",
)
TIES = ("none", "ratios", "images")
ROUNDINGS = ("float", "nearest", "gptq")
BITS = 8
NUMBERS = Path("docs/results/ties.json")
KEYS = ("network", "steps", "ties", "rounding", "epochs", "images")


def main() -> None:
    parser = Parser(__doc__)
    several: dict[str, Any] = {"nargs": "+", "action": Distinct}
    parser.add_argument(
        "--networks", type=filled, default=NETWORKS, metavar="NAME", **several
    )
    parser.add_argument(
        "--steps", type=whole(1, 8), default=(4, 8), metavar="T", **several
    )
    parser.add_argument("--ties", choices=TIES, default=TIES, **several)
    parser.add_argument("--roundings", choices=ROUNDINGS, default=ROUNDINGS, **several)
    parser.add_argument(
        "--epochs", type=whole(0, 10**5), default=0, help="of fine-tuning"
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
    ways = [(rounding, 0) for rounding in options.roundings]
    ways += [("nearest", options.epochs)] * (options.epochs > 0)
    wanted = [
        (t, how, *way) for t in options.steps for how in options.ties for way in ways
    ]
    for steps, how, rounding, epochs in wanted:
        values = (name, steps, how, rounding, epochs, len(test))
        row = dict(zip(KEYS, values, strict=True))
        if known(row):
            continue
        start, details = time.perf_counter(), {}
        made = graph
        if how != "none":
            inputs = pixels if how == "images" else None
            made = tied(graph, steps=steps, inputs=inputs).graph
            details["thetas"] = changed(graph, made)
        if epochs:
            made, tuning = fine_tuned(
                made,
                settings,
                steps=steps,
                bits=BITS,
                epochs=epochs,
                seed=run.config.seed,
            )
            details |= structs.asdict(tuning)
        elif rounding == "gptq":
            made = gptq(made, pixels, steps=steps, bits=BITS)
        if rounding == "float":
            found = float_accuracy(made, steps, settings, test)
        else:
            network = fixed_point(made, steps=steps, bits=BITS)
            details["multipliers"] = multipliers(network)
            found = accuracy(network, settings, test)
        seconds = round(time.perf_counter() - start, 1)
        measured = {"accuracy": found, "seconds": seconds}
        about = about_numbers(config=name, seed=run.config.seed)
        yield {**details, **row, **measured, "about": about}


def changed(graph: Graph, made: Graph) -> dict[str, list[float]]:
    """The thetas that are other ones: as trained, and tied."""
    return {
        old.name: [float(old.theta.max()), float(new.theta.max())]
        for old, new in zip(graph.nodes, made.nodes, strict=True)
        if np.any(old.theta != new.theta)
    }


def multipliers(network: IntegerNetwork) -> list[int]:
    """All that multiply codes along skip connections."""
    terms = [term for node in network.nodes for term in node.terms]
    scales = [t.numbers for t in terms if isinstance(t.weight, Scale)]
    return sorted({int(n) for each in scales for n in np.ravel(each)})


def float_accuracy(graph: Graph, steps: int, settings, test) -> float:
    """What the network has right before it is rounded."""

    @jax.jit
    def predict(pixels):
        outputs, _ = evaluate(graph, pixels.astype(jnp.float32), steps=steps)
        return jnp.argmax(outputs["output"][:, 0], -1)

    size, correct = min(BATCH, len(test)), 0
    for batch in data.eval_batches(settings, test, batch_size=size):
        right = np.asarray(predict(batch["image"])) == batch["label"]
        correct += int(np.sum(right & batch["mask"]))
    return correct / len(test)


if __name__ == "__main__":
    as_script(main)
