"""Measure trained networks of the package again, and write it on their cards.

    python experiments/cards.py NAME ...

The arrays stay as they are, byte by byte. Of a network with QCFS the row of each T is
replaced by what docs/results/conversions.json has of it, part "stepped", if that is
there. A card whose commit has uncommitted changes is told so in words.
"""

from pathlib import Path
from typing import Any

from bitsnn_jax import data
from bitsnn_jax.jobs.evaluation import evaluate, without_spikes
from bitsnn_jax.runs import pretrained
from bitsnn_jax.runs.loading import load_ann
from bitsnn_jax.runs.provenance import about_numbers
from bitsnn_jax.runtime.cli import Parser, as_script, filled
from bitsnn_jax.runtime.reading import read_json

CONVERSIONS = Path("docs/results/conversions.json")


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("names", nargs="+", type=filled, metavar="NAME")
    options = parser.parse_args()
    # All are measured before the first card changes, and the commit with it.
    found = {name: changes(name) for name in options.names}
    for name, changed in found.items():
        pretrained.revise(name, **changed)
        print(name, changed["measured"]["accuracy"], flush=True)


def changes(name: str) -> dict[str, Any]:
    """What a card says otherwise now."""
    apply_fn, run = load_ann(name)
    test = data.load(run.config.data, "test")
    network_fn = without_spikes(apply_fn)
    found = evaluate(network_fn, run.variables, run.config.data, test, repeats=1)
    about = about_numbers(config=name, seed=None)
    changed: dict[str, Any] = {"measured": about | {"accuracy": found.accuracy}}
    commit = run.metadata["commit"]
    if commit.endswith("-dirty"):
        changed["origin"] = (
            f"trained with uncommitted changes to commit {commit[:7]}; what they were "
            "is not recorded"
        )
    simulated = {row["steps"]: row for row in stepped(name)}
    if simulated:
        card = read_json(pretrained.FOLDER / name / "card.json", advice="install again")
        rows = [simulated.get(row["steps"], row) for row in card["test"]["steps"]]
        changed["test"] = {**card["test"], "steps": rows}
    return changed


def stepped(name: str) -> list[dict[str, Any]]:
    """The rows of a card, every spike simulated."""
    runs = read_json(CONVERSIONS, kind=list, advice="run experiments/conversions.py")
    return [
        {
            "steps": row["steps"],
            "levels": row["levels"],
            "mode": "stepped",
            "ann_accuracy": row["ann_accuracy"],
            "snn_accuracy": row["stepped"]["accuracy"],
            "spikes_per_neuron": row["stepped"]["spikes_per_neuron"],
            "differing": {},
        }
        for run in runs
        if (run["part"], run["network"]) == ("stepped", name)
        for row in run["steps"]
    ]


if __name__ == "__main__":
    as_script(main)
