"""MiniLM on the review sentences: float, quantised, spiking (the paper's Table 8).

    python experiments/sentences.py --seeds 0 1 2

Needs the files that configs/minilm_reviews.py names. For each seed: the float network
is fine-tuned, QCFS networks of L = 2**T - 1 start from it, and `convert.py` runs each
of them spike by spike on all test sentences. Runs lie in runs/sentences and are not
trained twice. docs/results/sentences.json has a row for each network, written as soon
as it is there.
"""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

from bitsnn_jax.config import Config, read_config
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
from bitsnn_jax.training import train_and_evaluate

CONFIG = Path("configs/minilm_reviews.py")
RUNS = Path("runs/sentences")
NUMBERS = Path("docs/results/sentences.json")
FLOAT = 0  # levels of a network without codes
# Epochs and learning rate of the networks of so many levels.
RECIPES = {15: (1, 1e-4), 255: (1, 2e-5)}
# What each is converted with: each spike is simulated at the T that it was trained for.
CONVERSIONS = {
    15: ("--steps 4 --mode stepped", "--steps 2 8 16 --mode fused"),
    255: ("--steps 8 16 --mode fused",),
}


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "--seeds", type=whole(0, SEEDS), action=Distinct, nargs="+", default=[0, 1, 2]
    )
    parser.add_argument(
        "--levels",
        type=int,
        choices=RECIPES,
        action=Distinct,
        nargs="+",
        default=list(RECIPES),
    )
    parser.add_argument("--out", type=a_path, default=NUMBERS, help="the JSON file")
    options = parser.parse_args()
    rows = Rows(options.out, ("seed", "levels"))
    for levels in (FLOAT, *options.levels):
        for seed in options.seeds:
            if not rows.known({"seed": seed, "levels": levels}):
                rows.add(measured(seed, levels))
                print(rows[-1], flush=True)


def measured(seed: int, levels: int) -> dict[str, Any]:
    """Train one network, and convert it if it has codes."""
    settings = config_of(seed, levels)
    workdir = RUNS / settings.name
    result = train_and_evaluate(settings, workdir)
    row = {
        "seed": seed,
        "levels": levels,
        "epochs": settings.optimizer.epochs,
        "accuracy": result["test"]["accuracy"],
        "seconds": result["seconds"],
    }
    if levels:
        row |= converted(workdir, CONVERSIONS[levels])
    return row | {"about": about_numbers(config=str(CONFIG), seed=seed)}


def config_of(seed: int, levels: int) -> Config:
    settings = read_config(CONFIG)
    settings.seed = seed
    settings.name = f"float_{seed}"
    if levels:
        epochs, rate = RECIPES[levels]
        settings.name = f"qcfs_{levels}_{seed}"
        settings.start_from = str(RUNS / f"float_{seed}")
        settings.model = dataclasses.replace(
            settings.model, activation="qcfs", levels=levels, per_channel=True
        )
        settings.optimizer = dataclasses.replace(
            settings.optimizer, epochs=epochs, learning_rate=rate
        )
    return settings


def converted(workdir: Path, conversions: tuple[str, ...]) -> dict[str, Any]:
    """Convert a run on all test sentences, and keep the numbers of whole networks."""
    rows, found = [], {}
    for options in conversions:
        out = workdir / options.replace("--", "").replace(" ", "_")
        if not (out / "conversion.json").exists():
            command = f"convert.py --ckpt {workdir} --certificate none {options}"
            given = [sys.executable, *command.split(), "--out", str(out)]
            subprocess.run(given, check=True)
        found = read_json(out / "conversion.json", advice="remove it to convert again")
        rows += [_without_layers(row) for row in found["steps"]]
    return {
        "sentences": found["examples"],
        "ann_accuracy": found["ann"]["accuracy"],
        "steps": sorted(rows, key=lambda row: row["steps"]),
    }


def _without_layers(row: Any) -> Any:
    if not isinstance(row, dict):
        return row
    return {k: _without_layers(v) for k, v in row.items() if k != "layers"}


if __name__ == "__main__":
    with_huge_pages()
    as_script(main)
