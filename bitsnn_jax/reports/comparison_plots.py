"""Pictures of a comparison: many methods of conversion in one drawing.

Every method has the same colour and marker in all of them. Those of the library's own
method are bold; the others are told apart by hue, marker and, from the ninth on, by
hollow markers on dashed lines. Those of direct training have markers with a dark edge
on dotted lines.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bitsnn_jax.reports.comparison_axes import log_axis, score_axis
from bitsnn_jax.reports.plots import INK, MUTED, PAPER, RULE, styled

OURS = "#d55e00"
RIVALS = (
    *("#0072b2", "#e69f00", "#009e73", "#cc79a7"),
    *("#56b4e9", "#7b4fa3", "#8a6d2b", "#7f8c9a"),
)
WITHIN = 0.01  # of the accuracy of its network a method counts as equal to it
MARKERS = "osD^vPXp"
DIRECT_MARKERS = "dh<>8^vs"
NETWORKS = {
    "qcfs": "QCFS",
    "relu": "ReLU",
    "clipped_relu": "clipped ReLU",
    "slip_relu": "SlipReLU",
    "step_relu": "StepReLU",
    "rate_norm": "rate norm layers",
}
_DASHES = (
    *((0, (5, 3)), (0, (1, 1.6)), (0, (6, 2, 1, 2))),
    *((0, (6, 2, 1, 2, 1, 2)), (0, (9, 2)), (0, (2, 4))),
)


class Series(NamedTuple):
    """A method in a picture.

    Attributes:
      title: of the method.
      points: what it reached, by T: the fields of a row, averaged over seeds.
      ann: accuracy of the network that the method starts from.
      ours: drawn to stand out.
      direct: of direct training, and not of conversion.
    """

    title: str
    points: Sequence[Mapping[str, Any]]
    ann: float
    ours: bool = False
    direct: bool = False


def is_equal(accuracy: float, ann: float, within: float = WITHIN) -> bool:
    """Tell whether `accuracy` is at least `ann` - `within`, apart from rounding.

    >>> is_equal(0.4906, 0.5006), 0.4906 >= 0.5006 - 0.01
    (True, False)
    """
    return accuracy >= ann - within - 1e-9


def front(costs: Sequence[float], accuracies: Sequence[float]) -> list[bool]:
    """Find the points that no other beats: as good and as cheap, and better in one.

    >>> front([1, 2, 3, 3], [0.5, 0.9, 0.8, 0.9])
    [True, True, False, False]
    """
    points = list(zip(costs, accuracies, strict=True))
    return [
        not any(c <= cost and a >= gain and (c, a) != (cost, gain) for c, a in points)
        for cost, gain in points
    ]


@styled
def accuracy_against_steps(
    series: Sequence[Series],
    anns: Mapping[str, float],
    *,
    examples: int,
    measure: str = "accuracy",
) -> Figure:
    """Draw accuracy against steps: of each layer's window, and to the output.

    Args:
      series: the methods, in the order of the legend.
      anns: accuracy of each network that methods start from, drawn as a line.
      examples: that were evaluated; bounds the axis.
      measure: what stands in the place of accuracy, here and in the other pictures.
    """
    figure = Figure(figsize=(9.2, 5.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    fields = {"window": "time steps of a layer, warm-up included"}
    fields["until_output"] = "time steps until the output, layer after layer"
    for ax, (field, label) in zip(axes, fields.items(), strict=True):
        _draw_anns(ax, anns)
        _draw(ax, series, field)
        log_axis(ax, [p[field] for s in series for p in s.points], base=2)
        ax.set_xlabel(label)
    score_axis(axes[0], _scores(series, anns.values()), examples, measure)
    axes[0].set_title(measure)
    _legend(figure, series, anns)
    return figure


@styled
def accuracy_against_spikes(
    series: Sequence[Series],
    anns: Mapping[str, float],
    *,
    examples: int,
    measure: str = "accuracy",
) -> Figure:
    """Draw accuracy against spikes per neuron, a curve a method."""
    figure = Figure(figsize=(9.2, 4.1), layout="constrained")
    ax = figure.add_subplot()
    _draw_anns(ax, anns)
    _draw(ax, series, "spikes_per_neuron")
    log_axis(ax, [p["spikes_per_neuron"] for s in series for p in s.points])
    ax.set_xlabel("spikes per neuron and example")
    score_axis(ax, _scores(series, anns.values()), examples, measure)
    ax.set_title(measure)
    _legend(figure, series, anns, loc="outside right center", ncols=1)
    return figure


@styled
def accuracy_front(
    series: Sequence[Series],
    anns: Mapping[str, float],
    *,
    examples: int,
    measure: str = "accuracy",
) -> Figure:
    """Draw accuracy against synaptic operations and energy; dominated points faded.

    Energy is left out where it is not known.

    Points of less than half the accuracy of the best network are of no use, and are
    left out, unless there are no others.
    """
    useful = [each._replace(points=_useful(each, anns)) for each in series]
    shown = useful if any(each.points for each in useful) else series
    fields = {
        "synaptic_operations": "synaptic operations per example",
        "nanojoules": "energy per example, nJ",
    }
    points = [p for each in shown for p in each.points]
    fields = {f: label for f, label in fields.items() if all(f in p for p in points)}
    figure = Figure(figsize=(9.2, 5.4), layout="constrained")
    axes = figure.subplots(1, len(fields), sharey=True, squeeze=False)[0]
    score_axis(axes[0], _scores(shown, anns.values()), examples, measure, room=0.26)
    axes[0].set_title(measure)
    for ax, (field, label) in zip(axes, fields.items(), strict=True):
        _draw_anns(ax, anns)
        log_axis(ax, [p[field] for s in shown for p in s.points], room=0.45)
        _draw_front(ax, shown, field)
        ax.set_xlabel(label)
    _legend(figure, series, anns, lines=False)
    return figure


def _useful(each: Series, anns: Mapping[str, float]) -> list[Mapping[str, Any]]:
    return [p for p in each.points if p["accuracy"] >= 0.5 * max(anns.values())]


@styled
def one_by_one(
    series: Sequence[Series],
    *,
    examples: int,
    within: float = WITHIN,
    measure: str = "accuracy",
) -> Figure:
    """Draw each method small: its accuracy against steps, before all the others.

    Args:
      series: the methods.
      examples: that were evaluated; bounds the axis.
      within: of the accuracy of its own network (dashed) a method counts as equal; the
        first such point is ringed and its steps are named.
    """
    columns = 4
    rows = -(-len(series) // columns)
    figure = Figure(figsize=(9.2, 0.5 + 1.55 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    everything = [p["window"] for s in series for p in s.points]
    scores = _scores(series, [each.ann for each in series])
    score_axis(axes[0, 0], scores, examples, measure, gap=0.15)
    for i, (ax, each) in enumerate(zip(axes.flat, series, strict=False)):
        ax.plot(*_gapped([*series[:i], *series[i + 1 :]]), color=RULE, linewidth=0.9)
        colour = _look(series, i)["color"]
        ax.axhline(each.ann, color=MUTED, linestyle=_DASHES[0], linewidth=0.8)
        alone = {"marker": "o", "markersize": 4} if len(each.points) == 1 else {}
        _curve(ax, each, "window", color=colour, linewidth=1.8, zorder=3, **alone)
        log_axis(ax, everything, base=2)
        ax.set_title(each.title, fontweight="bold" if each.ours else "normal")
        equal = [p for p in each.points if is_equal(p["accuracy"], each.ann, within)]
        if equal:
            at = equal[0]["window"], equal[0]["accuracy"]
            ring = {"marker": "o", "markersize": 7, "markerfacecolor": PAPER}
            ax.plot(*at, color=colour, markeredgewidth=1.5, zorder=4, **ring)
        note = f"{equal[0]['window']:,.0f} steps" if equal else "not equal"
        where = {"transform": ax.transAxes, "ha": "right", "fontsize": 7.5}
        ax.text(1, 0.04, note, color=INK if equal else MUTED, **where)
    for ax in axes.flat[len(series) :]:
        ax.set_visible(False)
    bottom = axes.flat[max(0, len(series) - columns) : len(series)]
    for ax in bottom:  # the last of each column, also above an empty place
        ax.tick_params(labelbottom=True)
        ax.set_xlabel("time steps")
    return figure


def _scores(series: Sequence[Series], anns: Iterable[float]) -> list[float]:
    return [p["accuracy"] for s in series for p in s.points] + list(anns)


def _gapped(series: Sequence[Series]) -> tuple[list[float], list[float]]:
    """Join all curves as one line with gaps: much faster to draw."""
    gap = {"window": np.nan, "accuracy": np.nan}
    points = [p for each in series for p in (*each.points, gap)]
    return [p["window"] for p in points], [p["accuracy"] for p in points]


def _look(series: Sequence[Series], index: int) -> dict[str, Any]:
    """Choose colour, line and marker of a method, unlike those of any other."""
    if series[index].ours:
        # A star says it again to who does not see the colour.
        big = {"marker": "*", "markersize": 10, "markeredgecolor": PAPER}
        return {"color": OURS, "linewidth": 2.4, "zorder": 5, **big}
    direct = series[index].direct
    others = [each for each in series[:index] if not each.ours]
    rank = sum(each.direct == direct for each in others)
    turn, i = divmod(rank, len(RIVALS))
    colour = RIVALS[i]
    if direct:
        return {
            "color": colour,
            "linewidth": 1.0,
            "linestyle": (0, (1, 1.6)),
            "marker": DIRECT_MARKERS[(i + 3 * turn) % len(DIRECT_MARKERS)],
            "markersize": 6.5,
            "markeredgecolor": INK,
            "markeredgewidth": 0.8,
            "zorder": 4,
        }
    return {
        "color": colour,
        "linewidth": 1.2,
        "linestyle": (0, (4, 1.5)) if turn % 2 else "-",
        "marker": MARKERS[(i + 3 * turn) % len(MARKERS)],
        "markersize": 4.5,
        "markerfacecolor": PAPER if turn % 2 else colour,
        "zorder": 3,
    }


def _curve(ax: Axes, each: Series, field: str, **look: Any) -> Line2D:
    xs = [p[field] or np.nan for p in each.points]  # silence: not on a log axis
    return ax.plot(xs, [p["accuracy"] for p in each.points], **look)[0]


def _draw(ax: Axes, series: Sequence[Series], field: str) -> None:
    for i, each in enumerate(series):
        line = _curve(ax, each, field, label=each.title, **_look(series, i))
        line.set_gid(f"curve-{field}-m{i}")


def _draw_anns(ax: Axes, anns: Mapping[str, float]) -> None:
    for style, (name, accuracy) in zip(_styles(anns), anns.items(), strict=True):
        line = ax.axhline(accuracy, color=INK, linestyle=style, linewidth=0.9)
        line.set_label(f"ANN, {NETWORKS.get(name, name)}")


def _styles(anns):
    return [_DASHES[i % len(_DASHES)] for i in range(len(anns))]


def _draw_front(ax: Axes, series: Sequence[Series], field: str) -> None:
    points = [
        (p[field], p["accuracy"], i, p["steps"])
        for i, each in enumerate(series)
        for p in each.points
        if p[field] > 0
    ]
    best = front([p[0] for p in points], [p[1] for p in points])
    named = sorted(p for p, kept in zip(points, best, strict=True) if kept)
    faded = [p for p, kept in zip(points, best, strict=True) if not kept]
    for i in range(len(series)):
        look = _look(series, i) | {"linestyle": "none"}
        ax.plot(*_places(named, i), **look)
        look |= {"alpha": 0.28, "zorder": 2, "markersize": 0.8 * look["markersize"]}
        ax.plot(*_places(faded, i), **look)
    xs, ys = [p[0] for p in named], [p[1] for p in named]
    ax.step(xs, ys, where="post", color=MUTED, linewidth=0.8, zorder=1)
    names = [
        ((x, y), f"{series[i].title}, {t}", series[i].ours) for x, y, i, t in named
    ]
    name_points(ax, names)


def _places(points, index):
    chosen = [(x, y) for x, y, i, _ in points if i == index]
    return [x for x, _ in chosen], [y for _, y in chosen]


def name_points(
    ax: Axes, named: Iterable[tuple[tuple[float, float], str, bool]]
) -> None:
    """Name points of a front at their upper left, where there are no other points.

    They go up until they stand clear of the one below. The axes have their limits.

    Args:
      ax: about 4 inches high.
      named: of each point its place, its name, and whether it is ours; sorted.
    """
    height = 10.5 / (4 * 72)  # of a line
    below = -1.0
    to_axes = ax.transScale + ax.transLimits
    for place, name, ours in named:
        x, y = to_axes.transform(place)
        below = max(y + 0.5 * height, below + height)
        where = {"transform": ax.transAxes, "zorder": 4}
        ax.plot([x - 0.02, x], [below, y], color=MUTED, linewidth=0.5, **where)
        ax.text(
            x - 0.022,
            below,
            name,
            ha="right",
            va="center",
            fontsize=7,
            color=OURS if ours else INK,
            fontweight="bold" if ours else "normal",
            bbox={"facecolor": PAPER, "linewidth": 0, "pad": 0.6},
            **where,
        )


def _legend(
    figure, series, anns, *, loc="outside lower center", ncols=None, lines=True
):
    looks = [_look(series, i) for i in range(len(series))]
    if not lines:
        looks = [look | {"linestyle": "none"} for look in looks]
    handles = [Line2D([], [], **look) for look in looks]
    for style in _styles(anns):
        handles.append(Line2D([], [], color=INK, linewidth=0.9, linestyle=style))
    labels = [each.title for each in series]
    labels += [f"ANN, {NETWORKS.get(name, name)}" for name in anns]
    if ncols is None:
        # A letter is about 0.05 inches wide; lines and gaps beside it are 0.7.
        wide = 0.7 + 0.05 * max(map(len, labels))
        ncols = min(5, max(1, int(figure.get_figwidth() / wide)))
    legend = figure.legend(
        handles, labels, loc=loc, ncols=ncols, handlelength=2.6, columnspacing=1.6
    )
    for i, (text, each) in enumerate(zip(legend.get_texts(), series, strict=False)):
        text.set_gid(f"name-m{i}")
        text.set_fontweight("bold" if each.ours else "normal")
