"""Everything that docs/paper.md is made of, in order; what is stored is left alone.

    python experiments/paper.py --list
    python experiments/paper.py [--only levels detection ...]

Each experiment keeps its rows as soon as they are there and computes none again, so
this can be stopped and started anew. `--list` prints which have rows missing, and about
how long they take on two cores. Afterwards `python docs/tables` writes the page. It
also reads the cards of the trained networks, and compare.csv and compare_vgg.csv, which
are copies of what compare.py wrote (docs/comparison.md has the commands).
"""

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from bitsnn_jax.runtime.cli import Distinct, Parser, as_script
from bitsnn_jax.runtime.columns import table
from bitsnn_jax.runtime.reading import read_json

RESULTS = Path("docs/results")
RESNET, VGG = "resnet20_fashion_mnist", "vgg_fashion_mnist"


class Experiment(NamedTuple):
    """One script, and how many rows its file has when it has come to its end."""

    items: str
    words: str
    file: str
    rows: int
    hours: float

    @property
    def found(self) -> int:
        if not (RESULTS / self.file).exists():
            return 0
        content = read_json(RESULTS / self.file, kind=object, advice="remove it")
        rows = content["rows"] if isinstance(content, dict) else content
        return len(rows)


EXPERIMENTS = {
    "certificates": Experiment(
        "Figure 4, Proposition II",
        "experiments/conversions.py",
        "conversions.json",
        8,
        1,
    ),
    "ablation": Experiment(
        "Table 4", "experiments/ablation.py", "ablation.json", 80, 0.5
    ),
    "levels": Experiment("Table 5", "experiments/levels.py", "levels.json", 18, 0.4),
    "relu_first": Experiment(
        "Table 12",
        "experiments/relu_first.py",
        "relu_first.json",
        4,  # 1 of ResNet-20
        1.5,
    ),
    "direct": Experiment(
        "Tables 3, 10, Figure 1",
        "experiments/direct.py --network small",
        "direct.json",
        72,  # 16 of ResNet-20, 15 of networks that a method has for itself
        3,
    ),
    "decomposition": Experiment(
        "Figures 2, 3",
        f"experiments/decomposition.py --ckpt {RESNET}",
        "decomposition.json",
        26,  # 16 are of networks that docs/errors.md says how to train
        0.6,
    ),
    "regulariser": Experiment(
        "Figures 6, 7", "experiments/regulariser.py", "regulariser.json", 36, 1
    ),
    "front": Experiment("Figures 1, 6, 7", "experiments/front.py", "front.json", 70, 3),
    "energy": Experiment(
        "Table 11, Figure 5(a)", "experiments/energy.py", "energy.json", 4, 0.2
    ),
    "latency": Experiment(
        "Table 7",
        "benchmarks/latency.py --batch 1 64 --rounds 9 --at qcfs=32 signed_if=8 ttfs=8 "
        "parallel=8 --out docs/results/latency.json",
        "latency.json",
        14,
        0.2,
    ),
    "orders": Experiment(
        "A.3",
        "benchmarks/orders.py --out docs/results/orders.json",
        "orders.json",
        12,
        0.1,
    ),
    "sentences": Experiment(
        "Table 8", "experiments/sentences.py", "sentences.json", 28, 6
    ),
    "detection": Experiment(
        "Table 13", "experiments/detection.py", "detection.json", 19, 3
    ),
    "binary": Experiment("Table 15", "experiments/binary.py", "binary.json", 6, 0.3),
    "robustness": Experiment(
        "Table 14",
        "experiments/robustness.py --limit 2000 --seeds 0 1 2 --attacked 2 4 6",
        "robustness.json",
        56,  # 20 are of 500 images
        0.5,
    ),
    "bits": Experiment("Table 16", "experiments/bits.py", "bits.json", 29, 2),
}


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "--only", nargs="+", action=Distinct, choices=EXPERIMENTS, default=()
    )
    parser.add_argument("--list", action="store_true", help="run nothing")
    options = parser.parse_args()
    if options.list:
        print(listed())
        return
    for name, each in EXPERIMENTS.items():
        wanted = not options.only or name in options.only
        if wanted and each.found < each.rows:
            subprocess.run([sys.executable, *each.words.split()], check=True)


def listed() -> str:
    rows = [("experiment", "of the paper", "rows", "hours", "command")]
    for name, each in EXPERIMENTS.items():
        state = f"{each.found} of {each.rows}"
        hours = f"{each.hours:g}" if each.found < each.rows else ""
        rows.append((name, each.items, state, hours, f"python {each.words}"))
    return table(rows, names=5)


if __name__ == "__main__":
    as_script(main)
