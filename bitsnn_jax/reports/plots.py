"""Pictures of a conversion: functions from data to matplotlib figures.

One palette, safe for colour-blind readers, and no global state: figures are made
without pyplot and with settings of their own. `png` and `svg` render a figure; the SVG
is meant to stand inline in a page, whose colours it takes on.
"""

import io
import re
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from matplotlib.ticker import PercentFormatter

from bitsnn_jax.reports.scores import form_of, in_words
from bitsnn_jax.results.conversion import StepsResult
from bitsnn_jax.results.spikes import LayerSpikes, Raster

INK, MUTED, RULE, PAPER = "#20242a", "#6c7480", "#dfe3e8", "#fefefe"
# What the page puts in the place of each, so that one SVG serves light and dark.
PAGE_COLOURS = {
    INK: "currentColor",
    MUTED: "var(--muted)",
    RULE: "var(--rule)",
    PAPER: "var(--paper)",
}
GRADES = {"exact": "#16794b", "open": "#9a6200", "differs": "#b3261e"}
# Okabe and Ito's colours, darkest last: the curves of the library's own networks first.
CURVES = ("#e69f00", "#009e73", "#0072b2", "#cc79a7", "#d55e00", "#56b4e9")
# Rings of shrinking size: curves that coincide, as they should, all stay visible.
MARKERS = (
    {"marker": "o", "markersize": 9.5, "markerfacecolor": "none"},
    {"marker": "o", "markersize": 6.5, "markerfacecolor": "none"},
    {"marker": "o", "markersize": 3.5},
    {"marker": "s", "markersize": 4},
    {"marker": "D", "markersize": 4},
    {"marker": "^", "markersize": 5},
)
# Monotone in lightness, and readable on white and on black.
PLANES = LinearSegmentedColormap.from_list(
    "planes", ["#1d5fa8", "#3f9bc4", "#86c9b2", "#e6c76a"]
)
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 8.5,
    "axes.titlecolor": INK,
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.3,
    "text.color": INK,
    "text.parse_math": False,  # a "$" in a module's name is a "$"
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 0,
}
Curves = Mapping[str, Mapping[int, float]]  # name -> {T: value}
styled = mpl.rc_context(STYLE)


def accuracy_curves(rows: Sequence[StepsResult]) -> Curves:
    """Collect accuracy by T, of the re-quantised ANN and of each way to run the SNN.

    >>> row = StepsResult(steps=4, levels=15, requantised=False, ann_accuracy=0.9)
    >>> accuracy_curves([row])
    {'ANN, re-quantised': {4: 0.9}}
    """
    ann = {row.steps: row.ann_accuracy for row in rows}
    return {"ANN, re-quantised": ann, **_snn_curves(rows, "accuracy")}


def spike_curves(rows: Sequence[StepsResult]) -> Curves:
    """Collect spikes per neuron over all T steps, of each way to run the SNN."""
    return _snn_curves(rows, "spikes_per_neuron")


def _snn_curves(rows: Sequence[StepsResult], field: str) -> Curves:
    found, value = {}, attrgetter(field)
    for mode in ("fused", "stepped"):
        ran = [(row.steps, getattr(row, mode)) for row in rows]
        found[f"SNN, {mode}"] = {t: value(snn) for t, snn in ran if snn}
    return {name: curve for name, curve in found.items() if curve}


@styled
def accuracy_against_steps(
    curves: Curves, *, ann: float | None = None, measure: str = "accuracy"
) -> Figure:
    """Draw accuracy against T, a curve a method; `ann` is a dashed line.

    Args:
      curves: name -> {T: accuracy in 0..1}, in the order of the legend.
      ann: accuracy of the trained network.
      measure: what stands in the place of accuracy.
    """
    figure, ax = _single(4.6, 3.1)
    draw_accuracy(ax, curves, ann, measure)
    return figure


@styled
def spikes_against_steps(curves: Curves) -> Figure:
    """Draw spikes per neuron against T: name -> {T: spikes over all steps}."""
    figure, ax = _single(4.6, 3.1)
    _draw_curves(ax, curves, first_colour=1)
    top = max(max(curve.values()) for curve in curves.values())
    ax.set_ylim(0, 1.15 * top or 1)  # a network may be silent
    ax.set_title("spikes per neuron")
    ax.legend(loc="lower right")
    return figure


@styled
def spikes_by_layer(layers: Sequence[LayerSpikes]) -> Figure:
    """Draw spikes per neuron of each layer, stacked by bit plane, input at the top."""
    planes = np.array([layer.spikes for layer in layers])  # [layers, T]
    figure, ax = _single(4.6, 1.0 + 0.165 * len(layers))
    rows, ends = np.arange(len(layers)), planes.cumsum(axis=1)
    for t, colour in enumerate(plane_colours(planes.shape[1])):
        ax.barh(rows, planes[:, t], left=ends[:, t] - planes[:, t], color=colour)
    ax.set_yticks(rows, [layer.path for layer in layers], fontsize=7)
    ax.set_ylim(len(layers) - 0.4, -0.6)
    ax.spines.left.set_visible(False)
    ax.set_xlabel("spikes per neuron")
    plane_legend(figure, planes.shape[1], loc="outside lower center")
    return figure


@styled
def spike_raster(raster: Raster) -> Figure:
    """Draw one image on its way through the network: pixels, spikes, logits.

    Of a picture with boxes the spikes alone.

    A block is a layer, a row a sampled neuron, a column a time step, first step (most
    significant bit) leftmost; the colour is what a spike of that step is worth. A
    digit of -1 is hollow.
    """
    figure = Figure(figsize=(9.2, 3.9), layout="constrained")
    if raster.logits is None:
        draw_raster(figure.subplots(), raster, names=True)
    else:
        image, blocks, logits = figure.subplots(1, 3, width_ratios=(1.35, 6, 1.15))
        draw_image(image, raster)
        draw_raster(blocks, raster, names=True)
        draw_logits(logits, raster)
    plane_legend(figure, raster.steps, loc="outside lower center")
    return figure


def plane_colours(steps: int) -> list[str]:
    """Choose a colour for each time step, most significant first.

    >>> len(plane_colours(4))
    4
    """
    return [to_hex(colour) for colour in PLANES(np.linspace(0, 1, steps))]


@styled
def png(figure: Figure) -> bytes:
    """Write the figure as PNG on white, sharp enough for a README."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160)
    return buffer.getvalue()


@mpl.rc_context({**STYLE, "svg.fonttype": "none", "svg.hashsalt": "bitsnn_jax"})
def svg(figure: Figure, *, name: str) -> str:
    """Write the figure as an inline <svg> in the fonts and colours of its page.

    Args:
      name: prefix of the ids inside, which must be unique in a page.
    """
    buffer = io.StringIO()
    # Without a date the same results give the same page, byte for byte.
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    _settle(figure)
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    for colour, page_colour in PAGE_COLOURS.items():
        text = text.replace(colour, page_colour)
    return text


def _settle(figure: Figure) -> None:
    """Lay the figure out once and for all, to a thousandth of its size.

    The solver of the layout takes its constraints in an order that changes from run to
    run, and with it the last digits.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for ax in figure.axes:
        left, bottom, width, height = (round(x, 3) for x in ax.get_position().bounds)
        ax.set_position((left, bottom, width, height))


def _single(width, height):
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def draw_accuracy(
    ax: Axes, curves: Curves, ann: float | None, measure: str = "accuracy"
) -> None:
    """Draw accuracy against T, and a line for the network as it was trained."""
    if ann is not None:
        ax.axhline(ann, color=INK, linestyle=(0, (5, 3)), linewidth=0.9)
        ax.plot([], [], color=INK, linestyle=(0, (5, 3)), linewidth=0.9, label="ANN")
    _draw_curves(ax, curves)
    values = [v for curve in curves.values() for v in curve.values()]
    values += [] if ann is None else [ann]
    spread = max(values) - min(values)
    margin = max(0.06 * spread, 0.005)
    ax.set_ylim(min(values) - margin, max(values) + margin)
    form = form_of(measure)
    if form.unit:
        percent = PercentFormatter(1, decimals=int(spread < 0.06))
        ax.yaxis.set_major_formatter(percent)
    else:
        ax.yaxis.set_major_formatter(lambda value, _: f"{form.times * value:.3g}")
    ax.set_title(in_words(measure))
    ax.legend(loc="best")


def _draw_curves(ax, curves, *, first_colour=0):
    """Draw steps one tick apart: T = 2 and 4 matter as much as 16 and 32."""
    steps = sorted({t for curve in curves.values() for t in curve})
    for i, (name, curve) in enumerate(curves.items(), first_colour):
        at = [steps.index(t) for t in sorted(curve)]
        ax.plot(
            at,
            [curve[t] for t in sorted(curve)],
            color=CURVES[i % len(CURVES)],
            label=name,
            **MARKERS[i % len(MARKERS)],
        )
    ax.set_xticks(range(len(steps)), [str(t) for t in steps])
    ax.set_xlim(-0.4, len(steps) - 0.6)
    ax.grid(axis="y", color=RULE, linewidth=0.6)
    ax.spines.left.set_visible(False)
    ax.set_xlabel("time steps T")


def draw_image(ax: Axes, raster: Raster) -> None:
    """Draw the image that a raster is of."""
    image = np.asarray(raster.image, float)
    if image.ndim == 3 and image.shape[-1] != 3:
        image = image.mean(axis=-1)
    # Normalised inputs have no natural range: show the darkest to the brightest value.
    image = (image - image.min()) / max(np.ptp(image), 1e-12)
    ax.imshow(image, cmap="gray", interpolation="nearest")
    ax.set_anchor("N")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    ax.set_title(f"image {raster.example}, label {raster.label}")


def draw_raster(ax: Axes, raster: Raster, *, names: bool) -> None:
    """Draw a block for each layer, a row for each sampled neuron in it."""
    layers, steps = raster.layers, raster.steps
    pitch = steps + max(1, steps / 3)
    spikes = [np.asarray(layer.spikes) for layer in layers]  # [neurons, T]
    for i, block in enumerate(spikes):
        size = (steps + 0.2, len(block) + 0.2)
        ax.add_patch(
            Rectangle((i * pitch - 0.1, -0.1), *size, color=RULE, alpha=0.55, lw=0)
        )
    negative = any((block < 0).any() for block in spikes)
    for t, colour in enumerate(plane_colours(steps)):
        full, hollow = (_cells(spikes, t, sign, pitch=pitch) for sign in (1, -1))
        ax.add_patch(PathPatch(full, facecolor=colour, linewidth=0))
        if negative:
            ax.add_patch(PathPatch(hollow, fill=False, edgecolor=colour, linewidth=0.9))
    ax.set_xlim(-0.6, len(layers) * pitch)
    ax.set_ylim(max(map(len, spikes), default=1) + 0.3, -0.3)
    ax.spines[:].set_visible(False)
    ax.set_yticks([])
    ax.tick_params(axis="x", length=0)
    centres = np.arange(len(layers)) * pitch + steps / 2
    if names:
        paths = [layer.path for layer in layers]
        ax.set_xticks(centres, paths, rotation=90, fontsize=6.5)
    else:
        ax.set_xticks([])
        plane_legend(ax, steps, loc="upper center", bbox_to_anchor=(0.5, 0.0))
    sign = ", hollow: −1" if negative else ""
    ax.set_title(f"spikes: {len(layers)} layers, {steps} time steps each{sign}")


def _cells(spikes, t, sign, *, pitch) -> Path:
    """Outline what neurons of all blocks send at step t, where it is 1 or -1.

    One path for a whole plane: thousands of rectangles would be a slow page.
    """
    corners = [
        (i * pitch + t, n)
        for i, block in enumerate(spikes)
        for n in np.flatnonzero(block[:, t] == sign)
    ]
    inset = 0.0 if sign > 0 else 0.06  # half of a line is outside of its path
    left, right, top, bottom = 0.05 + inset, 0.95 - inset, 0.08 + inset, 0.92 - inset
    cell = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    return Path.make_compound_path_from_polys(
        np.reshape(np.asarray(corners, float), (-1, 1, 2)) + cell
    )


def draw_logits(ax: Axes, raster: Raster) -> None:
    """Draw the ten highest logits, by class; the prediction stands out."""
    logits = np.asarray(raster.logits, float)
    classes = np.sort(np.argsort(-logits, kind="stable")[:10])
    winner = classes == raster.prediction
    ax.barh(
        np.arange(len(classes)), logits[classes], color=np.where(winner, INK, MUTED)
    )
    ax.set_yticks(np.arange(len(classes)), [str(c) for c in classes], fontsize=7)
    ax.set_ylim(len(classes) - 0.4, -0.6)
    ax.axvline(0, color=MUTED, linewidth=0.6)
    ax.spines[:].set_visible(False)
    ax.set_xticks([])
    ax.set_title(f"prediction {raster.prediction}")


def plane_legend(owner: Any, steps: int, **where: Any) -> None:
    """Say what a spike of each step is worth; of many, both ends and the middle."""
    shown = range(steps) if steps <= 8 else (0, steps // 2, steps - 1)
    colours = plane_colours(steps)
    owner.legend(
        handles=[Rectangle((0, 0), 1, 1, color=colours[t], lw=0) for t in shown],
        labels=[f"step {t + 1}: {2 ** (steps - 1 - t):,}δ" for t in shown],
        ncols=5 if len(shown) == 5 else 4,
        handlelength=1.0,
        handleheight=0.9,
        columnspacing=1.6,
        **where,
    )
