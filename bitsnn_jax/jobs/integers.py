"""The integer part of the main job: lowered, rounded, run twice, compared, saved."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from msgspec import structs

from bitsnn_jax import config, data
from bitsnn_jax.data.batches import along
from bitsnn_jax.exports import bundle_writer
from bitsnn_jax.integers import qat
from bitsnn_jax.integers.carriers import checked
from bitsnn_jax.integers.execution import one_shot
from bitsnn_jax.integers.fixed_point import IntegerNetwork, fixed_point
from bitsnn_jax.integers.gptq import gptq
from bitsnn_jax.integers.graph import Graph
from bitsnn_jax.integers.latent import check_trainable
from bitsnn_jax.integers.lowering import lower
from bitsnn_jax.integers.targets import target
from bitsnn_jax.jobs.numbers import (
    IMAGES,
    OfNumbers,
    first_numbers,
    of_images,
    of_numbers,
    of_pixels,
)
from bitsnn_jax.jobs.pass_times import (
    FLOAT,
    executions,
    integer_passes,
    pass_times,
)
from bitsnn_jax.jobs.sources import Network
from bitsnn_jax.jobs.tally import Tally
from bitsnn_jax.jobs.ties import tied_for
from bitsnn_jax.numerics.codings import coding_of
from bitsnn_jax.reports.scores import with_unit
from bitsnn_jax.results.conversion import (
    IntegerLayer,
    IntegersAtSteps,
    IntegersResult,
    PassTime,
    RoundingResult,
    TiesResult,
    TuningResult,
)
from bitsnn_jax.tasks import Numbers, Task
from bitsnn_jax.tracing.program import ApplyFn

BATCH = 125  # all codes of a batch are in memory
VECTORS = 4  # test examples that go with the export
ROUNDINGS = ("gptq", "nearest")
_ENTRIES = 2**27  # of one layer, for all examples that weights are rounded for


@dataclass(frozen=True, kw_only=True)
class IntegerOptions:
    """How the network is put in integers.

    Attributes:
      bits: of a weight.
      rounding: of weights that are not fine-tuned: "nearest", or "gptq" for the first
        images of the training split, see `gptq.gptq`. None for "gptq" where that split
        is there, and "nearest" where it is not.
      carriers: what the integers are computed in, see `carriers`; None for the fastest.
      qat_epochs: to fine-tune weights for before they are rounded, see `qat.tune`: for
        the T that is saved. 0 for rounding alone.
      qat_learning_rate: the first one, of weights between -1 and 1.
      tie_skips: tie thresholds along skip connections by powers of two, see
        `ties.tied`.
      targets: chips that the network is compared with, names of `integers.targets`.

    Raises:
      ValueError: an unknown name, or a number that is out of range.
    """

    bits: int = 8
    rounding: str | None = None
    carriers: Sequence[str | None] = (None,)
    qat_epochs: int = 0
    qat_learning_rate: float = qat.LEARNING_RATE
    tie_skips: bool = False
    targets: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in self.targets:
            target(name)
        if self.rounding not in (None, *ROUNDINGS):
            raise ValueError(
                f"rounding must be one of {', '.join(ROUNDINGS)}; got {self.rounding!r}"
            )
        if self.qat_epochs < 0:
            raise ValueError(f"qat_epochs must be at least 0, got {self.qat_epochs}")
        if not 0 < self.qat_learning_rate < 1:
            raise ValueError(
                "qat_learning_rate must be above 0 and below 1, got "
                f"{self.qat_learning_rate}"
            )


@dataclass(frozen=True, kw_only=True)
class Rounded:
    """Integer networks, one for each T, all with weights of the same width.

    Attributes:
      networks: the result.
      how: weights were rounded that were not fine-tuned.
      before: those without fine-tuning; none where there was no fine-tuning.
      tuning: what that reached.
      ties: of each network; none where nothing was to be tied.
    """

    networks: Sequence[IntegerNetwork]
    how: RoundingResult
    before: Sequence[IntegerNetwork] = ()
    tuning: TuningResult | None = None
    ties: Sequence[TiesResult] = ()


def round_weights(
    network: Network, options: IntegerOptions, *, steps: Sequence[int], native: int
) -> Rounded:
    """Lower a network to its layer graph, fine-tune it where asked, and round it.

    Args:
      network: with QCFS.
      options: bits and fine-tuning.
      steps: the T's.
      native: the T to fine-tune for.
    """
    shown = of_numbers(network)
    numbers, task = shown.numbers, network.task
    graph = lower(shown.apply_fn, network.variables, shown.example)
    if options.qat_epochs:
        if not of_images(task):
            raise ValueError(
                "weights are fine-tuned for images of one class only: leave "
                f"--qat_epochs out for a network of {task.noun}"
            )
        check_trainable(graph)
    if options.targets and not of_images(task):
        raise ValueError(
            "membranes are measured on images only: leave --target out for a network "
            f"of {task.noun}"
        )
    training, calibrated = None, options.rounding != "nearest"
    if calibrated or options.tie_skips:
        needed = options.rounding == "gptq"
        training = _calibration(graph, network, numbers, needed=needed)
    graphs = [graph] * len(steps)
    ties: Sequence[TiesResult] = ()
    if options.tie_skips:
        # What is fine-tuned for one T has its thresholds at the others as well.
        at = [native] * len(steps) if options.qat_epochs else steps
        graphs, ties = tied_for(graph, training, at)
    widths = {"bits": options.bits, "white": numbers.white}
    # First, since it takes seconds to learn that a T has no integers.
    networks = [
        fixed_point(each, steps=t, inputs=numbers.example, **widths)
        for t, each in zip(steps, graphs, strict=True)
    ]
    how = RoundingResult(method="nearest")
    if training is not None and calibrated:
        how, networks = RoundingResult(method="gptq", images=len(training)), []
        for t, each in zip(steps, graphs, strict=True):
            count = len(training)
            print(f"rounding for T = {t}, {count} training {task.noun}", flush=True)
            closer = gptq(each, training, steps=t, **widths)
            made = fixed_point(closer, steps=t, inputs=numbers.example, **widths)
            networks.append(made)
    if not options.qat_epochs:
        return Rounded(networks=networks, how=how, ties=ties)
    tuned, tuning = fine_tuned(
        graphs[list(steps).index(native)],
        network.config.data,
        steps=native,
        bits=options.bits,
        epochs=options.qat_epochs,
        learning_rate=options.qat_learning_rate,
        seed=network.config.seed,
    )
    after = [fixed_point(tuned, steps=t, bits=options.bits) for t in steps]
    return Rounded(networks=after, how=how, before=networks, tuning=tuning, ties=ties)


def _calibration(
    graph: Graph, network: Network, numbers: Numbers, *, needed: bool
) -> np.ndarray | None:
    """Return training examples, or None if they are neither there nor needed."""
    try:
        count, settings = _count(graph, numbers), network.config.data
        return first_numbers(network.task, settings, numbers.key, count)
    except (OSError, ValueError) as error:
        if needed:
            raise
        print(
            "weights are rounded to the nearest, without training "
            f"{network.task.noun}: {error}"
        )
        return None


def calibration_pixels(graph: Graph, settings: config.Data) -> np.ndarray:
    """Return the first images of the training split, whose order is a random one."""
    numbers = IMAGES.numbers(config.Config(), data.load(settings, "train"))
    return first_numbers(IMAGES, settings, numbers.key, _count(graph, numbers))


def _count(graph: Graph, numbers: Numbers) -> int:
    """Return how many examples weights are rounded for.

    Of a large network there are fewer, so that what its layers send fits memory.
    """
    largest = max(math.prod(node.shape) for node in graph.nodes)
    return max(1, min(numbers.calibrated, _ENTRIES // largest))


def float_pass(
    apply_fn: ApplyFn, variables: Any, examples: data.Examples
) -> Callable[[Any], Any]:
    """Return the float network as a function of pixels, as the integers are one."""
    return of_pixels(apply_fn, examples).float_pass(variables)


def lower_pixels(apply_fn: ApplyFn, variables: Any, examples: data.Examples) -> Graph:
    """Lower the network of pixels to its layer graph."""
    shown = of_pixels(apply_fn, examples)
    return lower(shown.apply_fn, variables, shown.example)


def fine_tuned(
    graph: Graph,
    settings: config.Data,
    *,
    steps: int,
    bits: int,
    epochs: int,
    learning_rate: float = qat.LEARNING_RATE,
    seed: int = 0,
) -> tuple[Graph, TuningResult]:
    """Fine-tune on the training split, augmented as the network was trained on it.

    Every host of several does the same.

    Args:
      graph: of pixels.
      settings: of the data.
      steps, bits, learning_rate: as in `qat.tune`.
      epochs: over the training split, at least 1.
      seed: of the order and the augmentation of images.

    Returns:
      The graph, and the mean loss of the first and the last 20 batches.
    """
    examples = data.load(settings, "train")
    batches = data.train_batches(settings, examples, seed=seed)
    num_steps = epochs * data.steps_per_epoch(settings, examples)
    print(f"fine-tuning weights of {bits} bits, {num_steps} steps", flush=True)
    try:
        tuned = qat.tune(
            graph,
            batches,
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
    return tuned.graph, TuningResult(
        steps=steps,
        epochs=epochs,
        learning_rate=learning_rate,
        first_loss=first,
        last_loss=last,
    )


def accuracy(
    network: IntegerNetwork, settings: config.Data, examples: data.Examples
) -> float:
    """Measure the part of the examples that the network of pixels has right."""
    run, correct = jax.jit(one_shot(network)), 0
    for batch in in_batches(settings, examples):
        correct += count_right(run(batch["image"]).outputs["output"], batch)
    return correct / len(examples)


def measure_integers(
    rounded: Rounded,
    network: Network,
    *,
    carriers: Sequence[str | None],
    native: int,
    out: Path,
    coding: str = "bits",
) -> IntegersResult:
    """Run both executions of each network, and save one of them.

    Args:
      rounded: the networks.
      network: that they were made of, for its images.
      carriers: as in `IntegerOptions`; each is compared with the one-shot pass of the
        first.
      native: the T of the network that is saved.
      out: the folder it is saved to, see `bundle_writer.save`; replaced.
      coding: of the spikes, as in `spiking`.
    """
    shown, examples = of_numbers(network), network.examples
    bits, carriers = rounded.networks[0].bits, [checked(c) for c in carriers]
    measure = network.task.score
    print(f"in integers, weights of {bits} bits\n T  {measure:>8}  spikes/neuron")
    rows = []
    before = {untuned.steps: untuned for untuned in rounded.before}
    for each in rounded.networks:
        row = _compared(each, network, shown, carriers, coding)
        if each.steps in before:
            found = accuracy(before[each.steps], network.config.data, examples)
            row = structs.replace(row, accuracy_before=found)
        if rounded.ties:
            row = structs.replace(row, ties=rounded.ties[len(rows)])
        rows.append(row)
        print(_line(row, network.task), flush=True)
    [saved] = [each for each in rounded.networks if each.steps == native]
    passes = {FLOAT: shown.float_pass(network.variables)}
    passes |= integer_passes(saved, carriers, coding=coding)
    first_batch = next(iter(_batches(network)))
    times = pass_times(passes, first_batch[shown.numbers.key])
    noun = network.task.noun.removesuffix("s")
    print(f"a pass at T = {native}, ms of each {noun}: {_said(times)}", flush=True)
    if jax.process_index() == 0:  # all hosts have computed the same
        bundle_writer.save(saved, out, vectors=first_batch[shown.numbers.key][:VECTORS])
    return IntegersResult(
        bits=bits,
        folder=out.name,
        steps=tuple(rows),
        qat=rounded.tuning,
        rounding=rounded.how,
        timed_at=native,
        times=times,
    )


def _said(times: Sequence[PassTime]) -> str:
    return "; ".join(
        f"{each.name} {each.milliseconds_per_example:.3g} ({each.ratio:.2f} x ANN)"
        for each in times
    )


def _compared(
    network: IntegerNetwork,
    trained: Network,
    shown: OfNumbers,
    carriers: Sequence[str],
    coding: str,
) -> IntegersAtSteps:
    """Run all executions side by side, over every example of the trained network."""
    examples = trained.examples
    made, spikes_of = executions(coding), coding_of(coding).spikes
    runs = [make(network, carrier=c) for c in carriers for make in made.values()]

    @jax.jit
    def compare(images, mask):
        first, *others = [run(images) for run in runs]
        codes = sum(count_differing(first.codes, other.codes, mask) for other in others)
        outputs = sum(
            count_differing(first.outputs, other.outputs, mask) for other in others
        )
        spikes = sum(
            jnp.sum(jax.lax.population_count(spikes_of(code)) * along(mask, code))
            for code in first.codes.values()
        )
        return codes, outputs, spikes, first.outputs

    neurons = sum(int(np.prod(node.shape)) for node in network.of_kind("neurons"))
    totals = np.zeros(3, np.int64)  # codes and outputs that differ, spikes
    tally, outputs_of = Tally(trained.task), shown.outputs(network, trained.variables)
    for batch in _batches(trained):
        *counts, sums = compare(batch[shown.numbers.key], batch["mask"])
        totals += np.array(counts, np.int64)
        tally.add(outputs_of(sums), batch)
    codes, outputs, spikes = totals.tolist()
    names = [f"{c}, {mode}" for c in carriers for mode in made]
    return IntegersAtSteps(
        steps=network.steps,
        accuracy=tally.score,
        spikes_per_neuron=spikes / (neurons * len(examples)),
        codes=neurons * len(examples),
        differing=codes,
        outputs_differing=outputs,
        bound=max(node.bound for node in network.nodes),
        executions=tuple(names),
        layers=tuple(
            IntegerLayer(name=n.name, kind=n.kind, bound=n.bound) for n in network.nodes
        ),
    )


def _batches(network: Network):
    """Return every example of a network once."""
    size, settings = min(BATCH, len(network.examples)), network.config.data
    return network.task.eval_batches(settings, network.examples, batch_size=size)


def in_batches(settings, examples):
    size = min(BATCH, len(examples))
    return data.eval_batches(settings, examples, batch_size=size)


def count_differing(ours, theirs, mask):
    return sum(
        jnp.sum((ours[name] != theirs[name]) & along(mask, ours[name])) for name in ours
    )


def count_right(logits, batch) -> int:
    """Count the examples of a batch that logits have right."""
    right = np.argmax(logits, -1) == batch["label"]
    return int(np.sum(right & batch["mask"]))


def _line(row: IntegersAtSteps, task: Task) -> str:
    before, score = "", with_unit(row.accuracy, task.score)
    sums = "logits" if task.answers == Task.answers else "outputs"
    if row.accuracy_before is not None:
        before = f"; {row.accuracy_before:.2%} before fine-tuning"
    return (
        f"{row.steps:2}  {score:>8} {row.spikes_per_neuron:14.3f}  "
        f"{row.differing} of {row.codes} codes and {row.outputs_differing} "
        f"{sums} differ; sums below {row.bound:,}{before}"
    )
