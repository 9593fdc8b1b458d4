"""Pictures with boxes: the truth dashed, what a network finds in colour."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Rectangle

from bitsnn_jax.reports.plots import CURVES, styled
from bitsnn_jax.results.pictures import NamedBox, Picture

LEAST = 0.5  # score of a detection that is drawn
# Not `plots.PAPER`, which a dark page has its own colour for.
_WHITE, _BLACK = "#ffffff", "#000000"
_COLOURS = (*CURVES, "#7b4fa3", "#8a6d2b", "#c0392b", "#5d6d7e")


@styled
def boxes_by_network(pictures: Sequence[Picture]) -> Figure:
    """Draw a row for each picture and a column for each network, ANN first.

    Args:
      pictures: at least one, all shown to the same networks.
    """
    names = list(pictures[0].found)
    side = max(1.7, 9.2 / len(names))
    shapes = [_pixels(picture).shape for picture in pictures]
    heights = [side * height / width for height, width, *_ in shapes]
    figure = Figure(
        figsize=(side * len(names), sum(heights) + 0.3), layout="constrained", dpi=200
    )
    axes = figure.subplots(
        len(pictures), len(names), height_ratios=heights, squeeze=False
    )
    colours = colours_of(pictures)
    for row, picture in zip(axes, pictures, strict=True):
        for ax, name in zip(row, names, strict=True):
            draw_boxes(ax, picture, name, colours)
    for ax, name in zip(axes[0], names, strict=True):
        ax.set_title(name)
    return figure


def draw_boxes(
    ax: Axes, picture: Picture, network: str, colours: Mapping[str, str]
) -> None:
    """Draw a picture, its boxes, and those that a network finds, with their scores.

    Args:
      ax: to draw on.
      picture: with the boxes.
      network: one of `picture.found`.
      colours: of categories, see `colours_of`.
    """
    pixels = _pixels(picture)
    height, width = pixels.shape[:2]
    ax.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    for each in picture.truth:
        # Two lines, so that dashes show on any ground.
        ax.add_patch(_frame(each, edgecolor=_BLACK, linewidth=0.9))
        ax.add_patch(
            _frame(each, edgecolor=_WHITE, linewidth=0.9, linestyle=(0, (3, 3)))
        )
    for each in drawn(picture.found[network]):
        colour = colours[each.category]
        ax.add_patch(_frame(each, edgecolor=colour, linewidth=1.3))
        left, upper = max(each.box[0], 0), max(each.box[1], 0)
        text = f"{each.category} {100 * (each.score or 0):.0f}"
        label = {"facecolor": colour, "linewidth": 0, "pad": 0.8}
        where = {"ha": "left", "va": "top", "clip_on": True}
        ax.text(left, upper, text, color=_WHITE, fontsize=5, bbox=label, **where)
    ax.set_xlim(-0.5, width - 0.5)
    ax.set_ylim(height - 0.5, -0.5)
    ax.set_anchor("N")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)


def drawn(boxes: Sequence[NamedBox]) -> list[NamedBox]:
    """Choose the boxes that are drawn, the best last, on top of others."""
    return [each for each in boxes if (each.score or 0) >= LEAST][::-1]


def _frame(each: NamedBox, **look) -> Rectangle:
    """Return the outline of a box; pixel 0 is centred at 0, and begins at -1/2."""
    left, upper, right, lower = each.box
    corner = (left - 0.5, upper - 0.5)
    return Rectangle(corner, right - left, lower - upper, fill=False, **look)


def _pixels(picture: Picture) -> np.ndarray:
    # As PNG, which it was written as, whatever a damaged file holds.
    shares = imread(io.BytesIO(picture.image), format="png")
    return np.rint(shares * 255).astype(np.uint8)


def colours_of(pictures: Sequence[Picture]) -> dict[str, str]:
    """Give each category that is drawn a colour."""
    names = sorted(
        {
            each.category
            for picture in pictures
            for boxes in picture.found.values()
            for each in drawn(boxes)
        }
    )
    return {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(names)}
