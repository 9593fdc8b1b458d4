"""ReLU first, QCFS after, in a tenth of the epochs (the paper's A.10, Table 12).

    python experiments/relu_first.py --seeds 0 1 2
    python experiments/relu_first.py --network resnet20 --seeds 0

One network on Fashion-MNIST, for each seed three runs: QCFS from the start, ReLU, and
QCFS from the ReLU network, with calibrated thresholds, in a tenth of the epochs. Runs
lie in runs/relu_first and are not trained twice, nor is the ResNet-20 with QCFS of seed
0, which comes with the package. `docs/results/relu_first.json` has a row for each
network and seed, and what is in there is not computed again.
"""

import dataclasses
from pathlib import Path
from typing import Any

from regulariser import a_config

from bitsnn_jax import config
from bitsnn_jax.runs import pretrained
from bitsnn_jax.runs.loading import find_run
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

RUNS = Path("runs/relu_first")
NUMBERS = Path("docs/results/relu_first.json")
SHIPPED = "resnet20_fashion_mnist"
FINE_RATE = 0.02
EPOCHS = 10  # of `small`; ResNet-20 has those of the package's


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--network", choices=("small", "resnet20"), default="small")
    parser.add_argument(
        "--seeds", type=whole(0, SEEDS), action=Distinct, nargs="+", default=[0, 1, 2]
    )
    parser.add_argument("--out", type=a_path, default=NUMBERS, help="the JSON file")
    options = parser.parse_args()
    rows = Rows(options.out, ("network", "seed"))
    for seed in options.seeds:
        if not rows.known({"network": options.network, "seed": seed}):
            rows.add(three_runs(options.network, seed))
            print(rows[-1], flush=True)


def three_runs(network: str, seed: int) -> dict[str, Any]:
    """Train a network in each way, and give what it reaches on the test split."""
    qcfs = from_the_start(network, seed)
    relu = dataclasses.replace(
        qcfs,
        name=f"{network}_relu_{seed}",
        model=dataclasses.replace(qcfs.model, activation="relu"),
    )
    fine = dataclasses.replace(
        qcfs,
        name=f"{network}_fine_{seed}",
        start_from=str(RUNS / relu.name),
        optimizer=dataclasses.replace(
            qcfs.optimizer,
            learning_rate=FINE_RATE,
            epochs=max(1, qcfs.optimizer.epochs // 10),
        ),
    )
    runs = {"QCFS": qcfs, "ReLU": relu, "ReLU, then QCFS": fine}
    return {
        "network": network,
        "seed": seed,
        "epochs": {name: run.optimizer.epochs for name, run in runs.items()},
        "accuracy": {name: accuracy(run) for name, run in runs.items()},
        "about": about_numbers(config=network, seed=seed),
    }


def from_the_start(network: str, seed: int) -> config.Config:
    """What a network is trained by with QCFS."""
    name = f"{network}_qcfs_{seed}"
    if network == "small":
        trained = a_config("paper", 0.0, seed, EPOCHS)
        return dataclasses.replace(trained, name=name)
    shipped = find_run(SHIPPED).config
    if seed == shipped.seed:
        return shipped
    return dataclasses.replace(shipped, name=name, seed=seed)


def accuracy(run: config.Config) -> float:
    """Train a network, unless the package has it, and measure it on the test split."""
    if run.name == SHIPPED:
        card = pretrained.FOLDER / SHIPPED / "card.json"
        return read_json(card, advice="install again")["test"]["accuracy"]
    return train_and_evaluate(run, RUNS / run.name)["test"]["accuracy"]


if __name__ == "__main__":
    with_huge_pages()
    as_script(main)
