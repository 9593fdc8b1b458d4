"""Tables of rival methods on transformers, from experiments/transformer_rivals.py."""

import statistics

from methods import short
from pages import table

_FILE = "transformer_rivals.json"
_WITHIN = 0.01  # of the ANN's accuracy: "equal"
_TITLES = {
    **{f"qcfs_15_{seed}": f"MiniLM, reviews, seed {seed}" for seed in range(3)},
    "vit_fashion_mnist": "ViT, Fashion-MNIST",
}


def _networks(rows):
    """network -> method -> T -> row, in the order of the file."""
    found = {}
    for row in rows:
        title = _TITLES.get(row["network"], row["network"])
        methods = found.setdefault(title, {})
        methods.setdefault(row["method"], {})[row["steps"]] = row
    return found


@table("transformer_rivals", _FILE)
def rivals(rows):
    steps = sorted({row["steps"] for row in rows} - {0})
    yield "network", "ANN", "method", *(f"T = {t}" for t in steps)
    for network, methods in _networks(rows).items():
        first = True
        for method, by_steps in methods.items():
            if method == "settled":
                continue
            some = next(iter(by_steps.values()))
            ann = f"{100 * some['ann_accuracy']:.2f}"
            cells = (by_steps.get(t) for t in steps)
            yield (
                f"{network}, {some['examples']:,} examples" if first else "",
                ann if first else "",
                some["title"],
                *(_reached(cell) for cell in cells),
            )
            first = False


def _reached(row) -> str:
    """Accuracy, and the share of examples on which the ANN says the same."""
    if row is None:
        return "–"
    return f"{100 * row['accuracy']:.2f} ({100 * row['agreement']:.1f})"


@table("transformer_rivals_cost", _FILE)
def cost(rows):
    yield (
        *("network", "method", "T", "until output", "accuracy (%)", "as the ANN (%)"),
        *("spikes/neuron", "synaptic operations", "functions"),
    )
    for network, methods in _networks(rows).items():
        for method, by_steps in methods.items():
            if method == "settled":
                continue
            enough = next(iter(by_steps.values()))["ann_accuracy"] - _WITHIN - 1e-9
            equal = [t for t, row in by_steps.items() if row["accuracy"] >= enough]
            if not equal:
                best = max(by_steps.values(), key=lambda row: row["accuracy"])
                text = f"{100 * best['accuracy']:.2f} at best, T = {best['steps']}"
                yield network, best["title"], "–", "–", text, *"––––"
                continue
            row = by_steps[min(equal)]
            yield (
                network,
                row["title"],
                str(row["steps"]),
                str(row["until_output"]),
                f"{100 * row['accuracy']:.2f}",
                f"{100 * row['agreement']:.1f}",
                f"{row['spikes_per_neuron']:.3g}",
                short(row["synaptic_operations"]),
                str(row["functions"]),
            )


@table("transformer_rivals_settled", _FILE)
def settled(rows):
    yield "network", "examples", "median step", "last step"
    for network, methods in _networks(rows).items():
        if "settled" in methods:
            last = methods["settled"][0]["last_spike"]
            yield (
                network,
                str(len(last)),
                f"{statistics.median(last):g}",
                str(max(last)),
            )
