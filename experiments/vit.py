"""A small ViT on Fashion-MNIST: the usual one, and one in which everything spikes.

    python train.py --config configs/vit_fashion_mnist.py
    python experiments/vit.py [--parts float spiking ...]

Softmax attention and LayerNorm, or ReLU attention and batch norm; both trained by the
same recipe, see the config. At T = 4:

- float: accuracy of the trained network;
- spiking: spikes, and what does not spike, on all test images;
- certificate: every code of the stepped network in float64 against the trained one, on
  the first --limit images;
- integers: all test images in one pass and step by step, codes and logits compared;
- referee: the same in NumPy alone, on the first --referee images.

A row that is in docs/results/vit.json is not computed again.
"""

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax import convert, referee, spiking
from bitsnn_jax.exports import bundle_writer
from bitsnn_jax.integers.execution import one_shot, stepped
from bitsnn_jax.integers.network import IntegerNetwork
from bitsnn_jax.integers.operations import count
from bitsnn_jax.jobs.certify import certify, exact_pair
from bitsnn_jax.jobs.evaluation import without_spikes
from bitsnn_jax.jobs.integers import (
    IntegerOptions,
    count_differing,
    count_right,
    in_batches,
    round_weights,
)
from bitsnn_jax.jobs.measure import on_examples
from bitsnn_jax.jobs.sources import Network, RunSource
from bitsnn_jax.runs.provenance import about_numbers
from bitsnn_jax.runtime.cli import Distinct, Parser, a_path, as_script, whole
from bitsnn_jax.runtime.rows import Rows
from bitsnn_jax.tracing.multiplications import multiplications

SOFTMAX, SPIKING = "vit_fashion_mnist", "vit_fashion_mnist_spiking"
STEPS = 4
NUMBERS = Path("docs/results/vit.json")
KEYS = ("part", "network")


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "--parts", nargs="+", action=Distinct, choices=PARTS, default=tuple(PARTS)
    )
    parser.add_argument("--limit", type=whole(1), default=500)
    parser.add_argument("--referee", type=whole(1), default=100)
    parser.add_argument("--runs", type=a_path, default=Path("runs"))
    parser.add_argument("--out", type=a_path, default=NUMBERS, help="the JSON file")
    options = parser.parse_args()
    rows = Rows(options.out, KEYS)
    for part in options.parts:
        of, measure = PARTS[part]
        for name in of:
            keys = {"part": part, "network": name}
            if not rows.known(keys):
                network = _network(options.runs / name)
                about = about_numbers(config=name, seed=network.config.seed)
                about["trained"] = network.metadata.get("commit")
                rows.add({**keys, **measure(network, options), "about": about})
                print(rows[-1], flush=True)


def _network(folder: Path) -> Network:
    return dataclasses.replace(RunSource(folder).load(), nonspiking="decode")


def _first(network: Network, images: int) -> Network:
    return dataclasses.replace(network, examples=network.examples.first(images))


def in_float(network: Network, options: Any) -> dict[str, Any]:
    del options
    found = on_examples(network, without_spikes(network.apply_fn), network.variables)
    sizes = map(np.size, jax.tree.leaves(network.variables["params"]))
    return {
        "accuracy": found.accuracy,
        "images": len(network.examples),
        "parameters": sum(sizes),
        "epochs": network.config.optimizer.epochs,
    }


def in_spikes(network: Network, options: Any) -> dict[str, Any]:
    del options
    apply_fn, variables = network.apply_fn, network.variables
    how = {"steps": STEPS, "nonspiking": network.nonspiking}
    report = convert(apply_fn, variables, network.placeholder, **how).report
    found = on_examples(
        network, spiking(apply_fn, mode="fused", **how), variables, repeats=1
    )
    counted = multiplications(apply_fn, variables, network.placeholder)
    return {
        "steps": STEPS,
        "accuracy": found.accuracy,
        "images": len(network.examples),
        "spikes_per_neuron": float(found.stats.spikes_per_neuron),
        "neurons": sum(int(np.prod(layer.shape[1:])) for layer in report.neurons),
        "nonspiking": sorted({f"{each.path}" for each in report.nonspiking}),
        "analog": [layer.path for layer in report.analog],
        "products": len(report.products),
        "multiplications": counted.total,
        "driven_by_spikes": counted.driven,
    }


def in_float64(network: Network, options: Any) -> dict[str, Any]:
    first = _first(network, options.limit)
    found = certify(exact_pair(first, steps=STEPS), first)
    return {
        "steps": STEPS,
        "images": found.examples,
        "codes": found.neurons,
        "differing": found.differing,
        "largest_output_difference": found.largest_output_difference,
        "exact": found.exact,
    }


def _integers(network: Network) -> IntegerNetwork:
    nearest = IntegerOptions(rounding="nearest")
    return round_weights(network, nearest, steps=[STEPS], native=STEPS).networks[0]


def in_integers(network: Network, options: Any) -> dict[str, Any]:
    del options
    return in_both(network, _integers(network))


def in_both(
    network: Network, made: IntegerNetwork, *, coding: str = "bits"
) -> dict[str, Any]:
    """Run all images in one pass and in steps, and compare everything."""
    examples = network.examples
    runs = one_shot(made), stepped(made, coding=coding)

    @jax.jit
    def compare(images, mask):
        whole, in_steps = (run(images) for run in runs)
        return (
            count_differing(whole.codes, in_steps.codes, mask),
            count_differing(whole.outputs, in_steps.outputs, mask),
            whole.outputs["output"],
        )

    correct, differing, outputs_differing = 0, 0, 0
    for batch in in_batches(network.config.data, examples):
        codes, outputs, logits = compare(batch["image"], jnp.asarray(batch["mask"]))
        differing, outputs_differing = (
            differing + int(codes),
            outputs_differing + int(outputs),
        )
        correct += count_right(logits, batch)
    neurons = sum(int(np.prod(node.shape)) for node in made.of_kind("neurons"))
    return {
        "steps": STEPS,
        "bits": made.bits,
        "images": len(examples),
        "accuracy": correct / len(examples),
        "codes": neurons * len(examples),
        "differing": differing,
        "logits": network.config.model.num_classes * len(examples),
        "logits_differing": outputs_differing,
        "bound": max(node.bound for node in made.nodes),
    }


def by_referee(network: Network, options: Any) -> dict[str, Any]:
    """Write the integers down, and let the NumPy program find every spike again."""
    first = _first(network, options.referee)
    made, examples = _integers(network), first.examples
    key = network.task.numbers(network.config, examples).key
    numbers = np.stack([examples[i][key] for i in range(len(examples))])
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "network"
        bundle_writer.save(made, folder, vectors=numbers)
        vectors = bundle_writer.load_vectors(folder)
        _, agreed, difference = referee.compare(referee.read(folder))
    codes = {
        key.removeprefix("codes/"): value
        for key, value in vectors.items()
        if key.startswith("codes/")
    }
    operations = count(made, codes, examples=len(examples))
    total = operations.total("synaptic_operations")
    return {
        "steps": STEPS,
        network.task.noun: len(examples),
        "spikes": agreed,
        "difference": difference or None,
        "synaptic_operations": total / len(examples),
    }


_BOTH = (SOFTMAX, SPIKING)
PARTS: dict[str, tuple[tuple[str, ...], Callable[[Network, Any], dict[str, Any]]]] = {
    "float": (_BOTH, in_float),
    "spiking": (_BOTH, in_spikes),
    "certificate": (_BOTH, in_float64),
    "integers": (_BOTH, in_integers),
    "referee": (_BOTH, by_referee),
}

if __name__ == "__main__":
    as_script(main)
