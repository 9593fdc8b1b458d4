"""The paper's own networks, and what runs of them gave, where somebody ran them."""

from pages import table
from trained import percent

_STEPS = ("2", "4", "6", "8", "16", "32")
# (table, config): the ANN, then the SNN at each T, in %.
_PAPER = {
    ("1", "vgg16_cifar10"): (95.82, 94.21, 95.82, 95.79, 95.82, 95.84, 95.81),
    ("1", "resnet18_cifar10"): (96.68, 96.12, 96.68, 96.65, 96.67, 96.73, 96.70),
    ("1", "resnet20_cifar10"): (93.60, 86.90, 93.60, 93.57, 93.66, 93.75, 93.82),
    ("2", "resnet34_imagenet"): (75.12, 54.27, 75.12, 75.00, 75.02, 75.10, 75.14),
    ("2", "mobilenetv2_imagenet"): (69.02, 22.62, 68.81, 68.89, 68.98, 69.02, 69.01),
    ("9", "vgg16_cifar100"): (76.71, 72.39, 76.71, 76.74, 76.70, 76.78, 76.82),
    ("9", "resnet20_cifar100"): (70.30, 63.80, 70.30, 70.33, 70.45, 70.49, 70.52),
    ("10", "resnet18_cifar100"): (None, None, 79.89, None, None, None, None),
    ("12", "resnet20_cifar10_from_relu"): (None, None, 93.51, None, None, None, None),
}


@table("published", "paper_rows.json")
def published(rows):
    yield "table", "config", "from", "ANN", *(f"T = {t}" for t in _STEPS)
    found = {row["config"]: row for row in rows}
    for (number, config), (ann, *steps) in _PAPER.items():
        cells = ("–" if each is None else f"{each:.2f} %" for each in (ann, *steps))
        yield f"Table {number}", f"`{config}`", "the paper", *cells
        if config in found:
            ours = found[config]
            cells = (ours["steps"].get(t) for t in _STEPS)
            shown = ("–" if each is None else percent(each) for each in cells)
            yield "", "", "here", percent(ours["ann"]), *shown
