"""Clipping, quantisation and unevenness, layer by layer: the paper's Fig. 2 and 3.

    python experiments/decomposition.py [--ckpt NAME] [--steps T ...] [--limit N]

The rate network of QCFS and this paper's, in float64 on the test split; docs/errors.md
has the definitions. Each row is written to docs/results/decomposition.json as soon as
it is there, and none is computed twice. Draws
docs/images/decomposition.png of the network and the images that were asked for.
"""

import time
from collections import OrderedDict
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bitsnn_jax import data
from bitsnn_jax.comparators.ablation import CELLS, first_and_biases
from bitsnn_jax.comparators.decomposition import Errors, decomposed
from bitsnn_jax.reports import plots
from bitsnn_jax.runs.loading import load_ann
from bitsnn_jax.runs.provenance import about_numbers
from bitsnn_jax.runtime.cli import STEPS as MOST_STEPS
from bitsnn_jax.runtime.cli import Distinct, Parser, a_path, as_script, filled, whole
from bitsnn_jax.runtime.rows import Rows

NUMBERS = Path("docs/results/decomposition.json")
PICTURE = Path("docs/images/decomposition.png")
BATCH = 50
KEYS = ("network", "cell", "steps", "images")
TITLES = {"none": "QCFS rate SNN", "all": "bit-serial SNN"}
PARTS = ("clipping", "quantisation", "unevenness")
BY_LAYER = 4  # the T of the picture's last panel


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "--ckpt", type=filled, default="resnet20_fashion_mnist", metavar="NAME"
    )
    parser.add_argument(
        "--steps",
        nargs="+",
        type=whole(1, MOST_STEPS),
        action=Distinct,
        default=(1, 2, 4, 8, 16),
        metavar="T",
    )
    parser.add_argument(
        "--limit", type=whole(1), metavar="N", help="first N test images"
    )
    parser.add_argument("--out", type=a_path, default=NUMBERS, help="the JSON file")
    parser.add_argument("--picture", type=a_path, default=PICTURE, help="the PNG file")
    options = parser.parse_args()
    rows = Rows(options.out, KEYS)
    apply_fn, run = load_ann(options.ckpt)
    test = data.load(run.config.data, "test").first(options.limit)
    with jax.enable_x64(True):
        variables = jax.tree.map(lambda a: np.asarray(a, np.float64), run.variables)
        for steps in options.steps:
            for name in TITLES:
                values = (options.ckpt, name, steps, len(test))
                row = dict(zip(KEYS, values, strict=True))
                if rows.known(row):
                    continue
                start = time.perf_counter()
                found = measure(apply_fn, variables, row, run.config.data, test)
                seconds = round(time.perf_counter() - start, 1)
                about = about_numbers(config=options.ckpt, seed=None)
                rows.add({**row, **found, "seconds": seconds, "about": about})
                print(summary(rows[-1]), flush=True)
    chosen = [
        r for r in rows if (r["network"], r["images"]) == (options.ckpt, len(test))
    ]
    draw(chosen, options.picture)


def measure(apply_fn, variables, row, settings, test) -> dict:
    """Means over images and neurons, by layer and over the whole network.

    Everything in units of theta; squares in its square.
    """
    cell, steps = CELLS[row["cell"]], row["steps"]
    example = np.zeros((1, *test.image_shape), np.float64)
    biases = first_and_biases(apply_fn, variables, example)
    errors_of = decomposed(apply_fn, cell, steps=steps, found=biases)

    @jax.jit
    def step(image, label, mask):
        logits, errors = errors_of(variables, image)
        # A plain dict would leave jit sorted by name, not in the order of firing.
        sums = OrderedDict((p, _sums(part, mask)) for p, part in errors.items())
        return ((logits.argmax(-1) == label) & mask).sum(), sums

    right, totals, largest = 0, {}, 0.0
    batch_size = min(BATCH, len(test))
    for batch in data.eval_batches(settings, test, batch_size=batch_size):
        image = data.normalise(batch["image"], test).astype(np.float64)
        r, found = step(image, batch["label"], jnp.asarray(batch["mask"]))
        right += int(r)
        for path, (neurons, absolute, square, apart) in found.items():
            sums = np.array([*absolute, *square])
            before = totals.get(path, (0, 0.0))
            totals[path] = (int(neurons), before[1] + sums)
            largest = max(largest, float(apart))
    images = len(test)
    layers = {path: _means(s / (n * images), n) for path, (n, s) in totals.items()}
    neurons = sum(n for n, _ in totals.values())
    whole = sum(s for _, s in totals.values()) / (neurons * images)
    return {
        "accuracy": right / images,
        "sum_of_parts_minus_total": largest,
        "network_errors": _means(whole, neurons),
        "layers": [{"path": path, **means} for path, means in layers.items()],
    }


def _sums(part: Errors, mask):
    kept = mask.reshape(-1, *(1,) * (part.total.ndim - 1))
    errors = [jnp.where(kept, e, 0) for e in part]
    apart = jnp.abs(sum(errors[:3]) - errors[3]).max()
    absolute = [jnp.abs(e).sum() for e in errors]
    square = [(e**2).sum() for e in errors]
    return part.total[0].size, absolute, square, apart


def _means(values, neurons: int) -> dict:
    names = Errors._fields
    return {
        "neurons": neurons,
        "absolute": dict(zip(names, map(float, values[:4]), strict=True)),
        "square": dict(zip(names, map(float, values[4:]), strict=True)),
    }


def summary(row: dict) -> str:
    errors = row["network_errors"]["absolute"]
    parts = ", ".join(f"{name} {value:.3g}" for name, value in errors.items())
    return (
        f"{TITLES[row['cell']]}, T = {row['steps']}: {parts}; accuracy "
        f"{row['accuracy']:.2%}; parts add up to {row['sum_of_parts_minus_total']:.1e}"
    )


@plots.styled
def draw(rows: list[dict], picture: Path) -> None:
    """Each part against T, of both networks, and by layer at one T."""
    figure = Figure(figsize=(9.2, 3.1), layout="constrained")
    *by_steps, by_layer = figure.subplots(1, 3, width_ratios=(1, 1, 1.35))
    by_steps[1].sharey(by_steps[0])
    steps = sorted({r["steps"] for r in rows})
    for ax, (cell, title) in zip(by_steps, TITLES.items(), strict=True):
        found = {r["steps"]: r["network_errors"] for r in rows if r["cell"] == cell}
        for i, part in enumerate(PARTS):
            at = [steps.index(t) for t in sorted(found)]
            values = [100 * found[t]["absolute"][part] for t in sorted(found)]
            style = {"color": plots.CURVES[i], "label": part}
            ax.plot(at, values, marker="os^"[i], markersize=4, **style)
        ax.set_xticks(range(len(steps)), [str(t) for t in steps])
        ax.set(title=title, xlabel="time steps T")
        _rule(ax)
    by_steps[0].set_ylabel("mean |error|, % of θ")
    shown = BY_LAYER if BY_LAYER in steps else steps[-1]
    for cell, line in (("none", "-"), ("all", (0, (2, 1.5)))):
        for row in rows:
            if (row["cell"], row["steps"]) == (cell, shown):
                for i, part in enumerate(PARTS):
                    values = [100 * x["absolute"][part] for x in row["layers"]]
                    places = range(1, len(values) + 1)
                    style = {"color": plots.CURVES[i], "linestyle": line}
                    by_layer.plot(places, values, marker="os^"[i], ms=2.5, **style)
    by_layer.xaxis.set_major_locator(MaxNLocator(integer=True))
    by_layer.set(
        title=f"By layer, T = {shown}: rate solid, bit-serial dashed", xlabel="layer"
    )
    _rule(by_layer)
    handles, labels = by_steps[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(PARTS))
    picture.parent.mkdir(exist_ok=True, parents=True)
    picture.write_bytes(plots.png(figure))
    print(picture)


def _rule(ax):
    ax.grid(axis="y", color=plots.RULE, linewidth=0.6)
    ax.spines.left.set_visible(False)


if __name__ == "__main__":
    as_script(main)
