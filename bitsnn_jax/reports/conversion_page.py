"""The report of a conversion: one HTML page that can be mailed, and its pictures."""

import os
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from msgspec import structs

from bitsnn_jax.reports import box_plots, place_plots, plots
from bitsnn_jax.reports.overview import overview
from bitsnn_jax.reports.scores import bare, in_words, number, unit_of, with_unit
from bitsnn_jax.reports.verdict import is_exact, outside_in_words, verdict
from bitsnn_jax.results.conversion import Apart, ConversionResult
from bitsnn_jax.runtime.files import write_files

PICTURES = (
    "overview",
    "accuracy",
    "boxes",
    "spike_raster",
    "spikes_by_place",
    "spikes_by_head",
    "spikes_by_layer",
    "spikes_against_steps",
)


def write_report(results: ConversionResult, folder: str | os.PathLike[str]) -> Path:
    """Write `index.html`, which needs no other file, and its pictures as PNG.

    Everything is drawn before anything is written, and each file is put in its place by
    a rename, the page last: a failure leaves an earlier report as it was. Other files
    in the folder stay.

    Args:
      results: what was found.
      folder: made where it is missing.

    Returns:
      The path of the page.
    """
    figures = dict(_figures(results))
    contents = {f"{name}.png": plots.png(figure) for name, figure in figures.items()}
    contents["index.html"] = _page(results, figures).encode()
    page = write_files(contents, folder)
    for name in set(PICTURES) - set(figures):  # of an earlier, fuller report
        (page.parent / f"{name}.png").unlink(missing_ok=True)
    return page


def _figures(results: ConversionResult) -> Iterator[tuple[str, Figure]]:
    yield "overview", overview(results)
    curves = plots.accuracy_curves(results.steps)
    yield (
        "accuracy",
        plots.accuracy_against_steps(
            curves, ann=results.ann.accuracy, measure=results.measure
        ),
    )
    if results.gallery:
        yield "boxes", box_plots.boxes_by_network(results.gallery)
    if (raster := results.raster) and raster.places:
        yield "spikes_by_place", place_plots.spikes_by_place(raster)
    elif raster:
        yield "spike_raster", plots.spike_raster(raster)
    if (attention := results.attention) and attention.heads:
        yield "spikes_by_head", place_plots.spikes_by_head(attention.heads)
    if layers := results.native.layers:
        yield "spikes_by_layer", plots.spikes_by_layer(layers)
    if spikes := plots.spike_curves(results.steps):
        yield "spikes_against_steps", plots.spikes_against_steps(spikes)


def _page(results: ConversionResult, figures: Mapping[str, Figure]) -> str:
    # matplotlib escapes the text inside its SVG.
    pictures = {
        name: Markup(plots.svg(figure, name=name))
        for name, figure in figures.items()
        if name != "overview"  # it repeats the page
    }
    return render(
        "report.html",
        **structs.asdict(results),
        native=results.native,
        bits=results.coding == "bits",
        one=results.noun.removesuffix("s"),  # of them
        measures=_measures(results),
        apart=_apart(results),
        least_score=box_plots.LEAST,
        outside=outside_in_words(results.conversion),
        verdict=verdict(results),
        is_exact=is_exact,
        pictures=pictures,
        config=list(_flat(results.run.config)),
    )


def _measures(results: ConversionResult) -> list[str]:
    """Name the measures of the task beside accuracy that every row has."""
    rows = [row.snn.measures if row.snn else {} for row in results.steps]
    named = results.ann.measures
    return [name for name in named if all(name in row for row in rows)]


def _apart(results: ConversionResult) -> list[Apart]:
    """Name the parts of predictions that are compared in real numbers."""
    stepped = [row.stepped for row in results.steps if row.stepped]
    return list(stepped[0].apart) if stepped else []


def render(template: str, **values: Any) -> str:
    """Render a template of this package; text in `values` is escaped."""
    loader = FunctionLoader(
        lambda name: files("bitsnn_jax.reports").joinpath(name).read_text("utf-8")
    )
    page = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page.filters |= {
        "percent": percent,
        "score": partial(with_unit, space=" "),
        "bare": bare,
        "named": in_words,
        "unit": unit_of,
        "count": count,
        "number": number,
        "whole": whole,
    }
    return page.get_template(template).render(**values)


def _flat(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested dictionaries as (dotted name, value)."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def percent(value: float | None) -> str:
    """Write a share in percent.

    >>> percent(0.9876)
    '98.76 %'
    """
    return "–" if value is None else f"{100 * value:.2f} %"


def count(value: int | None) -> str:
    """Write a count with separators.

    >>> count(4239360)
    '4,239,360'
    """
    return "–" if value is None else f"{value:,}"


def whole(value: float) -> str:
    """Write a large number without what follows the point.

    >>> whole(12345.6)
    '12,346'
    """
    return f"{value:,.0f}"
