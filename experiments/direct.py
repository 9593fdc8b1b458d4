"""Directly trained networks beside converted ones: the paper's Table 3, run here.

    python experiments/direct.py --network small
    python experiments/direct.py --network small --best 4 --seeds 1 2
    python experiments/direct.py --network resnet20 --goes_on 1 \\
        --methods qcfs_longer bit_serial_detached bit_serial dual_phase diet_snn
    python experiments/direct.py --network plif_net --epochs 1
    python experiments/direct.py --network spikformer_small
    python experiments/direct.py --network sdt_v2_small

Every method trains the same network on Fashion-MNIST through T = 4 steps, by the
recipes of the config, for as many epochs as the QCFS network that is converted. Methods
that go on from a trained network start from one that had those epochs too, and have as
many themselves, or `--goes_on`. ResNet-20 is not trained to start from: the package has
one with QCFS and one with ReLU, of seed 0, which all seeds go on from. Networks that a
method has for itself are trained by its recipe, PLIF's through T = 8 steps, and without
time with QCFS for T = 4.

Runs lie in runs/direct/NETWORK and are not trained twice. `compare.py` measures them on
the test split, beside the converted network of their seed; what it found is added to
docs/results/direct.json. `--list` prints the commands that train, and does nothing
else, for a machine that runs several at a time.
"""

import itertools
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bitsnn_jax.direct import METHODS
from bitsnn_jax.runs.provenance import about_numbers
from bitsnn_jax.runtime.cli import (
    SEEDS,
    Distinct,
    Parser,
    a_path,
    as_script,
    between,
    whole,
)
from bitsnn_jax.runtime.reading import read_json
from bitsnn_jax.runtime.rows import Rows

CONFIG = "configs/direct/fashion_mnist.py"
RUNS = Path("runs/direct")
NUMBERS = Path("docs/results/direct.json")
EPOCHS = 5
LONGER = "qcfs_longer"  # goes on without time: the control of those that go on with it
SOURCES = ("qcfs", "relu")  # networks that are converted, or that others go on from
STEPS = 4
# How QCFS trains a network that a method has for itself: by its recipe, without time.
QCFS = {"steps": STEPS, "direct.method": "", "model.activation": "qcfs"}
THETAS = {"model.theta_init": 4.0, "model.per_channel": True}  # as vit_fashion_mnist


class Own(NamedTuple):
    """The method that a network is of, its recipe, and what QCFS changes in that."""

    method: str
    recipe: str
    qcfs: dict[str, Any]


OWN = {
    "plif_net": Own("plif", "plif_net", QCFS),
    "spikformer_small": Own("spikformer", "spikformer", QCFS | THETAS),
    "sdt_v2_small": Own("sdt_v2", "sdt_v2", QCFS | THETAS),
}
NETWORKS = ("small", "resnet20", *OWN)
# Networks of the package, for one that has been trained.
SHIPPED = {
    ("resnet20", "qcfs"): "resnet20_fashion_mnist",
    ("resnet20", "relu"): "resnet20_fashion_mnist_relu",
}
# What methods start from that need a start.
STARTS = {m.name: m.starts_from[0] for m in METHODS.values() if m.needs_start}
STARTS[LONGER] = "qcfs"
LONGER_RATE = 0.01  # as theirs
ALL = (*SOURCES, LONGER, *METHODS)
CONVERSIONS = ("bit_serial", "qcfs", "srp", "bos")  # beside them, from one network


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--network", choices=NETWORKS, default="small")
    parser.add_argument(
        "--width",
        type=between(1e-3, 1e3),
        default=1.0,
        help="of all layers, as model.width",
    )
    parser.add_argument("--methods", nargs="+", action=Distinct, choices=ALL)
    parser.add_argument(
        "--best", type=whole(1, len(METHODS)), help="so many methods, best on small"
    )
    parser.add_argument(
        "--seeds", type=whole(0, SEEDS), action=Distinct, nargs="+", default=[0]
    )
    parser.add_argument("--epochs", type=whole(1), default=EPOCHS)
    parser.add_argument(
        "--goes_on",
        type=whole(1),
        default=EPOCHS,
        help="epochs of what goes on from a trained network",
    )
    parser.add_argument(
        "--training_rounds", type=whole(0), default=5, help="steps that are timed"
    )
    parser.add_argument("--out", type=a_path, default=NUMBERS, help="the JSON file")
    parser.add_argument("--list", action="store_true", help="print commands, no more")
    options = parser.parse_args()
    methods = options.methods or (best(options.best) if options.best else ALL)
    network = Network(options.network, options.width)
    names = [m for m in ALL if m in methods and can_train(m, network)]
    for name in options.methods or ():
        if name not in names and (str(network), name) not in SHIPPED:
            raise ValueError(
                f"--methods: {name} does not train {network}: leave it out"
            )
    wanted = itertools.product(options.seeds, names)
    for seed, name in wanted:
        epochs = options.goes_on if name in STARTS else options.epochs
        folder, command = training(network, name, seed, epochs)
        if options.list:
            print(*command)
        elif not (folder / "result.json").exists():
            subprocess.run([sys.executable, *command], check=True)
    if not options.list:
        rows = Rows(options.out, ("network", "method", "seed"))
        for seed in options.seeds:
            add(rows, network, seed, rounds=options.training_rounds)


class Network(NamedTuple):
    """What is trained: a name in `NETWORKS`, and `model.width`."""

    name: str
    width: float = 1.0

    def __str__(self):
        return self.name if self.width == 1 else f"{self.name}_{self.width:g}"


def training(
    network: Network, name: str, seed: int, epochs: int
) -> tuple[Path, list[str]]:
    """Folder and command of a method's run."""
    folder = folder_of(network, name, seed)
    recipe = "qcfs" if name == LONGER else name
    fields: dict[str, Any] = {
        "name": folder.name,
        "seed": seed,
        "optimizer.epochs": epochs,
    }
    if network.name in OWN:
        recipe = OWN[network.name].recipe
        fields |= OWN[network.name].qcfs if name == "qcfs" else {}
    else:
        fields["model.name"] = network.name
    if network.width != 1:
        fields["model.width"] = network.width
    if name == LONGER:
        fields["optimizer.learning_rate"] = LONGER_RATE
    if name in STARTS:
        fields["start_from"] = source_of(network, STARTS[name], seed)
    options = [f"--config.{field}={value}" for field, value in fields.items()]
    command = ["train.py", "--config", f"{CONFIG}:{recipe}", "--workdir", str(folder)]
    return folder, [*command, *options]


def can_train(name: str, network: Network) -> bool:
    """Whether a method trains a network, and need do so."""
    if network.name in OWN:
        return name in ("qcfs", OWN[network.name].method)
    models = METHODS[name].models if name in METHODS else ()
    if (str(network), name) in SHIPPED:
        return False
    return not models or network.name in models


def folder_of(network: Network, name: str, seed: int) -> Path:
    return RUNS / str(network) / f"{name}_{seed}"


def source_of(network: Network, name: str, seed: int) -> str:
    """Run, or network of the package, that is converted or that others go on from."""
    return SHIPPED.get((str(network), name)) or str(folder_of(network, name, seed))


def validated(name: str) -> float:
    """Accuracy of a method on the validation split, with `small`."""
    return trained_as(folder_of(Network("small"), name, 0))["validation_accuracy"]


def add(rows: Rows, network: Network, seed: int, *, rounds: int) -> None:
    """Measure what was trained with one seed, and add what is not known yet.

    Args:
      rows: known, of `NUMBERS`.
      network: that all were trained on.
      seed: of the training.
      rounds: steps of training that are timed.
    """
    qcfs, longer = source_of(network, "qcfs", seed), folder_of(network, LONGER, seed)
    out = folder_of(network, "compared", seed)
    runs = [folder_of(network, name, seed) for name in METHODS]
    direct = [run for run in runs if (run / "result.json").exists()]
    steps = {STEPS, *(trained_as(run)["config"]["steps"] for run in direct)}
    options = ["--training_rounds", str(rounds)]
    options += ["--direct", *map(str, direct)] if direct else []
    found = compared(qcfs, [*CONVERSIONS, *options], out, steps=sorted(steps))
    about = {"about": about_numbers(config=CONFIG, seed=seed)}
    for row in found["rows"]:
        trained = found["trained"][row.get("run") or qcfs]
        # A network of the package is one network, whatever the seed.
        once = not row.get("run") and (str(network), "qcfs") in SHIPPED
        key = {"network": str(network), "method": row["method"]}
        key["seed"] = 0 if once else seed
        if row["steps"] == trained["steps"] and not rows.known(key):
            rows.add(key | _of_row(row) | _of_training(trained) | about)
    key = {"network": str(network), "method": LONGER, "seed": seed}
    if (longer / "result.json").exists() and not rows.known(key):
        (row,) = compared(str(longer), ["bit_serial"], longer / "compared")["rows"]
        trained = _of_training(found["trained"][qcfs]) | _went_on(longer)
        rows.add(key | _of_row(row) | trained | about)


def compared(
    run: str, methods: list[str], out: Path, *, steps: Sequence[int] = (STEPS,)
) -> dict[str, Any]:
    """What `compare.py` finds of a QCFS run at each T."""
    command = ["compare.py", "--ckpt", run, "--steps", *map(str, steps)]
    command += ["--out", str(out), "--methods", *methods]
    subprocess.run([sys.executable, *command], check=True)
    return read_json(out / "compare.json", advice="remove it to measure again")


def _of_row(row: dict[str, Any]) -> dict[str, Any]:
    names = ("steps", "window", "until_output", "accuracy", "agreement")
    counts = ("spikes_per_neuron", "synaptic_operations", "nanojoules", "milliseconds")
    return {name: row[name] for name in (*names, *counts)}


def _of_training(trained: dict[str, Any]) -> dict[str, Any]:
    cost = trained["cost"] or {}
    return {
        "model": trained["run"]["model"],
        "neurons": trained["neurons"],
        "epochs": trained["epochs"],
        "trained": trained["run"]["commit"],
        **{f"step_{k}": cost.get(k) for k in ("milliseconds", "megabytes")},
        "qcfs_steps": cost.get("qcfs_steps"),
    }


def _went_on(run: Path) -> dict[str, Any]:
    """Epochs and commit of a run, whose steps cost what those of its source did."""
    result = trained_as(run)
    epochs = result["config"]["optimizer"]["epochs"]
    return {"epochs": epochs, "trained": result["commit"]}


def trained_as(run: Path) -> dict[str, Any]:
    """What the training of a run wrote."""
    return read_json(run / "result.json", advice="remove it to evaluate again")


def best(number: int) -> list[str]:
    """Methods that are best on the validation split with `small`, and their sources.

    Raises:
      ValueError: a method that has no run of seed 0.
    """
    names = [name for name in METHODS if can_train(name, Network("small"))]
    for name in names:
        folder = folder_of(Network("small"), name, 0)
        if not (folder / "result.json").exists():
            raise ValueError(
                f"--best chooses among trained methods, but {folder} is not there: "
                "train them first (--network small), or name some with --methods"
            )
    return [*SOURCES, *sorted(names, key=validated)[-number:]]


if __name__ == "__main__":
    as_script(main)
