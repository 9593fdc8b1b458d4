"""The integer part of the main job: lowered, rounded, run twice, compared, saved."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax import config, data
from bitsnn_jax.integers import qat
from bitsnn_jax.integers.execution import one_shot, stepped
from bitsnn_jax.integers.fixed_point import IntegerNetwork
from bitsnn_jax.integers.graph import Graph
from bitsnn_jax.integers.lowering import lower
from bitsnn_jax.interop import bundle_writer
from bitsnn_jax.tracing.program import ApplyFn

BATCH = 125  # all codes of a batch are in memory
VECTORS = 4  # test images that go with the export


def pixel_network(apply_fn: ApplyFn, examples: data.Examples) -> ApplyFn:
    """The network with its normalisation in front: (variables, pixels) -> logits.

    Args:
      apply_fn: takes normalised images.
      examples: whose scale of pixels it was trained on.
    """
    scale, shift = data.scale_and_shift(examples)

    def apply_to_pixels(variables, pixels):
        images = pixels * scale.astype(pixels.dtype) + shift.astype(pixels.dtype)
        return apply_fn(variables, images)

    return apply_to_pixels


def lower_pixels(apply_fn: ApplyFn, variables: Any, examples: data.Examples) -> Graph:
    """The layer graph of the network of pixels."""
    pixel = jax.ShapeDtypeStruct((1, *examples.image_shape), np.float32)
    return lower(pixel_network(apply_fn, examples), variables, pixel)


def fine_tuned(
    graph: Graph,
    settings: config.Data,
    *,
    steps: int,
    bits: int,
    epochs: int,
    learning_rate: float = qat.LEARNING_RATE,
    seed: int = 0,
) -> tuple[Graph, dict[str, Any]]:
    """`qat.tune` on the training split, augmented as the network was trained on it.

    Every host of several does the same.

    Args:
      graph: of pixels.
      settings: of the data.
      steps, bits, learning_rate: as in `qat.tune`.
      epochs: over the training split, at least 1.
      seed: of the order and the augmentation of images.

    Returns:
      The graph, and {"steps", "epochs", "learning_rate", "first_loss", "last_loss"},
      the mean loss of the first and the last 20 batches.
    """
    examples = data.load(settings, "train")
    batches = data.train_batches(settings, examples, seed=seed)
    num_steps = epochs * data.steps_per_epoch(settings, examples)
    print(f"fine-tuning weights of {bits} bits, {num_steps} steps", flush=True)
    try:
        tuned = qat.tune(
            graph,
            ({**b, "image": _pixels(b["image"], examples)} for b in batches),
            steps=steps,
            bits=bits,
            num_steps=num_steps,
            learning_rate=learning_rate,
        )
    finally:
        batches.close()
    first, last = (
        float(part.mean()) for part in (tuned.losses[:20], tuned.losses[-20:])
    )
    print(f"loss {first:.4f} at first, {last:.4f} at last", flush=True)
    return tuned.graph, {
        "steps": steps,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "first_loss": first,
        "last_loss": last,
    }


def _pixels(images: np.ndarray, examples: data.Examples) -> np.ndarray:
    """What `data.normalise` was given: pixels are integers, so rounding is exact."""
    scale, shift = data.scale_and_shift(examples)
    return np.rint((images - shift) / scale).astype(np.uint8)


def accuracy(
    network: IntegerNetwork, settings: config.Data, examples: data.Examples
) -> float:
    """The part of the examples that the network of pixels has right."""
    run, correct = jax.jit(one_shot(network)), 0
    for batch in data.eval_batches(
        settings, examples, batch_size=min(BATCH, len(examples)), pixels=True
    ):
        right = np.argmax(run(batch["image"]).outputs["output"], -1) == batch["label"]
        correct += int(np.sum(right & batch["mask"]))
    return correct / len(examples)


def run_integers(
    networks: Sequence[IntegerNetwork],
    settings: config.Data,
    examples: data.Examples,
    *,
    carriers: Sequence[str],
    native: int,
    out: Path,
    before: Sequence[IntegerNetwork] = (),
) -> dict[str, Any]:
    """Runs both executions of each network, and saves one of them.

    Args:
      networks: of pixels, one for each T; all with weights of the same width.
      settings: of the data.
      examples: the test split.
      carriers: of the numbers; each is compared with the one-shot pass of the first.
      native: the T of the network that is saved.
      out: the folder it is saved to, see `exchange.save`; replaced.
      before: the networks without fine-tuning, of which the accuracy is taken only.

    Returns:
      {"bits", "folder", "steps": [{"steps", "accuracy", "spikes_per_neuron", "codes",
      "differing", "outputs_differing", "bound", "executions", "layers"}]}, and in each
      row "accuracy_before" where there is a network before.
    """
    print(
        f"in integers, weights of {networks[0].bits} bits\n T  accuracy  spikes/neuron"
    )
    rows = []
    untuned = {network.steps: network for network in before}
    for network in networks:
        rows.append(_compared(network, settings, examples, carriers))
        if network.steps in untuned:
            found = accuracy(untuned[network.steps], settings, examples)
            rows[-1]["accuracy_before"] = found
        print(_line(rows[-1]), flush=True)
    if jax.process_index() == 0:  # all hosts have computed the same
        [saved] = [network for network in networks if network.steps == native]
        first = range(min(VECTORS, len(examples)))
        images = [data.as_evaluated(settings, examples, i)["image"] for i in first]
        bundle_writer.save(saved, out, vectors=np.stack(images))
    return {"bits": networks[0].bits, "folder": out.name, "steps": rows}


def _compared(network: IntegerNetwork, settings, examples, carriers):
    """All executions side by side, over every example."""
    runs = [make(network, carrier=c) for c in carriers for make in (one_shot, stepped)]

    @jax.jit
    def compare(images, mask):
        first, *others = [run(images) for run in runs]
        codes = sum(_differing(first.codes, other.codes, mask) for other in others)
        outputs = sum(
            _differing(first.outputs, other.outputs, mask) for other in others
        )
        spikes = sum(
            jnp.sum(jax.lax.population_count(code) * _along(mask, code))
            for code in first.codes.values()
        )
        return codes, outputs, spikes, first.outputs["output"]

    neurons = sum(int(np.prod(node.shape)) for node in network.of_kind("neurons"))
    totals = np.zeros(3, np.int64)  # codes and logits that differ, spikes
    correct = 0
    for batch in data.eval_batches(
        settings, examples, batch_size=min(BATCH, len(examples)), pixels=True
    ):
        *counts, logits = compare(batch["image"], batch["mask"])
        totals += np.array(counts, np.int64)
        right = np.argmax(logits, -1) == batch["label"]
        correct += int(np.sum(right & batch["mask"]))
    codes, outputs, spikes = totals.tolist()
    names = [f"{c}, {mode}" for c in carriers for mode in ("one-shot", "stepped")]
    return {
        "steps": network.steps,
        "accuracy": correct / len(examples),
        "spikes_per_neuron": spikes / (neurons * len(examples)),
        "codes": neurons * len(examples),
        "differing": codes,
        "outputs_differing": outputs,
        "bound": max(node.bound for node in network.nodes),
        "executions": names,
        "layers": [
            {"name": n.name, "kind": n.kind, "bound": n.bound} for n in network.nodes
        ],
    }


def _differing(ours, theirs, mask):
    return sum(
        jnp.sum((ours[name] != theirs[name]) & _along(mask, ours[name]))
        for name in ours
    )


def _along(mask, x):
    return mask.reshape(-1, *(1,) * (x.ndim - 1))


def _line(row):
    before = ""
    if "accuracy_before" in row:
        before = f"; {row['accuracy_before']:.2%} before fine-tuning"
    return (
        f"{row['steps']:2}  {row['accuracy']:8.2%} {row['spikes_per_neuron']:14.3f}  "
        f"{row['differing']} of {row['codes']} codes and {row['outputs_differing']} "
        f"logits differ; sums below {row['bound']:,}{before}"
    )
