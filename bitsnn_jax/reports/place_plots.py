"""Pictures of attention: spikes at each word or patch, and in each head."""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from bitsnn_jax.reports.plots import (
    INK,
    MUTED,
    draw_image,
    draw_logits,
    plane_colours,
    plane_legend,
    styled,
)
from bitsnn_jax.results.spikes import HeadSpikes, LayerPlaces, Raster

HUE = to_rgb("#1d5fa8")  # alone, paler for less
_ROW, _PATCHES = 0.145, 0.78  # inches of a row of layers, of a map of patches


class Row(NamedTuple):
    """A layer in a picture, or two that are a code with a sign: spikes per neuron."""

    path: str
    spikes: np.ndarray


def paired(rows: Iterable[Row]) -> list[Row]:
    """Put the two neurons of signed activations in one row: their mean.

    They are in the same module and fire one after the other: NAME and NAME@2.

    >>> [row.path for row in paired(Row(p, np.ones(1)) for p in ("q", "q@2", "p"))]
    ['q', 'p']
    """
    joined: list[Row] = []
    for row in rows:
        if joined and row.path == f"{joined[-1].path}@2":
            on = joined.pop()
            row = Row(on.path, (on.spikes + row.spikes) / 2)
        joined.append(row)
    return joined


@styled
def spikes_by_place(raster: Raster) -> Figure:
    """Draw the spikes of one example at each of its places: words, or patches."""
    rows = _rows(raster.places)
    if raster.words or raster.image is None:
        return _by_word(raster, rows)
    return _by_patch(raster, rows)


@styled
def spikes_by_head(heads: Sequence[HeadSpikes]) -> Figure:
    """Draw spikes per neuron of each head, a row a layer."""
    rows = paired(Row(each.path, np.array(each.spikes)) for each in heads)
    count = max(len(row.spikes) for row in rows)
    table = np.full((len(rows), count), np.nan)
    for line, row in zip(table, rows, strict=True):
        line[: len(row.spikes)] = row.spikes
    figure = Figure(
        figsize=(2.6 + 0.42 * count, 0.7 + 0.19 * len(rows)), layout="constrained"
    )
    ax = figure.subplots()
    top = float(np.nanmax(table)) or 1.0
    ax.imshow(_shaded(np.nan_to_num(table) / top), aspect="auto")
    for (i, j), value in np.ndenumerate(table):
        if not np.isnan(value):
            dark = value > 0.55 * top
            ax.text(
                j,
                i,
                f"{value:.2f}",
                ha="center",
                va="center",
                fontsize=6,
                color="#ffffff" if dark else INK,
            )
    _plain(ax)
    ax.set_yticks(range(len(rows)), [row.path for row in rows], fontsize=6.5)
    ax.xaxis.tick_top()
    ax.set_xticks(range(count), [str(j + 1) for j in range(count)], fontsize=7)
    ax.set_title("head", fontsize=7.5, color=MUTED)
    return figure


def draw_words(ax: Axes, raster: Raster, *, names: bool = True) -> None:
    """Draw a row for each layer and a column for each word, with T strips in it.

    A strip is a step, in its colour; the more neurons of the layer spike then at this
    word, the fuller the colour, which follows the square root. Blocks stand apart.
    """
    blocks, steps = _blocks(_rows(raster.places)), raster.steps
    rows = [(b, name, row) for b, maps in blocks.items() for name, row in maps]
    shares = np.stack([row.spikes for _, _, row in rows])  # [layers, words, T]
    count, width = shares.shape[1], steps + 1
    lines = [i + j for i, maps in enumerate(_positions(blocks)) for j in maps]
    strips = np.zeros((lines[-1] + 1, count, width, 4))  # the last one parts words
    strips[:, :, :steps, :3] = [to_rgb(colour) for colour in plane_colours(steps)]
    strips[lines, :, :steps, 3] = np.sqrt(shares / (shares.max() or 1))
    ax.imshow(
        strips.reshape(len(strips), count * width, 4),
        aspect="auto",
        interpolation="nearest",
        extent=(0, count, len(strips), 0),
    )
    _plain(ax)
    if not names:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_title(f"spikes: {len(rows)} layers, {count} places, {steps} time steps")
        return
    labels, last = [], ""
    for block, name, _ in rows:
        labels.append(name if block == last else f"{block}  {name}".strip())
        last = block
    ax.set_yticks(np.array(lines) + 0.5, labels, fontsize=6.5)
    middles = np.arange(count) + 0.5 * steps / width
    ax.set_xticks(middles, _words(raster), rotation=90, fontsize=7)
    ax.set_title(f"the fullest strip: {shares.max():.0%} of the neurons", fontsize=7)


def _positions(blocks: dict[str, list[tuple[str, Row]]]) -> list[range]:
    """Say which rows each block has."""
    ends = np.cumsum([0, *map(len, blocks.values())]).tolist()
    return [range(*pair) for pair in pairwise(ends)]


def _by_word(raster: Raster, rows: Sequence[Row]) -> Figure:
    height = _ROW * (len(rows) + len(_blocks(rows)))
    figure = Figure(figsize=(9.2, 2.6 + height), layout="constrained")
    (bars, logits), (words, right) = figure.subplots(
        2, 2, sharex="col", width_ratios=(8, 1), height_ratios=(0.9, height + 0.2)
    )
    right.remove()
    _draw_bars(bars, raster)
    draw_words(words, raster)
    draw_logits(logits, raster)
    plane_legend(figure, raster.steps, loc="outside lower center")
    return figure


def _draw_bars(ax: Axes, raster: Raster) -> None:
    """Draw the spikes of each word, in all layers together, by step."""
    counts = [layer.neurons * np.asarray(layer.spikes) for layer in raster.places]
    spikes = np.sum(counts, axis=0)  # [words, T]
    middles = np.arange(len(spikes)) + 0.5 * raster.steps / (raster.steps + 1)
    ends = spikes.cumsum(axis=1)
    for t, colour in enumerate(plane_colours(raster.steps)):
        ax.bar(
            middles,
            spikes[:, t],
            bottom=ends[:, t] - spikes[:, t],
            color=colour,
            width=0.75,
        )
    ax.spines[:].set_visible(False)
    ax.tick_params(axis="x", length=0, labelbottom=False)
    ax.set_yticks([])
    ax.set_title(f"spikes in each column, {spikes.sum(1).max():,.0f} at most")


def _by_patch(raster: Raster, rows: Sequence[Row]) -> Figure:
    """Draw the image, and a map of its patches for each layer; a line is a block."""
    blocks = _blocks(rows)
    columns = max(map(len, blocks.values()))
    figure = Figure(
        figsize=(1.3 + _PATCHES * (columns + 1.6), 1.0 + _PATCHES * 1.25 * len(blocks)),
        layout="constrained",
    )
    grid = figure.add_gridspec(
        len(blocks), columns + 2, width_ratios=(1.6, *([1] * columns), 1.1)
    )
    draw_image(figure.add_subplot(grid[:2, 0]), raster)
    draw_logits(figure.add_subplot(grid[:2, -1]), raster)
    shape = patch_grid(len(rows[0].spikes), np.asarray(raster.image).shape[:2])
    top = max(float(row.spikes.sum(1).max()) for row in rows) or 1.0
    for i, (block, maps) in enumerate(blocks.items()):
        for j, (name, row) in enumerate(maps):
            ax = figure.add_subplot(grid[i, j + 1])
            ax.imshow(_shaded(row.spikes.sum(1).reshape(shape) / top))
            _plain(ax, frame=True)
            ax.set_title(name.replace("/", "/\n"), fontsize=5.5, color=MUTED)
            if j == 0:
                ax.set_ylabel(block, fontsize=6.5)
    return figure


def patch_grid(patches: int, image: Sequence[int]) -> tuple[int, int]:
    """Say in how many lines patches lie: as square ones do, or else in one.

    >>> patch_grid(49, (28, 28)), patch_grid(8, (32, 64)), patch_grid(5, (28, 28))
    ((7, 7), (2, 4), (1, 5))
    """
    height, width = image
    lines = round((patches * height / width) ** 0.5) or 1
    fits = lines * lines * width == patches * height and patches % lines == 0
    return (lines, patches // lines) if fits else (1, patches)


def _blocks(rows: Sequence[Row]) -> dict[str, list[tuple[str, Row]]]:
    """Sort layers by the first module of their path that has a number."""
    blocks: dict[str, list[tuple[str, Row]]] = {}
    for row in rows:
        found = re.match(r"(.*?_\d+)/(.*)", row.path)
        block, name = found.groups() if found else ("", row.path)
        blocks.setdefault(block, []).append((name, row))
    return blocks


def _rows(places: Sequence[LayerPlaces]) -> list[Row]:
    return paired(Row(each.path, np.asarray(each.spikes, float)) for each in places)


def _words(raster: Raster) -> list[str]:
    count = len(raster.places[0].spikes)
    return list(raster.words) or [str(i + 1) for i in range(count)]


def _shaded(shares: np.ndarray) -> np.ndarray:
    """Colour shares from 0 to 1: RGBA, so that the paper is seen through."""
    colours = np.empty((*shares.shape, 4))
    colours[..., :3] = HUE
    colours[..., 3] = shares
    return colours


def _plain(ax: Axes, *, frame: bool = False) -> None:
    ax.spines[:].set_visible(frame)
    ax.tick_params(length=0)
    if frame:
        ax.set_xticks([])
        ax.set_yticks([])
