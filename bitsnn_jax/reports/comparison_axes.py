"""Axes of the pictures of a comparison: of a score, and of what it costs."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bitsnn_jax.reports.plots import RULE
from bitsnn_jax.reports.scores import form_of, short

_TICKS = (0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.85, 0.9, 0.92, 0.94, 0.96, 0.98, 0.99, 0.995)


def score_axis(
    ax: Axes,
    scores: Sequence[float],
    examples: int,
    measure: str,
    *,
    gap: float = 0.055,
    room: float = 0.05,
) -> None:
    """Make the axis of a score; `room` is left above the best.

    Of accuracy, errors are on a log scale, with ticks at least `gap` of the axis apart.
    What is far from 1 has a linear axis.
    """
    if measure == "accuracy":
        _error_axis(ax, scores, examples, gap=gap, room=room)
        return
    span = max(max(scores) - min(scores), 0.01)
    ax.set_ylim(min(scores) - 0.04 * span, max(scores) + room * span)
    times = form_of(measure).times
    ax.yaxis.set_major_formatter(FuncFormatter(lambda a, _: f"{times * a:.3g}"))


def _error_axis(ax, scores, examples, *, gap, room):
    """Show errors on a log scale, which keeps the last points before the ANN apart."""
    floor = 0.5 / examples  # no errors at all would be infinitely far up

    def forward(accuracy):
        return -np.log10(np.maximum(1 - np.asarray(accuracy), floor))

    ax.set_yscale("function", functions=(forward, lambda y: 1 - 10.0 ** -np.asarray(y)))
    low, high = forward(min(scores)), forward(max(scores))
    span = max(high - low, 0.1)
    low, high = low - 0.04 * span, high + room * span
    ax.set_ylim(1 - 10**-low, 1 - 10**-high)
    ticks = []
    for tick in _TICKS:
        at = (forward(tick) - low) / (high - low)
        if 0 <= at <= 1 and (not ticks or at - ticks[-1][0] >= gap):
            ticks.append((at, tick))
    ax.yaxis.set_major_locator(FixedLocator([tick for _, tick in ticks]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda a, _: f"{100 * a:.3g} %"))
    ax.yaxis.set_minor_locator(NullLocator())


def log_axis(
    ax: Axes, values: Sequence[float], *, base: int = 10, room: float = 0.0
) -> None:
    """Make a log axis over all `values` but silence, which has no place on it.

    `room` is left before the least, as a part of what there is between them.
    """
    positive = [v for v in values if v > 0] or [1]
    low, high = min(positive), max(positive)
    margin = (high / low) ** 0.05 if high > low else 2
    left = low / margin / (high / low) ** room
    ax.set_xlim(left, high * margin)
    ax.set_xscale("log", base=base)
    ax.set_xlim(left, high * margin)
    first, last = np.log(low) / np.log(base), np.log(high) / np.log(base)
    powers = np.arange(np.floor(first), np.ceil(last) + 1)
    if base == 2:
        # Labels must not touch.
        powers = powers[:: 2 if len(powers) > 7 else 1]
        ticks, shown = 2.0**powers, "{:,.0f}".format
    else:
        steps = (1, 2, 5) if last - first < 2.5 else (1,)
        ticks = np.ravel([s * 10.0**p for p in powers for s in steps])
        shown = short
    inside = [t for t in ticks if left <= t <= high * margin]
    ax.xaxis.set_major_locator(FixedLocator(inside))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: shown(x)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.grid(axis="y", color=RULE, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines.left.set_visible(False)
