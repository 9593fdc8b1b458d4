"""The story of a conversion at a glance: one picture for a README."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from bitsnn_jax.reports.box_plots import colours_of, draw_boxes
from bitsnn_jax.reports.place_plots import draw_words
from bitsnn_jax.reports.plots import (
    GRADES,
    MUTED,
    accuracy_curves,
    draw_accuracy,
    draw_image,
    draw_logits,
    draw_raster,
    plane_legend,
    styled,
)
from bitsnn_jax.reports.scores import named
from bitsnn_jax.reports.verdict import verdict
from bitsnn_jax.results.conversion import ConversionResult, StepsResult
from bitsnn_jax.results.spikes import Raster


@styled
def overview(results: ConversionResult) -> Figure:
    """Draw the story at a glance: an example, its spikes, the accuracy, the verdict."""
    raster, ann, measure = results.raster, results.ann.accuracy, results.measure
    curves = accuracy_curves(results.steps)
    panels = [(2.6, lambda ax: draw_accuracy(ax, curves, ann, measure))]
    if raster and raster.logits is not None:
        panels = [(0.8, lambda ax: draw_logits(ax, raster)), *panels]
    if raster:
        panels = [(4.2, lambda ax: _draw_spikes(ax, raster)), *panels]
    if results.gallery:
        panels = [(2.2, lambda ax: _draw_picture(ax, results)), *panels]
    elif raster and raster.image is not None:
        panels = [(1.25, lambda ax: draw_image(ax, raster)), *panels]
    widths = [width for width, _ in panels]
    width = max(7, 1.35 * sum(widths))
    # The upper fifth is for the verdict.
    layout = ConstrainedLayoutEngine(rect=(0.012, 0.01, 0.976, 0.80), wspace=0.035)
    figure = Figure(figsize=(width, 3.9), layout=layout)
    axes = figure.subplots(1, len(panels), width_ratios=widths, squeeze=False)[0]
    for ax, (_, draw) in zip(axes, panels, strict=True):
        draw(ax)

    judged, run = verdict(results), results.run
    # A bold character is about 0.1 inch wide at 12 points.
    size = min(12, 12 * 0.97 * width / (0.1 * len(judged.headline)))
    headline = {"color": GRADES[judged.grade], "fontsize": size, "fontweight": "bold"}
    figure.text(0.012, 0.965, judged.headline, va="top", **headline)
    figure.text(
        0.012,
        0.875,
        f"{run.model} on {run.dataset}: trained network {named(ann, measure)}, "
        f"spiking network {_snn_accuracy(results.native, measure)}",
        va="top",
        color=MUTED,
        fontsize=9,
    )
    return figure


def _draw_spikes(ax: Axes, raster: Raster) -> None:
    if raster.places:
        draw_words(ax, raster, names=False)
        plane_legend(ax, raster.steps, loc="upper center", bbox_to_anchor=(0.5, 0.0))
    else:
        draw_raster(ax, raster, names=False)


def _draw_picture(ax: Axes, results: ConversionResult) -> None:
    picture = results.gallery[0]
    at_native = f"SNN, T = {results.native.steps}"
    name = at_native if at_native in picture.found else list(picture.found)[-1]
    draw_boxes(ax, picture, name, colours_of(results.gallery))
    ax.set_title(name)


def _snn_accuracy(row: StepsResult, measure: str) -> str:
    if row.snn is None:
        return "not evaluated"
    return f"{named(row.snn.accuracy, measure)} in {row.window} time steps"
