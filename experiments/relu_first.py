"""ReLU first, QCFS after, in a tenth of the epochs (the paper's A.10, Table 12).

    python experiments/relu_first.py --seeds 0 1 2

One small network on Fashion-MNIST, for each seed three runs: QCFS from the start, ReLU,
and QCFS from the ReLU network, with calibrated thresholds, in a tenth of the epochs.
Runs lie in runs/relu_first and are not trained twice.
"""

import dataclasses
from pathlib import Path

from regulariser import a_config

from bitsnn_jax import config
from bitsnn_jax.runs.provenance import about_numbers
from bitsnn_jax.runtime.cli import (
    SEEDS,
    Distinct,
    Parser,
    as_script,
    between,
    whole,
    with_huge_pages,
)
from bitsnn_jax.runtime.files import replace_json
from bitsnn_jax.training import train_and_evaluate

RUNS = Path("runs/relu_first")
NUMBERS = Path("docs/results/relu_first.json")


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "--seeds", type=whole(0, SEEDS), action=Distinct, nargs="+", default=[0, 1, 2]
    )
    parser.add_argument("--epochs", type=whole(1, 10**5), default=10)
    parser.add_argument("--fine_rate", type=between(0, 1000), default=0.02)
    options = parser.parse_args()
    rows = [three_runs(seed, options) for seed in options.seeds]
    NUMBERS.parent.mkdir(exist_ok=True)
    replace_json(NUMBERS, rows)
    print(*rows, sep="\n")


def three_runs(seed: int, options) -> dict:
    qcfs = a_config("paper", 0.0, seed, options.epochs)
    relu_model = dataclasses.replace(qcfs.model, activation="relu")
    fine = config.Optimizer(
        learning_rate=options.fine_rate, epochs=max(1, options.epochs // 10)
    )
    relu_run = RUNS / f"relu_{seed}"
    runs = {
        "QCFS": (qcfs, RUNS / f"qcfs_{seed}"),
        "ReLU": (dataclasses.replace(qcfs, model=relu_model), relu_run),
        "ReLU, then QCFS": (
            dataclasses.replace(qcfs, optimizer=fine, start_from=str(relu_run)),
            RUNS / f"fine_{seed}",
        ),
    }
    results = {n: train_and_evaluate(c, workdir) for n, (c, workdir) in runs.items()}
    return {
        "seed": seed,
        "epochs": {name: c.optimizer.epochs for name, (c, _) in runs.items()},
        "accuracy": {name: r["test"]["accuracy"] for name, r in results.items()},
        "about": about_numbers(config=qcfs.model.name, seed=seed),
    }


if __name__ == "__main__":
    with_huge_pages()
    as_script(main)
