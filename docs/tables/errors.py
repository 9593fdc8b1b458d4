"""Tables of docs/errors.md and docs/robustness.md."""

from pages import table
from trained import percent

_TITLES = {"none": "QCFS rate SNN", "all": "bit-serial SNN"}
# Of docs/errors.md: what is on in each cell, and the paper's ResNet-20 at T = 2, 4.
_CELLS = {
    "none": ((), ("71.42", "83.91")),
    "modified_if": (("modified IF",), ("76.21", "90.18")),
    "left_shift": (("left shift",), ("76.10", "91.22")),
    "left_shift_bn": (("left shift", "BN shift"), ("79.86", "91.81")),
    "all": (("left shift", "BN shift", "modified IF"), ("86.92", "93.60")),
    "left_shift_modified_if": (("left shift", "modified IF"), None),
    "norm_first": (("left shift", "norm first"), None),
    "norm_first_modified_if": (("left shift", "modified IF", "norm first"), None),
}
_MARKS = ("left shift", "BN shift", "modified IF", "norm first")


@table("decomposition", "decomposition.json")
def decomposition(rows):
    yield "network", "T", "clipping", "quantisation", "unevenness", "total", "accuracy"
    for cell, title in _TITLES.items():
        ours = (row for row in rows if row["cell"] == cell)
        for row in sorted(ours, key=lambda row: row["steps"]):
            errors = row["network_errors"]["absolute"].values()
            yield (
                title,
                str(row["steps"]),
                *(f"{100 * e:.3g} %" for e in errors),
                percent(row["accuracy"], 1),
            )


@table("ablation", "ablation.json")
def ablation(rows):
    yield *_MARKS, "T = 2", "T = 4", "paper, CIFAR-10, T = 2", "T = 4"
    found = {(row["cell"], row["steps"]): row["accuracy"] for row in rows}
    for cell, (on, paper) in _CELLS.items():
        yield (
            *("yes" if mark in on else "" for mark in _MARKS),
            *(percent(found[cell, t], 1) for t in (2, 4)),
            *(f"{p} %" if p else "" for p in paper or ("", "")),
        )


@table("robustness", "robustness.json")
def robustness(rows):
    networks = list(rows[0]["accuracy"])
    heads = (n if n == "ANN" else f"T = {n}" for n in networks)
    yield "images", *heads
    for row in sorted(rows, key=_place):
        yield _said(row), *(percent(row["accuracy"][n], 1) for n in networks)


def _place(row):
    steps = int(row["network"]) if row["network"].isdigit() else 0
    kinds = ("clean", "noise", "fgsm", "pgd")
    return kinds.index(row["kind"]), steps, row["size"]


def _said(row) -> str:
    if row["kind"] == "clean":
        return "clean"
    if row["kind"] == "noise":
        return f"noise, σ = {percent(row['size'], 0)}"
    by = row["network"] if row["network"] == "ANN" else f"SNN, T = {row['network']}"
    return f"{row['kind'].upper()} on the {by}, ε = {row['size']}/255"
