"""MiniLM on the review sentences: float, quantised, spiking (the paper's Table 8).

    python experiments/sentences.py --seeds 0 1 2

Needs the files that configs/minilm_reviews.py names. For each seed: the float network
is fine-tuned, a QCFS network of L = 15 starts from it, and `convert.py` runs that one
spike by spike on all test sentences. The float network is also quantised without
training. Each network with codes is compared with its spiking form in float64, code by
code, on all test sentences at T = 4, and on the first 500 at T = 8 and 16; that of the
first seed is put in integers, which the referee runs again. Runs lie in runs/sentences
and are not trained twice. docs/results/sentences.json has a row for each
network, written as soon as it is there.
"""

import argparse
import dataclasses
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from vit import by_referee

from bitsnn_jax.config import Config, read_config
from bitsnn_jax.conversion.calibration import calibrate_network
from bitsnn_jax.jobs.evaluation import without_spikes
from bitsnn_jax.jobs.measure import measure_at, on_examples
from bitsnn_jax.jobs.sources import Network, RunSource
from bitsnn_jax.runs.loading import ann_fn, find_run
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
from bitsnn_jax.runtime.reading import read_json
from bitsnn_jax.runtime.rows import Rows
from bitsnn_jax.tasks import task_of
from bitsnn_jax.training import train_and_evaluate

CONFIG = Path("configs/minilm_reviews.py")
RUNS = Path("runs/sentences")
NUMBERS = Path("docs/results/sentences.json")
FLOAT = 0  # levels of a network without codes
LEVELS = 15  # of a network that is trained with codes
WITHOUT_TRAINING = (255, 15)  # of networks whose thresholds are found, and no more
CALIBRATED = 256  # training sentences that they are found with
EPOCHS, LEARNING_RATE = 1, 1e-4  # with codes
# Each spike is simulated at the T that a network was trained for.
STEPPED = "--steps 4 --mode stepped --certificate none"
OTHER_STEPS = "--steps 2 8 --mode fused --certificate none"
ON_ALL, ON_FIRST = 4, 8  # T whose codes are compared on all sentences, on the first
# One threshold a channel would need tables of 40 GB: 65,535 entries for each of them.
MANY_STEPS = 16
CERTIFICATE = "--steps {} --mode fused --certificate float64"
INTEGERS = "--steps 4 --mode fused --certificate none --fixed-point --rounding nearest"
REFEREED = 50  # sentences
FIRST = 500  # sentences that are compared in float64


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "--seeds", type=whole(0, SEEDS), action=Distinct, nargs="+", default=[0, 1, 2]
    )
    parser.add_argument(
        "--parts", nargs="+", action=Distinct, choices=PARTS, default=list(PARTS)
    )
    parser.add_argument("--out", type=a_path, default=NUMBERS, help="the JSON file")
    options = parser.parse_args()
    rows = Rows(options.out, ("part", "seed", "levels"))
    for part, seed, levels in wanted(options.seeds):
        key = {"part": part, "seed": seed, "levels": levels}
        if part in options.parts and not rows.known(key):
            about = {"about": about_numbers(config=str(CONFIG), seed=seed)}
            rows.add(key | PARTS[part](seed, levels) | about)
            print(rows[-1], flush=True)


def wanted(seeds: list[int]) -> Iterator[tuple[str, int, int]]:
    for levels in (FLOAT, LEVELS):
        yield from (("network", seed, levels) for seed in seeds)
    yield from (("stepped", seed, LEVELS) for seed in seeds)
    yield from ((f"certificate {ON_ALL}", seed, LEVELS) for seed in seeds)
    once = (f"certificate {ON_FIRST}", "integers", "referee")
    yield from ((part, seeds[0], LEVELS) for part in once)
    yield (f"certificate {MANY_STEPS}", seeds[0], 2**MANY_STEPS - 1)
    for levels in WITHOUT_TRAINING:
        yield from (("calibrated", seed, levels) for seed in seeds)
    yield from (("other steps", seed, LEVELS) for seed in seeds)
    yield from (("many steps", seed, 2**MANY_STEPS - 1) for seed in seeds)


def trained(seed: int, levels: int) -> dict[str, Any]:
    """Train one network; what is trained already is not trained again."""
    settings = config_of(seed, levels)
    result = train_and_evaluate(settings, RUNS / settings.name)
    return {
        "epochs": settings.optimizer.epochs,
        "accuracy": result["test"]["accuracy"],
        "trained": result["commit"],
    }


def converted(options: str) -> Callable[[int, int], dict[str, Any]]:
    """Return what converts a run, and keeps the numbers of whole networks."""

    def convert(seed: int, levels: int) -> dict[str, Any]:
        found = conversion(RUNS / config_of(seed, levels).name, options)
        return {
            "sentences": found["examples"],
            "steps": [_without_layers(row) for row in found["steps"]],
        }

    return convert


def calibrated(seed: int, levels: int) -> dict[str, Any]:
    """Evaluate the float network with codes, whose thresholds alone were found."""
    network = with_codes(config_of(seed, levels))
    found = on_examples(network, without_spikes(network.apply_fn), network.variables)
    return {"accuracy": found.accuracy, "sentences": len(network.examples)}


def with_codes(settings: Config) -> Network:
    """Return the float network that a config starts from, with its codes."""
    run, task = find_run(settings.start_from), task_of(settings)
    train, test = (task.load(settings.data, split) for split in ("train", "test"))
    apply_fn = ann_fn(settings, train.input_shape)
    shown = task.eval_batches(settings.data, train.first(CALIBRATED), batch_size=64)
    batches = [task.inputs(batch) for batch in shown]
    variables = calibrate_network(apply_fn, run.variables, batches)
    return Network(
        apply_fn=apply_fn,
        variables=variables,
        config=settings,
        examples=test,
        nonspiking="decode",
    )


def many_steps(seed: int, levels: int, *, certified: bool = False) -> dict[str, Any]:
    """Run T = 16 with one threshold a layer, found and not trained.

    Args:
      seed: of the float network.
      levels: 2^T - 1.
      certified: compare the first sentences in float64, code by code, and no others.
    """
    settings = config_of(seed, levels)
    settings.model = dataclasses.replace(settings.model, per_channel=False)
    network = with_codes(settings)
    if certified:
        first = network.examples.first(FIRST)
        network = dataclasses.replace(network, examples=first)
    row = measure_at(
        network,
        network.variables,
        steps=MANY_STEPS,
        modes=("fused",),
        precisions=("float64",) if certified else (),
    )
    found = msgspec.to_builtins(row)
    return {"sentences": len(network.examples), "steps": [_without_layers(found)]}


def in_integers(seed: int, levels: int) -> dict[str, Any]:
    """Convert a run in integers, on all test sentences."""
    found = conversion(RUNS / config_of(seed, levels).name, INTEGERS)
    return {
        "sentences": found["examples"],
        "ann_accuracy": found["ann"]["accuracy"],
        "steps": [_without_layers(row) for row in found["fixed_point"]["steps"]],
    }


def refereed(seed: int, levels: int) -> dict[str, Any]:
    """Let the NumPy program find every spike of the first sentences again."""
    network = RunSource(RUNS / config_of(seed, levels).name).load()
    return by_referee(network, argparse.Namespace(referee=REFEREED))


PARTS = {
    "network": trained,
    "calibrated": calibrated,
    "stepped": converted(STEPPED),
    "other steps": converted(OTHER_STEPS),
    "many steps": many_steps,
    f"certificate {ON_ALL}": converted(CERTIFICATE.format(ON_ALL)),
    f"certificate {ON_FIRST}": converted(
        f"{CERTIFICATE.format(ON_FIRST)} --limit {FIRST}"
    ),
    f"certificate {MANY_STEPS}": partial(many_steps, certified=True),
    "integers": in_integers,
    "referee": refereed,
}


def config_of(seed: int, levels: int) -> Config:
    settings = read_config(CONFIG)
    settings.seed = seed
    settings.name = f"float_{seed}"
    if levels:
        settings.name = f"qcfs_{levels}_{seed}"
        settings.start_from = str(RUNS / f"float_{seed}")
        settings.model = dataclasses.replace(
            settings.model, activation="qcfs", levels=levels, per_channel=True
        )
        settings.optimizer = dataclasses.replace(
            settings.optimizer, epochs=EPOCHS, learning_rate=LEARNING_RATE
        )
    return settings


def conversion(workdir: Path, options: str) -> dict[str, Any]:
    """Return what `convert.py` says of a run with these options."""
    out = workdir / options.replace("--", "").replace(" ", "_")
    if not (out / "conversion.json").exists():
        command = f"convert.py --ckpt {workdir} {options} --out {out}"
        subprocess.run([sys.executable, *command.split()], check=True)
    return read_json(out / "conversion.json", advice="remove it to convert again")


def _without_layers(row: Any) -> Any:
    if not isinstance(row, dict):
        return row
    return {k: _without_layers(v) for k, v in row.items() if k != "layers"}


if __name__ == "__main__":
    with_huge_pages()
    as_script(main)
