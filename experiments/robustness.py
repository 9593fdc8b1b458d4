"""Noise and adversarial images: the ANN against its spiking networks (A.12, Table 14).

    python experiments/robustness.py --ckpt resnet20_fashion_mnist --limit 500

Test images with Gaussian noise (sigma 5, 10, 20 % of the pixel range, one draw for
each seed), and adversarial ones within epsilon = 2/255 and 8/255 of the clean ones, by
the gradient of the ANN: FGSM, and PGD of 20 iterations, each of epsilon / 4, from a
random point. PGD also by the gradient of the spiking network itself, for each T of
--attacked. Every kind of image is shown to the ANN and to the spiking network at each
of --steps, read in one pass ("fused": the same codes).

docs/results/robustness.json has a row for each kind of image, written as soon as it is
there. What it has is not computed again: a run that was stopped goes on. With --check,
docs/results/robustness_check.json has what simulating every spike changes.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from bitsnn_jax import data
from bitsnn_jax.conversion.spiking import spiking
from bitsnn_jax.jobs import robustness
from bitsnn_jax.runs.checkpoint import Run
from bitsnn_jax.runs.loading import load_ann
from bitsnn_jax.runs.provenance import about_numbers, store_numbers
from bitsnn_jax.runtime.cli import (
    SEEDS,
    Distinct,
    Parser,
    a_path,
    as_script,
    filled,
    whole,
    with_huge_pages,
)
from bitsnn_jax.runtime.rows import Rows
from bitsnn_jax.tracing.program import ApplyFn

NUMBERS = Path("docs/results/robustness.json")
CHECKED = Path("docs/results/robustness_check.json")
SIGMAS = (0.05, 0.1, 0.2)
LEVELS = (2, 8)  # epsilon, in 255ths of the pixel range
ITERATIONS = 20
STEPS = (1, 2, 3, 4, 6, 8)
BATCH = 100
ANN = "ANN"
KINDS = ("clean", "noise", "fgsm", "pgd")
# What makes a row another one. `network` is what was attacked: ANN, or the T of an SNN.
KEYS = ("ckpt", "images", "kind", "network", "size", "seed")


class Batch(NamedTuple):
    """Pixels 0..1 [n, h, w, c], labels, and which rows are examples."""

    pixels: np.ndarray
    labels: np.ndarray
    mask: np.ndarray


class Kind(NamedTuple):
    """How images are changed. `size`: sigma, or epsilon in 255ths."""

    kind: str
    network: str = ""
    size: float = 0
    seed: int = 0


def main() -> None:
    parser = Parser(__doc__)
    add = parser.add_argument
    add(
        "--ckpt",
        type=filled,
        default="resnet20_fashion_mnist",
        help="a run folder, or a name",
    )
    add(
        "--steps",
        type=whole(1, 24),
        action=Distinct,
        nargs="+",
        default=STEPS,
        help="T of the SNNs",
    )
    add(
        "--attacked",
        type=whole(1, 24),
        action=Distinct,
        nargs="*",
        help="T to attack; default: --steps",
    )
    add("--limit", type=whole(1), metavar="N", help="first N test images")
    add("--kinds", nargs="+", action=Distinct, choices=KINDS, default=KINDS)
    add(
        "--seeds",
        type=whole(0, SEEDS),
        action=Distinct,
        nargs="+",
        default=[0],
        help="of noise and of PGD's start",
    )
    add(
        "--check",
        type=whole(0),
        default=0,
        metavar="N",
        help="compare stepped on N images",
    )
    add("--out", type=a_path, default=NUMBERS, help="the JSON file")
    options = parser.parse_args()
    rows = Rows(options.out, KEYS)
    apply_fn, run = load_ann(options.ckpt)
    test = data.load(run.config.data, "test").first(options.limit)
    networks = readings(
        apply_fn, run, test, {*options.steps, *(options.attacked or [])}
    )
    shown = [ANN, *map(str, options.steps)]
    attacked = options.steps if options.attacked is None else options.attacked
    kinds = wanted(options.seeds, attacked)
    for kind in (each for each in kinds if each.kind in options.kinds):
        row = {"ckpt": options.ckpt, "images": len(test), **kind._asdict()}
        begun: dict[str, Any] = row | {"accuracy": {}, "seconds": 0.0}
        known = next((r for r in rows if rows.key(r) == rows.key(row)), begun)
        missing = [name for name in shown if name not in known["accuracy"]]
        if not missing:
            continue
        start = time.perf_counter()
        images = [changed(kind, networks, b, i) for i, b in batches(run, test)]
        known["accuracy"] |= {n: accuracy(networks[n], images) for n in missing}
        known["seconds"] += round(time.perf_counter() - start, 1)
        known["about"] = about_numbers(config=options.ckpt, seed=kind.seed)
        if known is begun:
            rows.add(known)
        else:
            rows.save()
        print(known, flush=True)
    if options.check:
        few = test.first(options.check)
        found = check(apply_fn, run, few, networks, options.steps)
        store_numbers(CHECKED, found, config=options.ckpt, seed=0)


def wanted(seeds: list[int], attacked: list[int]) -> Iterator[Kind]:
    """Cheapest first, and what the table of the paper has before what it has not."""
    yield Kind("clean")
    for size in SIGMAS:
        yield from (Kind("noise", size=size, seed=seed) for seed in seeds)
    for size in LEVELS:
        yield Kind("fgsm", ANN, size)
    for name in (ANN, *map(str, attacked)):
        for size in LEVELS:
            yield from (Kind("pgd", name, size, seed) for seed in seeds)


class Network(NamedTuple):
    """Jitted: (pixels) -> predictions, (pixels, labels) -> gradient of the loss."""

    predict: Callable[[Any], Any]
    gradient: Callable[[Any, Any], Any]


def readings(apply_fn: ApplyFn, run: Run, test: data.Examples, steps) -> dict:
    """The networks by name: the ANN, and the SNN of each T under its digits."""
    fns = {ANN: apply_fn} | {str(t): logits_of(apply_fn, t) for t in sorted(steps)}
    networks = {}
    for name, fn in fns.items():
        pixels_fn = robustness.of_pixels(fn, test)
        gradient = jax.jit(robustness.loss_gradient(pixels_fn))
        networks[name] = Network(
            partial(jax.jit(predictions(pixels_fn)), run.variables),
            partial(gradient, run.variables),
        )
    return networks


def logits_of(
    apply_fn: ApplyFn, steps: int, *, mode: str = "fused", **options: Any
) -> ApplyFn:
    snn_fn = spiking(apply_fn, steps=steps, mode=mode, **options)
    return lambda variables, x: snn_fn(variables, x)[0]


def predictions(pixels_fn: ApplyFn) -> ApplyFn:
    return lambda variables, pixels: pixels_fn(variables, pixels).argmax(-1)


def batches(run: Run, test: data.Examples) -> Iterator[tuple[int, Batch]]:
    size = min(BATCH, len(test))
    stored = data.eval_batches(run.config.data, test, batch_size=size)
    for i, batch in enumerate(stored):
        pixels = np.asarray(batch["image"], np.float32) / np.float32(test.white)
        yield i, Batch(pixels, batch["label"], batch["mask"])


def changed(kind: Kind, networks: dict, batch: Batch, index: int) -> Batch:
    """A batch with its images changed; `index` is its number."""
    random = jax.random.fold_in(jax.random.key(kind.seed), index)
    pixels, labels, _ = batch
    if kind.kind == "noise":
        pixels = robustness.noisy(random, pixels, sigma=kind.size)
    elif kind.kind == "fgsm":
        gradient = networks[kind.network].gradient
        pixels = robustness.fgsm(gradient, pixels, labels, epsilon=kind.size / 255)
    elif kind.kind == "pgd":
        pixels = robustness.pgd(
            networks[kind.network].gradient,
            pixels,
            labels,
            epsilon=kind.size / 255,
            step=kind.size / 255 / 4,
            iterations=ITERATIONS,
            key=random,
        )
    return batch._replace(pixels=np.asarray(pixels))


def accuracy(network: Network, images: list[Batch]) -> float:
    right = [(network.predict(b.pixels) == b.labels)[b.mask] for b in images]
    return float(np.mean(np.concatenate(right)))


def check(apply_fn, run, test, networks, steps) -> list[dict[str, Any]]:
    """Every spike simulated, on a few images: predictions against those of one pass."""
    kinds = [Kind("clean"), Kind("noise", size=0.1), Kind("fgsm", ANN, LEVELS[-1])]
    images = {
        kind.kind: [changed(kind, networks, b, i) for i, b in batches(run, test)]
        for kind in kinds
    }
    rows: list[dict[str, Any]] = []
    for t in steps:
        stepped = logits_of(apply_fn, t, mode="stepped", bias_shift="auto")
        predict = jax.jit(predictions(robustness.of_pixels(stepped, test)))
        for kind, ones in images.items():
            differing = 0
            for batch in ones:
                fused = networks[str(t)].predict(batch.pixels)
                unlike = predict(run.variables, batch.pixels) != fused
                differing += int(unlike[batch.mask].sum())
            found = {"predictions": len(test), "differing": differing}
            rows.append({"steps": t, "kind": kind, **found})
            print(rows[-1], flush=True)
    total = sum(row["predictions"] for row in rows)
    differing = sum(row["differing"] for row in rows)
    print(f"stepped and fused: {differing} of {total} predictions differ")
    return rows


if __name__ == "__main__":
    with_huge_pages()
    as_script(main)
