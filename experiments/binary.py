"""Binary networks beside the converted one: the paper's Table 15, run here.

    python experiments/binary.py [--seeds 0 1 2]

Trains every method of `bitsnn_jax.binary` on Fashion-MNIST with the size of `small`,
and the QCFS network `small` for as many epochs. Runs lie in runs/binary and are not
trained twice. Then counts what each does on the first test images, prices it, and
compares all logits of the test split by XNOR and popcount with those in floats. Rows
that docs/results/binary.json has are not computed again. `--list` prints the commands
that train, and does nothing else.
"""

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

from energy import STEPS, counted

from bitsnn_jax import data, spiking
from bitsnn_jax.binary import METHODS
from bitsnn_jax.integers.energy import energy, profile
from bitsnn_jax.jobs.binary import agreement, compute_joules, operations
from bitsnn_jax.jobs.evaluation import evaluate
from bitsnn_jax.runs.checkpoint import Run
from bitsnn_jax.runs.loading import ann_fn, find_run
from bitsnn_jax.runs.provenance import about_numbers
from bitsnn_jax.runtime.cli import SEEDS, Distinct, Parser, a_path, as_script, whole
from bitsnn_jax.runtime.reading import read_json
from bitsnn_jax.runtime.rows import Rows

CONFIG = "configs/binary/fashion_mnist.py"
RUNS = Path("runs/binary")
NUMBERS = Path("docs/results/binary.json")
CONVERTED = "qcfs"
ALL = (CONVERTED, *METHODS)
PROFILES = ("paper_8", "mixed")  # without memory, as the paper's compute energy
EPOCHS = 5


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "--methods", nargs="+", action=Distinct, choices=ALL, default=ALL
    )
    parser.add_argument(
        "--seeds", type=whole(0, SEEDS), action=Distinct, nargs="+", default=[0]
    )
    parser.add_argument(
        "--images", type=whole(1), default=1000, help="whose operations are counted"
    )
    parser.add_argument("--out", type=a_path, default=NUMBERS, help="the JSON file")
    parser.add_argument("--list", action="store_true", help="print commands, no more")
    options = parser.parse_args()
    rows = None if options.list else Rows(options.out, ("method", "seed"))
    for seed, method in itertools.product(options.seeds, options.methods):
        folder, command = training(method, seed)
        if rows is None:
            print(*command)
        elif not rows.known({"method": method, "seed": seed}):
            if not (folder / "result.json").exists():
                subprocess.run([sys.executable, *command], check=True)
            rows.add(row(method, seed, folder, options.images))


def training(method: str, seed: int) -> tuple[Path, list[str]]:
    """Folder and command of a method's run."""
    folder = RUNS / f"{method}_{seed}"
    command = ["train.py", "--config", f"{CONFIG}:{method}", "--workdir", str(folder)]
    fields = {"name": folder.name, "seed": seed, "optimizer.epochs": EPOCHS}
    options = [f"--config.{field}={value}" for field, value in fields.items()]
    return folder, [*command, *options]


def row(method: str, seed: int, folder: Path, images: int) -> dict[str, Any]:
    """Measure a trained network on the test split, and on its first images."""
    run = find_run(folder)
    result = read_json(folder / "result.json", advice="remove it to evaluate again")
    measure = of_converted if method == CONVERTED else of_binary
    return {
        "method": method,
        "seed": seed,
        "epochs": run.config.optimizer.epochs,
        "seconds": result["seconds"],
        "accuracy": result["test"]["accuracy"],
        "images": images,
        **measure(folder, run, images),
        "about": about_numbers(config=f"{CONFIG}:{method}", seed=seed),
    }


def of_binary(folder: Path, run: Run, images: int) -> dict[str, Any]:
    """Counts an image, energy, and whether bits give the logits of floats."""
    test = data.load(run.config.data, "test")
    first = test.first(images)
    counts, images = operations(run, first), len(first)
    of_signs = counts["binary_products"] > 0
    return {
        "popcount": agreement(run, test)._asdict() if of_signs else None,
        "counts": {kind: number / images for kind, number in counts.items()},
        "joules": {
            name: compute_joules(counts, profile(name), examples=images)
            for name in PROFILES
        },
        "by_additions": as_additions(counts, images),
    }


def as_additions(counts: dict[str, int], images: int) -> dict[str, float]:
    """Return the energy if a product of signs cost what an addition costs."""
    added = counts["synaptic_operations"] + counts["binary_products"]
    dearer = counts | {"binary_products": 0, "synaptic_operations": added}
    return {
        name: compute_joules(dearer, profile(name), examples=images)
        for name in PROFILES
    }


def of_converted(folder: Path, run: Run, images: int) -> dict[str, Any]:
    """What the spiking network of integers does; its accuracy is that of all images."""
    apply_fn = ann_fn(run.config, run.input_shape)
    test = data.load(run.config.data, "test")
    snn_fn = spiking(apply_fn, steps=STEPS, mode="fused")
    measured = evaluate(snn_fn, run.variables, run.config.data, test, repeats=1)
    counts = counted(str(folder), images)
    kinds = ("multiply_accumulates", "synaptic_operations", "bias_additions")
    return {
        "accuracy": measured.accuracy,
        "steps": STEPS,
        "spikes_per_neuron": float(measured.stats.spikes_per_neuron),
        "counts": {
            kind: counts.total(kind) / counts.examples
            for kind in (*kinds, "shifts", "compares", "resets")
        },
        "joules": {name: energy(counts, profile(name)).compute for name in PROFILES},
    }


if __name__ == "__main__":
    as_script(main)
