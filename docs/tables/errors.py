"""Tables of docs/errors.md and docs/robustness.md."""

from itertools import zip_longest

from claims import RESNET, VGG, at, grouped
from pages import table
from surveys import spread
from trained import percent

# Levels -> the network of docs/errors.md that was trained with so many.
TRAINED_WITH = {8: f"runs/{RESNET}_l8", 15: RESNET, 16: f"runs/{RESNET}_l16"}
_TITLES = {"none": "QCFS rate SNN", "all": "bit-serial SNN"}
# Of docs/errors.md: what is on in each cell.
_CELLS = {
    "none": (),
    "modified_if": ("modified IF",),
    "left_shift": ("left shift",),
    "left_shift_bn": ("left shift", "BN shift"),
    "all": ("left shift", "BN shift", "modified IF"),
    "left_shift_modified_if": ("left shift", "modified IF"),
    "norm_first": ("left shift", "norm first"),
    "norm_first_modified_if": ("left shift", "modified IF", "norm first"),
}
# The paper's Table 4 at T = 2 and 4, on CIFAR-10, in the order of the first five cells.
_PAPER = {
    RESNET: ("71.42 83.91", "76.21 90.18", "76.10 91.22", "79.86 91.81", "86.92 93.60"),
    VGG: ("91.08 93.82", "92.42 94.80", "93.03 95.12", "93.33 95.23", "94.21 95.82"),
}
_MARKS = ("left shift", "BN shift", "modified IF", "norm first")


@table("decomposition", "decomposition.json", network=RESNET)
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


@table("decomposition_levels", "decomposition.json", cell="none")
def decomposition_levels(rows):
    steps = (2, 4, 8, 16)
    parts = ("quantisation", "unevenness")
    yield "trained with L", *(f"{part}, T = {t}" for part in parts for t in steps)
    for levels, network in TRAINED_WITH.items():
        found = {r["steps"]: r for r in rows if r["network"] == network}
        errors = [found[t]["network_errors"]["absolute"] for t in steps]
        yield str(levels), *(f"{100 * e[p]:.3g} %" for p in parts for e in errors)


@table("ablation", "ablation.json", network=RESNET)
def ablation(rows):
    yield from _ablation(rows, RESNET)


@table("ablation_vgg", "ablation.json", network=VGG)
def ablation_vgg(rows):
    yield from _ablation(rows, VGG)


def _ablation(rows, network):
    rows = on_most_images(rows)
    steps = sorted({row["steps"] for row in rows})
    yield *_MARKS, *(f"T = {t}" for t in steps), "paper, CIFAR-10, T = 2", "T = 4"
    published = zip_longest(_CELLS.items(), _PAPER[network], fillvalue="")
    for (cell, on), paper in published:
        yield (
            *("yes" if mark in on else "" for mark in _MARKS),
            *(percent(at(rows, cell=cell, steps=t)["accuracy"], 1) for t in steps),
            *(f"{p} %" if p else "" for p in paper.split() or ("", "")),
        )


@table("robustness", "robustness.json")
def robustness(rows):
    networks = list(rows[0]["accuracy"])
    heads = (n if n == "ANN" else f"T = {n}" for n in networks)
    yield "images", "how many", "seeds", *heads
    for found in by_seed(rows):
        shares = ([row["accuracy"][n] for row in found] for n in networks)
        yield (
            _said(found[0]),
            f"{found[0]['images']:,}",
            str(len(found)),
            *(f"{spread([100 * s for s in each], '.1f')} %" for each in shares),
        )


def on_most_images(rows):
    """Keep the rows with the largest number of images."""
    most = max(row["images"] for row in rows)
    return [row for row in rows if row["images"] == most]


def by_seed(rows):
    """Lists of rows that differ by seed alone, each on as many images as there are."""
    groups = grouped(rows, "kind", "network", "size").values()
    for found in sorted(groups, key=lambda found: _place(found[0])):
        yield on_most_images(found)


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
