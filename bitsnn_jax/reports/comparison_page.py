"""The report of a comparison: a page, its pictures, and its tables as text."""

import csv
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure
from msgspec import structs

from bitsnn_jax.reports import comparison_plots, plots
from bitsnn_jax.reports.comparison_families import (
    at_the_same_steps,
    family_lines,
    trained_runs,
    training_lines,
)
from bitsnn_jax.reports.comparison_numbers import (
    FIELDS,
    Reached,
    amount,
    averages,
    markdown_table,
    with_spread,
)
from bitsnn_jax.reports.comparison_plots import (
    NETWORKS,
    WITHIN,
    Series,
    is_equal,
)
from bitsnn_jax.reports.conversion_page import render
from bitsnn_jax.reports.scores import bare, headed, in_words, number, short
from bitsnn_jax.results.comparison import ComparisonResult, MethodRow
from bitsnn_jax.runtime.files import write_files

OURS = "bit_serial"

PICTURES = (
    "accuracy_against_steps",
    "one_by_one",
    "accuracy_against_spikes",
    "accuracy_front",
)


def write_comparison(results: ComparisonResult, folder: str | os.PathLike[str]) -> Path:
    """Write `index.html`, its pictures as PNG, `compare.md` and `compare.csv`.

    The CSV has every row as measured; the other two have averages over seeds. A failure
    leaves an earlier report as it was, and other files in the folder stay.

    Args:
      results: what was found.
      folder: made where it is missing.

    Returns:
      The path of the page.

    Raises:
      ValueError: there are no rows.
    """
    if not results.rows:
        failures = "; ".join(map(str, results.failed)) or "nothing failed"
        raise ValueError(
            f"rows is empty: the report needs a row of some method ({failures})"
        )
    figures = _figures(results)
    contents = {f"{name}.png": plots.png(figure) for name, figure in figures.items()}
    contents["compare.csv"] = as_csv(results.rows).encode()
    contents["compare.md"] = as_markdown(results).encode()
    contents["index.html"] = _page(results, figures).encode()
    return write_files(contents, folder)


def passes(reached: Reached, milliseconds: float) -> float | None:
    """Return the time in passes of the ANN.

    It was measured in turns with them, or it is the ratio of two times.

    Args:
      reached: what a method reached at one T.
      milliseconds: of the ANN; 0 where they are not known.
    """
    if "ann_passes" in reached.mean:
        return reached.mean["ann_passes"]
    return reached.mean["milliseconds"] / milliseconds if milliseconds else None


def first_equal(
    reached: Sequence[Reached], ann: float, *, within: float = WITHIN
) -> Reached | None:
    """Find the least T whose accuracy is at least `ann` - `within`."""
    ordered = sorted(reached, key=lambda each: each.steps)
    return next((r for r in ordered if is_equal(r.mean["accuracy"], ann, within)), None)


def as_csv(rows: Iterable[MethodRow]) -> str:
    """Write all rows, with all digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(FIELDS)
    writer.writerows(map(structs.astuple, rows))
    return text.getvalue()


def as_markdown(results: ComparisonResult) -> str:
    """Write the tables: accuracy, cost of equal accuracy, what failed."""
    run, view, measure = results.run, _view(results), results.measure
    families = "conversion and of direct training" if view["direct"] else "conversion"
    lines = [
        f"# Methods of {families}: {run.model} on {run.dataset}",
        "",
        f"Checkpoint `{run.name}` at step {run.checkpoint_step:,}, "
        f"{results.examples:,} test {results.noun}.",
        "",
        f"## {in_words(headed(measure), capital=True)}",
        "",
        *markdown_table(
            [
                "method",
                "starts from",
                "ANN",
                "beside T",
                *(f"T = {t}" for t in view["steps"]),
            ],
            [
                [m["title"], m["network"], bare(m["ann"], measure), m["extra"] or "–"]
                + [with_spread(cell, measure) for cell in m["cells"]]
                for m in view["methods"]
            ],
            names=2,
        ),
        "",
        "T leaves warm-up out; beside T: what a layer takes on top."
        + (f" {view['seeds']}." if view["seeds"] else ""),
        "",
        f"## Cost of equal {measure}",
        "",
        "At the least T within 1 point of the network that the method starts from. "
        "Window: steps of a layer, warm-up included. Until output: steps when layers "
        "wait for one another.",
        "",
        *markdown_table(
            ["method", "T", "window", "until output", headed(measure)]
            + ["spikes/neuron", "synaptic operations", "nJ", "ms", "x ANN"],
            [_cost_cells(m, measure) for m in view["by_cost"]],
        ),
        *(family_lines(view["families"], measure) if view["direct"] else ()),
        *(training_lines(view["trained"]) if view["direct"] else ()),
    ]
    if results.failed:
        lines += ["", "## Failed", "", *(f"- {each}" for each in results.failed)]
    return "\n".join(lines) + "\n"


def _cost_cells(method: Mapping[str, Any], measure: str) -> list[str]:
    at = method["equal"]
    if at is None:
        best = method["best"]
        note = "–"
        if best:
            score = bare(best.mean["accuracy"], measure)
            note = f"{score} at best, T = {best.steps}"
        return [method["title"], "–", "–", "–", note, *"–––––"]
    return [
        method["title"],
        f"{at.steps}",
        f"{at.mean['window']:,.0f}",
        f"{at.mean['until_output']:,.0f}",
        with_spread(at, measure),
        number(at.mean["spikes_per_neuron"]),
        short(at.mean["synaptic_operations"]),
        amount(at.mean.get("nanojoules")),
        number(at.mean["milliseconds"]),
        number(passes(at, method["ann_milliseconds"])),
    ]


def _view(results: ComparisonResult) -> dict[str, Any]:
    """Choose what the tables show, ours first, then the others in the order of runs."""
    reached = averages(results.rows)
    steps = sorted({row.steps for row in results.rows})
    order = sorted(
        results.methods, key=lambda n: (n != OURS, results.methods[n].direct)
    )
    methods = []
    for name in order:
        about = results.methods[name]
        by_steps = {each.steps: each for each in reached.get(name, [])}
        network = results.networks[about.trained_with]
        ann = network.accuracy
        methods.append(
            {
                **structs.asdict(about),
                "name": name,
                "ours": name == OURS,
                "network": NETWORKS.get(about.trained_with, about.trained_with)
                if not about.direct
                else "trained directly",
                "ann": ann,
                "ann_milliseconds": network.milliseconds,
                "cells": [by_steps.get(t) for t in steps],
                "extra": _extra(by_steps.values()),
                "equal": first_equal(list(by_steps.values()), ann),
                "best": max(
                    by_steps.values(), key=lambda r: r.mean["accuracy"], default=None
                ),
            }
        )
    seeds = max(each.seeds for many in reached.values() for each in many)
    return {
        "steps": steps,
        "methods": methods,
        "direct": [m for m in methods if m["direct"]],
        "families": at_the_same_steps(results, OURS),
        "trained": trained_runs(results),
        "by_cost": sorted(methods, key=_cost),
        "least": _least(methods),
        "seeds": f"± is the standard deviation between up to {seeds} seeds"
        if seeds > 1
        else "",
    }


def _cost(method):
    """Order by what equals its network, the fastest first; then by accuracy."""
    at, best = method["equal"], method["best"]
    if at is not None:
        return 0, at.mean["window"], at.mean.get("nanojoules", 0)
    return 1, -best.mean["accuracy"] if best else 0, 0


def _extra(reached: Iterable[Reached]) -> str:
    """Write the steps of a window beside T: "+4", or "+1 to +32"."""
    extra = sorted({round(each.mean["window"] - each.steps) for each in reached})
    if extra in ([], [0]):
        return ""
    return " to ".join(f"{e:+d}" for e in dict.fromkeys((extra[0], extra[-1])))


_LEAST: dict[str, tuple[str, Callable[[float], str]]] = {
    "window": ("Time steps of a layer", "{:,.0f}".format),
    "until_output": ("Until the output", "{:,.0f}".format),
    "spikes_per_neuron": ("Spikes per neuron", number),
    "synaptic_operations": ("Synaptic operations", short),
    "nanojoules": ("Energy", lambda x: f"{amount(x)} nJ"),
}


def _least(methods) -> list[dict[str, Any]]:
    """Find the least of each cost of equal accuracy, and which methods have it."""
    equal = [m for m in methods if m["equal"] is not None]
    found = []
    for field, (title, shown) in _LEAST.items():
        if not equal or any(field not in m["equal"].mean for m in equal):
            continue
        least = min(m["equal"].mean[field] for m in equal)
        names = [m["title"] for m in equal if m["equal"].mean[field] == least]
        if len(names) > 3:
            names[2:] = [f"{len(names) - 2} others"]
        found.append(
            {"field": field, "title": title, "value": least, "shown": shown(least)}
            | {"names": names}
        )
    return found


def _figures(results: ComparisonResult) -> dict[str, Figure]:
    view, examples = _view(results), results.examples
    series = [
        Series(
            title=m["title"],
            points=[c.mean | {"steps": c.steps} for c in m["cells"] if c is not None],
            ann=m["ann"],
            ours=m["ours"],
            direct=m["direct"],
        )
        for m in view["methods"]
        if m["best"] is not None
    ]
    used = {m["trained_with"] for m in view["methods"] if m["best"] is not None}
    anns = {k: v.accuracy for k, v in results.networks.items() if k in used}
    axis = {"examples": examples, "measure": results.measure}
    draw = comparison_plots
    return {
        "accuracy_against_steps": draw.accuracy_against_steps(series, anns, **axis),
        "one_by_one": draw.one_by_one(series, within=WITHIN, **axis),
        "accuracy_against_spikes": draw.accuracy_against_spikes(series, anns, **axis),
        "accuracy_front": draw.accuracy_front(series, anns, **axis),
    }


def _page(results: ComparisonResult, figures: Mapping[str, Figure]) -> str:
    # matplotlib escapes the text inside its SVG.
    pictures = {
        name: Markup(plots.svg(figure, name=name)) for name, figure in figures.items()
    }
    return render(
        "compare.html",
        **structs.asdict(results),
        view=_view(results),
        pictures=pictures,
        titles=NETWORKS,
        amount=amount,
        short=short,
        is_equal=is_equal,
        passes=passes,
        has_energy=all(row.nanojoules is not None for row in results.rows),
        all_rows=[r for many in averages(results.rows).values() for r in many],
    )
