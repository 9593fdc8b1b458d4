"""Compare `loss.spike_weights`: every spike counts the same, or by its synapses.

    python experiments/spike_weights.py --seeds 0 1 2

Trains the small network of `regulariser.py` with surrogate `difference`, for each
lambda, weighting and seed, and counts spikes and synaptic operations of the spiking
network at T = 4 on the test split. docs/results/spike_weights.json has a row for each
run, written as soon as it is there; a sweep that was stopped goes on where it was.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
from regulariser import EPOCHS, NATIVE, PAPER, a_config

from bitsnn_jax import config, data
from bitsnn_jax.comparators import METHODS, simulate
from bitsnn_jax.runs.loading import load_ann
from bitsnn_jax.runs.provenance import about_numbers
from bitsnn_jax.runtime.cli import (
    SEEDS,
    Distinct,
    Parser,
    a_path,
    as_script,
    whole,
    with_huge_pages,
)
from bitsnn_jax.runtime.rows import Rows
from bitsnn_jax.tracing.fan_out import fan_out
from bitsnn_jax.training import train_and_evaluate

LAMBDAS = (25 * PAPER, 5 * PAPER)
WEIGHTS = ("neurons", "fan_out")
BATCH = 500
RUNS = Path("runs/spike_weights")
NUMBERS = Path("docs/results/spike_weights.json")


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "--seeds", type=whole(0, SEEDS), action=Distinct, nargs="+", default=[0, 1, 2]
    )
    parser.add_argument("--out", type=a_path, default=NUMBERS, help="the JSON file")
    options = parser.parse_args()
    rows = Rows(options.out, ("name",))
    for settings in wanted(options):
        if not rows.known({"name": settings.name}):
            rows.add(run(settings))
            print(rows[-1], flush=True)


def wanted(options: argparse.Namespace):
    """The configs of all runs; those of one lambda and seed follow each other."""
    for spike_lambda in (*LAMBDAS, 0.0):
        for seed in options.seeds:
            plain = a_config("difference", spike_lambda, seed, EPOCHS)
            for weights in WEIGHTS if spike_lambda else WEIGHTS[:1]:
                yield dataclasses.replace(
                    plain,
                    name=f"{weights}_{spike_lambda:.3g}_{seed}",
                    loss=dataclasses.replace(plain.loss, spike_weights=weights),
                )


def run(settings: config.Config) -> dict[str, Any]:
    """Train and measure one network."""
    workdir = RUNS / settings.name
    train_and_evaluate(settings, workdir)
    return {
        "name": settings.name,
        "spike_weights": settings.loss.spike_weights,
        "spike_lambda": settings.loss.spike_lambda,
        "epochs": settings.optimizer.epochs,
        "steps": NATIVE,
        **measured(workdir),
        "about": about_numbers(config=settings.model.name, seed=settings.seed),
    }


def measured(workdir: Path) -> dict[str, float]:
    """Accuracy, and what an image costs, by the spiking network on the test split."""
    apply_fn, trained = load_ann(workdir)
    settings = trained.config.data
    test = data.load(settings, "test")
    one = jax.ShapeDtypeStruct((1, *test.image_shape), np.float32)
    synapses = fan_out(apply_fn, trained.variables, one)
    neuron = METHODS["bit_serial"].neuron(NATIVE)
    snn = jax.jit(simulate(apply_fn, neuron, steps=NATIVE, fan_out=synapses))
    assert len(test) % BATCH == 0, "padded images would be counted"
    right, spikes, operations = 0, 0.0, 0.0
    for batch in data.eval_batches(settings, test, batch_size=BATCH):
        found = snn(trained.variables, data.normalise(batch["image"], test))
        right += int((found.outputs[-1].argmax(-1) == batch["label"]).sum())
        spikes += sum(float(s.sum()) for s in found.spikes.values())
        operations += float(found.synaptic_operations.sum())
    neurons = sum(int(np.prod(x.shape)) for x in synapses.values())
    return {
        "accuracy": right / len(test),
        "spikes_per_neuron": spikes / (neurons * len(test)),
        "synaptic_operations": operations / len(test),
    }


if __name__ == "__main__":
    with_huge_pages()
    as_script(main)
