"""Directly trained networks beside ours, and what training costs, for the report."""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import structs

from bitsnn_jax.reports.comparison_numbers import (
    amount,
    averages,
    markdown_table,
    with_spread,
)
from bitsnn_jax.reports.scores import headed, number, short
from bitsnn_jax.results.comparison import ComparisonResult


def at_the_same_steps(results: ComparisonResult, ours: str) -> list[dict[str, Any]]:
    """Put directly trained networks beside ours at their T, the most accurate first."""
    models = {r.method: results.trained[r.run].run.model for r in results.rows if r.run}
    steps = sorted({r.steps for r in results.rows if r.run})
    reached = averages(results.rows)
    found = []
    for t in steps:
        shown = [
            each
            for name in (ours, *models)
            for each in reached.get(name, [])
            if each.steps == t
        ]
        found += [
            {
                "title": results.methods[each.method].title,
                "model": models.get(each.method, results.run.model),
                "ours": each.method == ours,
                "at": each,
            }
            for each in sorted(shown, key=lambda each: -each.mean["accuracy"])
        ]
    return found


def family_lines(families: Sequence[Mapping[str, Any]], measure: str) -> list[str]:
    """Write that as lines of Markdown."""
    head = ["method", "model", "T", "until output", headed(measure), "as QCFS (%)"]
    head += ["spikes/neuron", "synaptic operations", "nJ", "ms"]
    rows = [
        [
            *(each["title"], each["model"], f"{at.steps}"),
            *(f"{at.mean['until_output']:,.0f}", with_spread(at, measure)),
            f"{100 * at.mean['agreement']:.2f}",
            number(at.mean["spikes_per_neuron"]),
            short(at.mean["synaptic_operations"]),
            amount(at.mean.get("nanojoules")),
            number(at.mean["milliseconds"]),
        ]
        for each in families
        for at in (each["at"],)
    ]
    return ["", "## Both families", "", *markdown_table(head, rows, names=2)]


def training_lines(trained: Sequence[Mapping[str, Any]]) -> list[str]:
    """Write what runs cost to train, as lines of Markdown."""
    head = ["network", "model", "seed", "T", "neurons", "epochs", "seconds"]
    head += ["ms a step", "x QCFS", "MB a step"]
    rows = [
        [
            *(each["title"], each["run"].model, f"{each['run'].seed}"),
            *(f"{each['steps']}", f"{each['neurons']:,}", f"{each['epochs']}"),
            amount(each["seconds"]),
            *(amount(each["cost"].get(f)) for f in _COSTS),
        ]
        for each in trained
    ]
    return ["", "## Cost of training", "", *markdown_table(head, rows, names=2)]


_COSTS = ("milliseconds", "qcfs_steps", "megabytes")


def trained_runs(results: ComparisonResult) -> list[dict[str, Any]]:
    """Describe what runs cost to train: that with QCFS, then in the order of rows."""
    titles = {r.run: results.methods[r.method].title for r in results.rows if r.run}
    return [
        structs.asdict(each)
        | {
            "title": "QCFS, to convert" if each.method is None else titles[source],
            "cost": structs.asdict(each.cost) if each.cost else {},
            "source": source,
        }
        for source, each in results.trained.items()
        if each.method is None or source in titles
    ]
