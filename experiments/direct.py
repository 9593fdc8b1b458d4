"""Directly trained networks beside converted ones: the paper's Table 3, run here.

    python experiments/direct.py --network small
    python experiments/direct.py --network resnet20 --best 4 --seeds 0 1 2

Every method trains the same network on Fashion-MNIST through T = 4 steps, for as many
epochs as the QCFS network that is converted, with the same optimiser and learning rate.
Methods that go on from a trained network start from one that had those epochs too.
Transformers have a network of their own and train with AdamW.

Runs lie in runs/direct/NETWORK and are not trained twice. `compare.py` measures each of
them on the test split, beside the converted network of its seed; docs/results/direct.json
has what it found, written as soon as it is there. `--list` prints the commands that
train, and does nothing else, for a machine that runs several at a time.
"""

import itertools
import subprocess
import sys
from pathlib import Path

from bitsnn_jax.direct import METHODS
from bitsnn_jax.runtime.cli import SEEDS, Distinct, Parser, as_script, whole
from bitsnn_jax.runtime.reading import read_json

CONFIG = "configs/direct/tet_small_fashion_mnist.py"
RUNS = Path("runs/direct")
EPOCHS = 5
RATES = {"sgd": 0.1, "adamw": 2e-3}
SOURCES = ("qcfs", "relu")  # networks that are converted, or that others go on from
TRANSFORMERS = {"spikformer": "spikformer_small", "sdt_v2": "sdt_v2_small"}
NETWORKS = ("small", "resnet20")
# What methods start from that need a start.
STARTS = {"diet_snn": "relu", "dual_phase": "qcfs", "bit_serial": "qcfs"}
ALL = (*SOURCES, *METHODS)


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--network", choices=NETWORKS, default="small")
    parser.add_argument("--methods", nargs="+", action=Distinct, choices=ALL)
    parser.add_argument(
        "--best", type=whole(1, len(METHODS)), help="so many methods, best on small"
    )
    parser.add_argument(
        "--seeds", type=whole(0, SEEDS), action=Distinct, nargs="+", default=[0]
    )
    parser.add_argument("--list", action="store_true", help="print commands, no more")
    options = parser.parse_args()
    methods = options.methods or (best(options.best) if options.best else ALL)
    wanted = itertools.product(options.seeds, (m for m in ALL if m in methods))
    for seed, name in wanted:
        folder, command = training(options.network, name, seed)
        if options.list:
            print(*command)
        elif not (folder / "result.json").exists():
            subprocess.run([sys.executable, *command], check=True)


def training(network: str, name: str, seed: int) -> tuple[Path, list[str]]:
    """Folder and command of a method's run."""
    folder = folder_of(network, name, seed)
    optimizer = "adamw" if name in TRANSFORMERS else "sgd"
    fields = {
        "name": folder.name,
        "seed": seed,
        "model.name": TRANSFORMERS.get(name, network),
        "model.width": 1.0,
        "model.activation": name if name in SOURCES else "spiking",
        "direct.method": "" if name in SOURCES else name,
        "optimizer.name": optimizer,
        "optimizer.learning_rate": RATES[optimizer],
        "optimizer.epochs": EPOCHS,
    }
    if name in STARTS:
        fields["start_from"] = folder_of(network, STARTS[name], seed)
    options = [f"--config.{field}={value}" for field, value in fields.items()]
    return folder, ["train.py", "--config", CONFIG, "--workdir", str(folder), *options]


def folder_of(network: str, name: str, seed: int) -> Path:
    return RUNS / network / f"{name}_{seed}"


def validated(name: str) -> float:
    """Accuracy of a method on the validation split, with `small`."""
    file = folder_of("small", name, 0) / "result.json"
    if not file.exists():
        return 0.0
    result = read_json(file, advice="remove it to evaluate again")
    return result["validation_accuracy"]


def best(number: int) -> list[str]:
    """Methods that are best on the validation split with `small`, and their sources.

    Those with a network of their own are left out.
    """
    names = [name for name in METHODS if name not in TRANSFORMERS]
    return [*SOURCES, *sorted(names, key=validated)[-number:]]


if __name__ == "__main__":
    as_script(main)
