"""Tables of docs/comparison.md, from compare.py's rows."""

import statistics
from collections import defaultdict

from pages import table
from surveys import spread

from bitsnn_jax.comparators import METHODS
from bitsnn_jax.reports.comparison_plots import NETWORKS

_STEPS = (1, 2, 4, 8, 16, 32)
_WITHIN = 0.01  # of the source's accuracy: "equal"
_WORDS = ("method", "gpu", "network", "commit", "machine", "run")  # no numbers
_BY_SEED = ("accuracy", "spikes_per_neuron", "synaptic_operations", "nanojoules")


def grouped(rows):
    """method -> T -> column -> values of all seeds; None where there is no value."""
    found = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for row in rows:
        cell = found[row["method"]][int(row["steps"])]
        for column, text in row.items():
            if column not in _WORDS and text:
                cell[column].append(float(text))
    return {
        method: by_steps
        for method in METHODS
        if (by_steps := found.get(method)) is not None
    }


def means(rows):
    """(method, T) -> column -> the mean of all seeds; rows are those of a CSV."""
    return {
        (method, steps): cell
        for method, by_steps in grouped(rows).items()
        for steps, cell in _of_seeds(by_steps).items()
    }


def _of_seeds(by_steps):
    return {
        steps: {name: statistics.fmean(each) for name, each in cell.items()}
        for steps, cell in sorted(by_steps.items())
    }


def _ann(about, method):
    return about["ann_accuracy"][METHODS[method].trained_with]


def _beside(by_steps) -> str:
    """Steps that a layer takes on top of T."""
    more = [int(cell["window"][0]) - t for t, cell in by_steps.items()]
    if not any(more):
        return "–"
    low, high = min(more), max(more)
    return f"+{low}" if low == high else f"+{low} to +{high}"


def _accuracy(cell) -> str:
    return spread([100 * a for a in cell["accuracy"]], ".2f") if cell else "–"


def short(number: float) -> str:
    """Three digits; thousands, millions and thousands of millions as such.

    >>> short(15_900_000), short(0.651), short(2197), short(6_620_000_000)
    ('15.9 M', '0.651', '2,197', '6.62 G')
    """
    if number >= 1e9:
        return f"{number / 1e9:.3g} G"
    if number >= 1e6:
        return f"{number / 1e6:.3g} M"
    return f"{number:,.0f}" if number >= 1000 else f"{number:.3g}"


def _of_accuracy(name: str) -> None:
    @table(f"{name}_accuracy", f"{name}.csv", f"{name}.about.json")
    def accuracy(rows, about):
        found = grouped(rows)
        coded = any(METHODS[method].codes for method in found)
        steps = (f"T = {t}" for t in _STEPS)
        column = ["codes"] if coded else []
        yield "method", *column, "starts from", "ANN", "beside T", *steps
        for method, by_steps in found.items():
            column = [METHODS[method].codes or "–"] if coded else []
            yield (
                METHODS[method].title,
                *column,
                NETWORKS[METHODS[method].trained_with],
                f"{100 * _ann(about, method):.2f}",
                _beside(by_steps),
                *(_accuracy(by_steps.get(t)) for t in _STEPS),
            )


def _of_cost(name: str) -> None:
    @table(f"{name}_cost", f"{name}.csv", f"{name}.about.json")
    def cost(rows, about):
        yield (
            *("method", "T", "window", "until output", "accuracy (%)"),
            *("spikes/neuron", "synaptic operations", "nJ", "ms"),
        )
        yield from _by_cost(grouped(rows), about)


def _by_cost(found, about):
    equal, never = [], []
    for method, by_steps in found.items():
        found_at = _of_seeds(by_steps)
        enough = _ann(about, method) - _WITHIN - 1e-9
        t = next((t for t, m in found_at.items() if m["accuracy"] >= enough), None)
        title = METHODS[method].title
        if t is None:
            best = max(found_at, key=lambda t: found_at[t]["accuracy"])
            reached = found_at[best]["accuracy"]
            text = f"{100 * reached:.2f} at best, T = {best}"
            never.append((-reached, (title, *"–––", text, *"––––")))
            continue
        m = found_at[t]
        cells = (
            *(str(int(n)) for n in (t, m["window"], m["until_output"])),
            _accuracy(by_steps[t]),
            short(m["spikes_per_neuron"]),
            short(m["synaptic_operations"]),
            f"{m['nanojoules']:,.0f}",
            f"{m['milliseconds']:.3g}" if "milliseconds" in m else "–",
        )
        place = (m["window"], m["nanojoules"])
        equal.append((place, (title, *cells)))
    yield from (row for _, row in sorted(equal))
    yield from (row for _, row in sorted(never))


def _of_four_levels(name: str) -> None:
    @table(f"{name}_steps", f"{name}.csv")
    def steps(rows):
        yield (
            *("method", *(f"T = {t}" for t in _STEPS)),
            *("spikes/neuron, T = 4", "operations, T = 4"),
        )
        for method, by_steps in grouped(rows).items():
            at = {k: v[0] for k, v in by_steps[4].items()}
            yield (
                METHODS[method].title,
                *(_accuracy(by_steps.get(t)) for t in _STEPS),
                short(at["spikes_per_neuron"]),
                short(at["synaptic_operations"]),
            )


for _name in ("compare", "compare_vgg"):
    _of_accuracy(_name)
    _of_cost(_name)
for _name in ("compare_later", "compare_rest"):
    _of_accuracy(_name)
for _name in ("compare_vgg_l4", "compare_l4"):
    _of_four_levels(_name)


@table("compare_sources", "compare_vgg.csv", "compare_vgg_other.csv")
def sources(ours, others):
    yield "method", "sources", *(f"T = {t}" for t in (4, 8, 16, 32))
    ours, others = grouped(ours), grouped(others)
    for method in ours:
        if method not in others:
            continue
        for found, name in ((ours, "of the package"), (others, "other")):
            means = (
                statistics.fmean(found[method][t]["accuracy"]) for t in (4, 8, 16, 32)
            )
            title = METHODS[method].title if found is ours else ""
            yield title, name, *(f"{100 * m:.2f}" for m in means)


@table("compare_levels", "compare_levels.json")
def levels(stored):
    yield (
        "from a network of",
        "method",
        "steps",
        "accuracy (%)",
        "spikes/neuron",
        "operations",
    )
    for row in stored["rows"]:
        yield (
            f"{row['levels']} levels",
            row["method"],
            str(row["steps"]),
            f"{100 * row['accuracy']:.2f}",
            short(row["spikes_per_neuron"]),
            short(row["synaptic_operations"]),
        )
