"""What the trained networks would cost in hardware, beside ANNs that do the same.

    python experiments/energy.py [--images 1000] [--networks NAME ...]

Counts the operations of the networks in integers at T = 4 on the first test images, and
prices them: `bitsnn_jax.integers.energy` says what is assumed. A rate coded QCFS
network of the same weights is simulated for its spikes. Writes docs/results/energy.json
and draws two pictures: energy beside the rivals', and by kind of operation, as the
paper's Figure 5(a) has it.
"""

import operator
from functools import reduce
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from bitsnn_jax import data
from bitsnn_jax.comparators import METHODS, simulate
from bitsnn_jax.integers.energy import (
    bit_serial_ann,
    break_even,
    dense_ann,
    energy,
    float_ann,
    in_float,
    profile,
    rate_snn,
    skipping_ann,
)
from bitsnn_jax.integers.execution import one_shot
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.integers.operations import Operations, count, term_paths
from bitsnn_jax.jobs.integers import BATCH, lower_pixels
from bitsnn_jax.reports import plots
from bitsnn_jax.runs.loading import load_ann
from bitsnn_jax.runs.provenance import store_numbers
from bitsnn_jax.runtime.cli import STEPS as MOST_STEPS
from bitsnn_jax.runtime.cli import Distinct, Parser, a_path, as_script, filled, whole

NETWORKS = (
    "resnet20_fashion_mnist",
    "resnet20_fashion_mnist_sparse",
    "resnet20_fashion_mnist_sparse_tuned",
    "vgg_fashion_mnist",
)
PROFILES = ("paper_8", "mixed", "weight_stationary", "sram_8k", "dram")
RIVALS = {
    "ANN, float32": float_ann,
    "ANN, 4 bits": dense_ann,
    "ANN, 4 bits, zeros skipped": skipping_ann,
    "bit-serial ANN": bit_serial_ann,
}
RATE = "QCFS rate SNN"
NUMBERS = Path("docs/results/energy.json")
PICTURE = Path("docs/images/energy.png")
KINDS_PICTURE = Path("docs/images/energy_by_operation.png")
STEPS = 4
# What the spiking network does besides reading and writing memory.
KINDS = {
    "synaptic additions": "synaptic_operations",
    "first layer, multiply-adds": "multiply_accumulates",
    "bias additions": "bias_additions",
    "shifts": "shifts",
    "comparisons": "compares",
    "resets": "resets",
}


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "--networks",
        nargs="+",
        type=filled,
        action=Distinct,
        default=NETWORKS,
        metavar="NAME",
    )
    parser.add_argument("--images", type=whole(1), default=1000)
    parser.add_argument(
        "--rate_steps", type=whole(1, MOST_STEPS), default=32, help="T of that network"
    )
    parser.add_argument("--out", type=a_path, default=NUMBERS, help="the JSON file")
    options = parser.parse_args()
    rows = [row(name, options.images, options.rate_steps) for name in options.networks]
    store_numbers(options.out, rows, config=", ".join(options.networks), seed=None)
    draw(rows)
    draw_kinds(rows)


def row(name: str, images: int, rate_steps: int) -> dict:
    """Counts of a network, and its energy and that of its rivals, for each profile."""
    operations = counted(name, images)
    images = operations.examples  # the split may have fewer
    accuracy, spikes = rate_coded(name, images, rate_steps)
    rate = rate_snn(operations, steps=rate_steps, spikes_per_neuron=spikes)
    priced = {}
    for chosen in map(profile, PROFILES):
        snn = energy(operations, chosen)
        found = {"SNN": {"compute": snn.compute, "memory": snn.memory}}
        for rival, make in RIVALS.items():
            prices = in_float(chosen) if make is float_ann else chosen
            other = energy(make(operations), prices)
            found[rival] = {"compute": other.compute, "memory": other.memory}
        other = energy(rate, chosen)
        found[RATE] = {"compute": other.compute, "memory": other.memory}
        even = break_even(operations, skipping_ann(operations), chosen)
        priced[chosen.name] = {
            "joules": found,
            "by_kind": {title: snn.of(kind) for title, kind in KINDS.items()},
            "break_even": even.spikes_per_neuron,
        }
    return {
        "network": name,
        "images": images,
        "steps": STEPS,
        "spikes_per_neuron": operations.spikes_per_neuron,
        "nonzero": operations.nonzero_fraction,
        "synaptic_operations": operations.total("synaptic_operations") / images,
        "rate": {
            "steps": rate_steps,
            "accuracy": accuracy,
            "spikes_per_neuron": spikes,
        },
        "profiles": priced,
    }


def rate_coded(name: str, images: int, steps: int) -> tuple[float, float]:
    """Accuracy, and spikes per neuron, of the QCFS rate network."""
    apply_fn, run = load_ann(name)
    test = data.load(run.config.data, "test").first(images)
    neuron = METHODS["qcfs"].neuron(steps)
    simulate_fn = jax.jit(simulate(apply_fn, neuron, steps=steps))
    right, spikes = 0, 0.0
    size = max(n for n in range(1, 51) if images % n == 0)  # no padding to be counted
    for batch in data.eval_batches(run.config.data, test, batch_size=size):
        normalised = data.normalise(batch["image"], test)
        found = simulate_fn(run.variables, normalised)
        right += int(np.sum(np.argmax(found.outputs[-1], -1) == batch["label"]))
        spikes += sum(float(s.sum()) for s in found.spikes.values())
    lowered = fixed_point(lower_pixels(apply_fn, run.variables, test), steps=STEPS)
    neurons = sum(int(np.prod(n.shape)) for n in lowered.of_kind("neurons"))
    return right / images, spikes / (neurons * images)


def counted(name: str, images: int, *, coding: str = "bits") -> Operations:
    apply_fn, run = load_ann(name)
    test = data.load(run.config.data, "test").first(images)
    network = fixed_point(lower_pixels(apply_fn, run.variables, test), steps=STEPS)
    paths, once = term_paths(network), jax.jit(one_shot(network))
    parts = []
    for batch in data.eval_batches(run.config.data, test, batch_size=BATCH):
        kept = batch["mask"]
        found = once(batch["image"]).codes
        codes: dict[str, Any] = {n: np.asarray(c)[kept] for n, c in found.items()}
        options = {"examples": int(kept.sum()), "paths": paths, "coding": coding}
        parts.append(count(network, codes, **options))
    return reduce(operator.add, parts)


@plots.styled
def draw(rows: list[dict]) -> None:
    figure = Figure(figsize=(7, 2.8), layout="constrained")
    axes = figure.subplots(1, 2)
    kinds = ["SNN", *list(RIVALS)[1:]]
    for ax, name in zip(axes, ("mixed", "sram_8k"), strict=True):
        for i, kind in enumerate(kinds):
            parts = [r["profiles"][name]["joules"][kind] for r in rows]
            places = [j + 0.2 * (i - 1.5) for j in range(len(rows))]
            total = [1e6 * sum(p.values()) for p in parts]
            ax.bar(places, total, 0.18, color=plots.plane_colours(len(kinds))[i])
        _name(ax, rows)
        ax.set(title=f"Profile {name}", ylabel="µJ an image")
    figure.legend(kinds, loc="outside upper center", ncols=len(kinds), fontsize="small")
    PICTURE.write_bytes(plots.png(figure))
    print(PICTURE)


@plots.styled
def draw_kinds(rows: list[dict]) -> None:
    """Shares of the energy without memory, and those of the shifts as numbers."""
    figure = Figure(figsize=(7, 2.8), layout="constrained")
    colours = plots.plane_colours(len(KINDS))
    for ax, name in zip(figure.subplots(1, 2), ("paper_8", "mixed"), strict=True):
        joules = [r["profiles"][name]["by_kind"] for r in rows]
        under = np.zeros(len(rows))
        for colour, kind in zip(colours, KINDS, strict=True):
            share = np.array([j[kind] / sum(j.values()) for j in joules])
            ax.bar(range(len(rows)), share, 0.6, under, color=colour, label=kind)
            if kind == "shifts":
                for place, (part, low) in enumerate(zip(share, under, strict=True)):
                    ax.annotate(f"{part:.1%}", (place + 0.31, low + part / 2))
            under += share
        _name(ax, rows)
        ax.set(title=f"Profile {name}", ylabel="share of compute energy", ylim=(0, 1))
        ax.set_xlim(-0.5, len(rows))
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3)
    KINDS_PICTURE.write_bytes(plots.png(figure))
    print(KINDS_PICTURE)


def _name(ax: Any, rows: list[dict]) -> None:
    names = (r["network"].replace("_fashion_mnist", "") for r in rows)
    ax.set_xticks(range(len(rows)), [name.replace("_", "\n") for name in names])


if __name__ == "__main__":
    as_script(main)
