"""As many levels as steps: the paper's Table 5, with and without the loss on bits.

    python experiments/levels.py --seeds 0 1 2

The small network of experiments/regulariser.py, trained on Fashion-MNIST with L = 3, 7
and 15 levels for T = 2, 3 and 4 steps. Without the loss it is the paper's quantised ANN
of T bits; with it, the source of its spiking network. Both are converted, and spikes
are simulated step by step on the test split.

Runs lie in runs/levels and are not trained twice; rows that are in
docs/results/levels.json are not computed again.
"""

import dataclasses
from pathlib import Path

from regulariser import PAPER, a_config

from bitsnn_jax import config, convert, data, spiking
from bitsnn_jax.jobs.evaluation import evaluate, without_spikes
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
from bitsnn_jax.tasks import task_of
from bitsnn_jax.training import train_and_evaluate

RUNS = Path("runs/levels")
NUMBERS = Path("docs/results/levels.json")
STEPS = (2, 3, 4)
LAMBDAS = (0.0, 5 * PAPER)
EPOCHS = 5


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "--seeds", type=whole(0, SEEDS), action=Distinct, nargs="+", default=[0, 1, 2]
    )
    parser.add_argument("--out", type=a_path, default=NUMBERS, help="the JSON file")
    options = parser.parse_args()
    rows = Rows(options.out, ("steps", "spike_lambda", "seed"))
    for seed in options.seeds:
        for steps in STEPS:
            for spike_lambda in LAMBDAS:
                key = {"steps": steps, "spike_lambda": spike_lambda, "seed": seed}
                if not rows.known(key):
                    rows.add(key | measured(a_run(**key)))
                    print(rows[-1], flush=True)


def a_run(*, steps: int, spike_lambda: float, seed: int) -> config.Config:
    settings = a_config("paper", spike_lambda, seed, EPOCHS)
    return dataclasses.replace(
        settings,
        name=f"{steps}_{settings.name}",
        steps=steps,
        model=dataclasses.replace(settings.model, levels=2**steps - 1),
    )


def measured(settings: config.Config) -> dict:
    """Train and convert one network."""
    result = train_and_evaluate(settings, RUNS / settings.name)
    apply_fn, trained = load_ann(RUNS / settings.name)
    variables, steps = trained.variables, settings.steps
    test = data.load(settings.data, "test")
    placeholder = task_of(settings).placeholder(test.input_shape)
    converted = convert(apply_fn, variables, placeholder, steps=steps).variables
    ann = evaluate(without_spikes(apply_fn), variables, settings.data, test, repeats=1)
    stepped = spiking(apply_fn, steps=steps)
    snn = evaluate(stepped, converted, settings.data, test, repeats=1)
    return {
        "epochs": settings.optimizer.epochs,
        "ann": ann.accuracy,
        "accuracy": snn.accuracy,
        "differing": int((ann.predictions != snn.predictions).sum()),
        "spikes_per_neuron": float(snn.stats.spikes_per_neuron),
        "seconds": result["seconds"],
        "about": about_numbers(config=settings.model.name, seed=settings.seed),
    }


if __name__ == "__main__":
    with_huge_pages()
    as_script(main)
