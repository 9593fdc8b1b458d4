"""The paper's own networks, and what runs of them gave, where somebody ran them."""

import json
from pathlib import Path

from pages import table

_STEPS = ("2", "4", "6", "8", "16", "32")
# Accuracies of the paper in %: of the ANN, and of the SNN at each T.
_PAPER = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))


@table("published", "paper_rows.json")
def published(rows):
    yield "table", "config", "from", "ANN", *(f"T = {t}" for t in _STEPS)
    found = {row["config"]: row for row in rows}
    for row in _PAPER:
        yield (
            *(f"Table {row['table']}", f"`{row['config']}`", "the paper"),
            *_cells(row, 1),
        )
        if row["config"] in found:
            yield "", "", "here", *_cells(found[row["config"]], 100)


def _cells(row, scale):
    for value in (row["ann"], *(row["steps"].get(t) for t in _STEPS)):
        yield "–" if value is None else f"{scale * value:.2f} %"
