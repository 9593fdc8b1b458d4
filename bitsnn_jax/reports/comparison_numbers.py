"""The numbers of a comparison, averaged over seeds, and how they are written."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from bitsnn_jax.reports.scores import bare, number
from bitsnn_jax.results.comparison import MethodRow

_MEASURED = (
    *("accuracy", "agreement", "spikes_per_neuron", "synaptic_operations"),
    *("nanojoules", "milliseconds", "ann_passes"),
)
FIELDS = MethodRow.__struct_fields__


class Reached(NamedTuple):
    """What a method reached at one T, over its seeds.

    Attributes:
      method, steps: which.
      seeds: how many rows were averaged.
      mean: of each field of a row.
      spread: standard deviation between seeds (divided by n - 1); None of one seed.
    """

    method: str
    steps: int
    seeds: int
    mean: Mapping[str, float]
    spread: Mapping[str, float] | None


def averages(rows: Iterable[MethodRow]) -> dict[str, list[Reached]]:
    """Average over seeds, by method in the order of their first rows, at each T.

    >>> from msgspec import structs
    >>> row = MethodRow(method="if", steps=4, **dict.fromkeys(FIELDS[2:], 0.0))
    >>> rows = [structs.replace(row, seed=i, accuracy=0.8 + i / 10) for i in range(2)]
    >>> [round(each.mean["accuracy"], 3) for each in averages(rows)["if"]]
    [0.85]
    """
    groups: dict[str, dict[int, list[MethodRow]]] = {}
    for row in rows:
        groups.setdefault(row.method, {}).setdefault(row.steps, []).append(row)
    return {
        method: [_average(by_steps[t]) for t in sorted(by_steps)]
        for method, by_steps in groups.items()
    }


def _average(rows: Sequence[MethodRow]) -> Reached:
    fields = ("window", "until_output", *_MEASURED)
    columns = {field: [getattr(row, field) for row in rows] for field in fields}
    columns = {f: values for f, values in columns.items() if None not in values}
    spread = None
    if len(rows) > 1:
        spread = {f: statistics.stdev(values) for f, values in columns.items()}
    mean = {f: statistics.fmean(values) for f, values in columns.items()}
    return Reached(rows[0].method, rows[0].steps, len(rows), mean, spread)


def with_spread(reached: Reached | None, measure: str) -> str:
    """Write a score without unit, with the spread between seeds; a dash for none."""
    if reached is None:
        return "–"
    text = bare(reached.mean["accuracy"], measure)
    if not reached.spread:
        return text
    return f"{text} ± {bare(reached.spread['accuracy'], measure)}"


def markdown_table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, names: int = 1
) -> list[str]:
    """Write the lines of a table whose first columns are names, the rest numbers."""

    def line(cells):
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = ["---" if i < names else "---:" for i in range(len(head))]
    return [line(head), line(rule), *map(line, rows)]


def amount(value: float | None) -> str:
    """Show three digits, or all before the point; a dash for what is not known.

    >>> [amount(x) for x in (3.14159, 12_345.6, None)]
    ['3.14', '12,346', '–']
    """
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else number(value)
