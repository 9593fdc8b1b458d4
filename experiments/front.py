"""Accuracy against synaptic operations: fewer spikes a code, and smaller codes.

    python experiments/front.py [--limit 1000]
    python experiments/front.py --draw

Fine-tunes two networks of the package on Fashion-MNIST, ResNet-20 and VGG, with larger
weights of the loss on bits, or with a target for it; each synapse counts. Then
compare.py sends the codes of these networks, and of those that come with the package,
in three ways: as bits, as signed digits at T = 5, and each as one spike whose time says
what it is, at T = 15 (`ttfs`). At T = 4 of bits the codes are the same, and so is the
accuracy. Bits are also sent at other T, for the paper's Figures 6 and 7.

Runs lie in runs/front and are not trained twice. Rows are added to
docs/results/front.json; what is there is not computed again. `--list` prints the
commands that train, and does nothing else. `--draw` only draws docs/images/front.png:
these rows, those of compare.csv, those of direct.json for networks that are trained
through time, and those of binary.json for networks of signs. These have no spikes, so
they are in the panel of energy, by the profile `mixed`.
"""

import csv
import itertools
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bitsnn_jax.reports import plots
from bitsnn_jax.reports.comparison_axes import log_axis
from bitsnn_jax.reports.comparison_plots import OURS, front, name_points
from bitsnn_jax.runs.pretrained import names
from bitsnn_jax.runs.provenance import about_numbers
from bitsnn_jax.runtime.cli import Parser, a_path, as_script, whole
from bitsnn_jax.runtime.reading import read_json
from bitsnn_jax.runtime.rows import Rows

RUNS = Path("runs/front")
RESULTS = Path("docs/results")
NUMBERS = RESULTS / "front.json"
PICTURE = Path("docs/images/front.png")
STEPS = {"bit_serial": (2, 3, 4, 6, 8), "signed_digits": (5,), "ttfs": (15,)}
NATIVE = 4
COLUMNS = ("accuracy", "agreement", "spikes_per_neuron", "synaptic_operations")
LOSS = {"spike_surrogate": "difference", "spike_weights": "fan_out"}
SETTINGS = {"learning_rate": 0.02, "epochs": 8}


class Tuned(NamedTuple):
    """A network that is fine-tuned: its config, where it starts, lambda, target."""

    model: str
    start: str
    weight: float
    target: float = 0.0

    @property
    def folder(self) -> Path:
        model = self.model.removesuffix("_fashion_mnist")
        target = f"_{self.target:g}" if self.target else ""
        return RUNS / f"{model}_{self.weight:g}{target}"


RESNET, VGG = "resnet20_fashion_mnist", "vgg_fashion_mnist"
TUNED = (
    *(Tuned(RESNET, f"{RESNET}_sparse_tuned", weight) for weight in (2.56e-6, 5.12e-6)),
    Tuned(RESNET, f"{RESNET}_sparse_tuned", 2.56e-5, 0.15),
    *(Tuned(VGG, VGG, weight) for weight in (1.28e-6, 6.4e-6, 3.2e-5)),
)


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--limit", type=whole(1, 10**9), help="of images")
    parser.add_argument("--out", type=a_path, default=NUMBERS, help="the JSON file")
    parser.add_argument("--trained", action="store_true", help="train no more")
    parser.add_argument("--list", action="store_true", help="print commands, no more")
    parser.add_argument("--draw", action="store_true", help="draw, no more")
    options = parser.parse_args()
    if options.list:
        for each in TUNED:
            print(*training(each))
        return
    if not options.draw:
        rows = Rows(options.out, ("network", "method", "steps"))
        measure(rows, options.limit, train=not options.trained)
    draw(options.out)


def training(each: Tuned) -> list[str]:
    """Give the command that fine-tunes a network."""
    fields = {
        "name": each.folder.name,
        "start_from": each.start,
        **{f"optimizer.{k}": v for k, v in SETTINGS.items()},
        **{f"loss.{k}": v for k, v in LOSS.items()},
        "loss.spike_lambda": each.weight,
        "loss.spike_target": each.target,
    }
    options = [f"--config.{field}={value}" for field, value in fields.items()]
    config = f"configs/{each.model}.py"
    return ["train.py", "--config", config, "--workdir", str(each.folder), *options]


def measure(rows: Rows, limit: int | None, *, train: bool) -> None:
    for network in networks(train=train):
        for method, steps in STEPS.items():
            key = {"network": network, "method": method}
            missing = [t for t in steps if not rows.known(key | {"steps": t})]
            for row in measured(network, method, missing, limit) if missing else ():
                rows.add(row)
                print(row, flush=True)


def networks(*, train: bool) -> Iterator[str]:
    """Name those of the package, and those that are fine-tuned or shall be."""
    yield from (n for n in names() if not n.endswith(("_relu", "_clipped")))
    for each in TUNED:
        if train and not (each.folder / "result.json").exists():
            subprocess.run([sys.executable, *training(each)], check=True)
        if (each.folder / "result.json").exists():
            yield str(each.folder)


def measured(
    network: str, method: str, steps: list[int], limit: int | None
) -> list[dict[str, Any]]:
    """Send a network's codes by one method."""
    out = RUNS / "compared" / f"{Path(network).name}_{method}"
    command = ["compare.py", "--ckpt", network, "--out", str(out)]
    command += ["--methods", method, "--steps", *map(str, steps)]
    command += ["--limit", str(limit)] if limit else []
    subprocess.run([sys.executable, *command], check=True)
    found = read_json(out / "compare.json", advice="remove it to measure again")
    about = about_numbers(config=network, seed=None)
    return [
        {
            "network": network,
            "method": method,
            "steps": row["steps"],
            "images": found["examples"],
            **{column: row[column] for column in COLUMNS},
            "about": about,
        }
        for row in found["rows"]
        if row["steps"] in steps
    ]


class Point(NamedTuple):
    """A network in the picture; cost is synaptic operations, or nJ, an image."""

    name: str
    family: str
    cost: float
    accuracy: float


OURS_ALL, CONVERTED = "bits (ours)", "other ways to convert"
THROUGH_TIME = "trained through time"
ONE_SPIKE = "our networks, one spike a code"
BINARY = "binary networks"
FAMILIES: dict[str, dict[str, Any]] = {
    OURS_ALL: {"color": OURS, "marker": "*", "s": 95, "zorder": 4},
    CONVERTED: {"color": "#0072b2", "marker": "o", "s": 22},
    ONE_SPIKE: {"color": "#009e73", "marker": "s", "s": 26},
    THROUGH_TIME: {"color": "#cc79a7", "marker": "D", "s": 22},
    BINARY: {"color": "#56b4e9", "marker": "^", "s": 30},
}


def of_resnet20(own: list[dict[str, Any]]) -> Iterator[Point]:
    groups = defaultdict(list)
    with (RESULTS / "compare.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            groups[row["method"], int(row["steps"])].append(row)
    for (method, steps), found in groups.items():
        if method == "bit_serial" and steps > NATIVE:
            continue  # the same accuracy, and more spikes
        family = OURS_ALL if method == "bit_serial" else CONVERTED
        operations, accuracy = (
            statistics.fmean(float(row[column]) for row in found)
            for column in ("synaptic_operations", "accuracy")
        )
        yield Point(f"{method}, T = {steps}", family, operations, accuracy)
    for row in own:
        name = Path(row["network"]).name
        ours = row["method"] == "bit_serial"
        shown = row["steps"] == NATIVE if ours else row["method"] == "ttfs"
        if not (name.startswith("resnet20") and shown):
            continue
        tuned = name.removeprefix("resnet20_").removeprefix("fashion_mnist").strip("_")
        weight = f", λ = {tuned}" if tuned[:1].isdigit() else f", {tuned}"
        yield Point(
            f"{row['method']}, T = {row['steps']}{weight}".rstrip(", "),
            OURS_ALL if ours else ONE_SPIKE,
            row["synaptic_operations"],
            row["accuracy"],
        )


def of_small(direct: list[dict[str, Any]], cost: str) -> Iterator[Point]:
    families = {
        **dict.fromkeys(("bit_serial", "qcfs_longer"), OURS_ALL),
        **dict.fromkeys(("qcfs", "srp", "bos"), CONVERTED),
    }
    groups = defaultdict(list)
    for row in direct:
        if row["network"] == "small":
            groups[row["method"]].append(row)
    for method, found in groups.items():
        x, y = (
            statistics.fmean(row[key] for row in found) for key in (cost, "accuracy")
        )
        family = families.get(method, THROUGH_TIME)
        yield Point(method.removeprefix("direct_"), family, x, y)


def of_signs(binary: list[dict[str, Any]]) -> Iterator[Point]:
    for row in binary:
        if row["method"] != "qcfs":
            nanojoules = 1e9 * row["joules"]["mixed"]
            yield Point(row["method"], BINARY, nanojoules, row["accuracy"])


@plots.styled
def draw(numbers: Path) -> None:
    """Draw what is known, a panel a network; fronts are named."""
    own = read_json(numbers, kind=list, advice="remove it")
    direct = read_json(RESULTS / "direct.json", kind=list, advice="remove it")
    binary = read_json(RESULTS / "binary.json", kind=list, advice="remove it")
    figure = Figure(figsize=(14.4, 4.6), layout="constrained")
    axes = figure.subplots(1, 3)
    operations, energy = "synaptic operations an image", "nJ an image, profile mixed"
    small = "small, 5 epochs"
    for ax, title, points, least, cost in (
        (axes[0], "ResNet-20", of_resnet20(own), 0.9, operations),
        (axes[1], small, of_small(direct, "synaptic_operations"), 0.86, operations),
        (
            *(axes[2], small),
            itertools.chain(of_small(direct, "nanojoules"), of_signs(binary)),
            *(0.86, energy),
        ),
    ):
        panel(ax, [p for p in points if p.accuracy >= least])
        ax.set_xlabel(cost)
        ax.set_title(f"Accuracy, {title} (above {least:.0%})".replace("%", " %"))
    found = [ax.get_legend_handles_labels() for ax in axes]
    by_label = {
        label: handle for each in found for handle, label in zip(*each, strict=True)
    }
    figure.legend(
        by_label.values(), by_label.keys(), loc="outside lower center", ncols=5
    )
    PICTURE.write_bytes(plots.png(figure))
    print(PICTURE)


def panel(ax: Axes, points: list[Point]) -> None:
    best = front([p.cost for p in points], [p.accuracy for p in points])
    named = sorted(
        (p for p, kept in zip(points, best, strict=True) if kept),
        key=lambda p: p.cost,
    )
    xs, ys = [p.cost for p in named], [p.accuracy for p in named]
    ax.step(xs, ys, where="post", color=plots.MUTED, linewidth=0.8, zorder=1)
    for family, look in FAMILIES.items():
        some = [p for p in points if p.family == family]
        if some:
            xs, ys = [p.cost for p in some], [p.accuracy for p in some]
            ax.scatter(xs, ys, label=family, **look)
    log_axis(ax, [p.cost for p in points], room=0.5)
    ax.yaxis.set_major_formatter(plots.PercentFormatter(1, 0))
    low, high = (f([p.accuracy for p in points]) for f in (min, max))
    ax.set_ylim(low - 0.05 * (high - low), high + 0.25 * (high - low))
    places = [((p.cost, p.accuracy), p.name, p.family == OURS_ALL) for p in named]
    name_points(ax, places)


if __name__ == "__main__":
    as_script(main)
