"""What a network and its spiking form do on examples: score, spikes, proof."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax.conversion.readings import OneShot, Stepped, run
from bitsnn_jax.conversion.spiking import spiking
from bitsnn_jax.jobs.certify import apart, certificates
from bitsnn_jax.jobs.evaluation import Evaluation, NetworkFn, evaluate
from bitsnn_jax.jobs.gallery import Gallery
from bitsnn_jax.jobs.places import by_head_and_place
from bitsnn_jax.jobs.sources import Network
from bitsnn_jax.numerics.codings import coding_of
from bitsnn_jax.results.conversion import ModeResult, StepsResult
from bitsnn_jax.results.pictures import NamedBox
from bitsnn_jax.results.spikes import LayerPlaces, LayerRaster, LayerSpikes, Raster
from bitsnn_jax.tasks import Task
from bitsnn_jax.tracing.attention import Attention

SAMPLED_NEURONS = 12  # of each layer, in the raster


def on_examples(
    network: Network, network_fn: NetworkFn, variables: Any, *, repeats: int = 5
) -> Evaluation:
    """Evaluate a form of a network on its examples, see `evaluate`."""
    return evaluate(
        network_fn,
        variables,
        network.config.data,
        network.examples,
        task=network.task,
        repeats=repeats,
    )


def measure_at(
    network: Network,
    converted: Any,
    *,
    steps: int,
    modes: Sequence[str],
    precisions: Sequence[str],
    gallery: Gallery | None = None,
    coding: str = "bits",
) -> StepsResult:
    """Measure the re-quantised network and its spiking form at T steps.

    Args:
      network: with QCFS, trained for this T or another.
      converted: variables of its spiking form.
      steps: T.
      modes: "fused", "stepped", or both.
      precisions: of the certificates.
      gallery: that the spiking network is shown, in the last of the modes.
      coding: of the spikes, as in `spiking`.
    """

    def requantised(variables, x):
        reading = OneShot(steps=steps, saturate=False)
        output = run(reading, network.apply_fn, variables, x)
        return output, reading.stats()

    ann = on_examples(network, requantised, network.variables)
    found, layers, shown = {}, None, None
    for mode in modes:
        snn_fn = spiking(
            network.apply_fn,
            steps=steps,
            mode=mode,
            nonspiking=network.nonspiking,
            coding=coding,
        )
        weights = converted if mode == "stepped" else network.variables
        snn = on_examples(network, snn_fn, weights)
        found[mode] = _mode(snn, ann, network.task)
        layers = _layers(snn, len(network.examples))
        shown = snn_fn, weights
    if gallery and shown:
        gallery.add(f"SNN, T = {steps}", *shown)
    return StepsResult(
        steps=steps,
        levels=2**steps - 1,
        requantised=network.config.model.levels != 2**steps - 1,
        ann_accuracy=ann.score,
        fused=found.get("fused"),
        stepped=found.get("stepped"),
        layers=layers,
        certificate=certificates(
            network, converted, steps=steps, precisions=precisions, coding=coding
        ),
    )


def _mode(snn: Evaluation, ann: Evaluation, task: Task) -> ModeResult:
    deviation = task.deviation(snn.predictions, ann.predictions)
    return ModeResult(
        accuracy=snn.score,
        spikes_per_neuron=float(snn.stats.spikes_per_neuron),
        milliseconds_per_example=snn.milliseconds_per_example,
        compile_seconds=snn.compile_seconds,
        predictions_differing=deviation.total,
        measures=snn.others,
        apart=apart(deviation),
    )


def _layers(snn: Evaluation, examples: int) -> tuple[LayerSpikes, ...]:
    return tuple(
        LayerSpikes(
            path=path,
            neurons=int(snn.stats.neurons[path]) // examples,
            spikes=tuple((spikes / snn.stats.neurons[path]).tolist()),
        )
        for path, spikes in snn.stats.spikes.items()
    )


class _Rastered(Stepped):
    """Keeps spikes of some neurons of each layer, evenly spread; counts by place."""

    def __init__(self, layouts, **options):
        super().__init__(**options)
        self.layouts = layouts
        self.rasters = []
        self.by_place = {}

    def observe(self, site, membrane, code, delta):
        super().observe(site, membrane, code, delta)
        sent, places = code.ravel(), reversed(range(self.times))
        trains = jnp.stack([self.coding.digit(sent, place) for place in places], -1)
        count = min(SAMPLED_NEURONS, len(trains))
        self.rasters.append(trains[np.linspace(0, len(trains) - 1, count).astype(int)])
        layout = self.layouts.get(site.path)
        if layout and layout.places is not None:
            words = self.coding.spikes(code)
            spikes = by_head_and_place(words, layout, steps=self.times)
            self.by_place[site.path] = spikes.sum(1).T


def spikes_of_first(
    network: Network,
    converted: Any,
    *,
    steps: int,
    found: Attention | None = None,
    coding: str = "bits",
) -> Raster:
    """Record the spikes of the first example, step by step.

    Args:
      network: with QCFS.
      converted: variables of its spiking form.
      steps: T.
      found: its attention, if there is any.
      coding: of the spikes, as in `spiking`.
    """
    layers: list[tuple[str, int]] = []

    @jax.jit
    def simulate(variables, x):
        layouts = found.layouts if found else {}
        options = {"nonspiking": network.nonspiking, "coding": coding}
        reading = _Rastered(layouts, steps=steps, **options)
        outputs = run(reading, network.apply_fn, variables, x)
        layers[:] = [(site.path, int(np.prod(site.shape))) for site in reading.sites]
        return outputs, reading.rasters, reading.by_place

    task = network.task
    batch, facts = task.shown(network.config.data, network.examples, 0)
    inputs = task.inputs(batch)
    outputs, rasters, by_place = simulate(converted, inputs)
    filled = task.filled(inputs)
    shown = slice(None) if filled is None else np.asarray(filled[0], bool)
    by_place = jax.device_get(by_place)  # as a dictionary it lost its order
    return Raster(
        example=0,
        steps=coding_of(coding).times(steps),
        **_said(facts, task.answer(outputs)),
        layers=tuple(
            LayerRaster(
                path=path, neurons_total=total, spikes=trains.astype(int).tolist()
            )
            for (path, total), trains in zip(layers, rasters, strict=True)
        ),
        places=tuple(
            LayerPlaces(
                path=path,
                neurons=total // len(by_place[path]),
                spikes=(by_place[path][shown] * (len(by_place[path]) / total)).tolist(),
            )
            for path, total in layers
            if path in by_place
        ),
    )


def _said(facts: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    """Say what the example is and what the network answers.

    A picture with boxes is in the gallery.
    """
    if "found" not in answer:
        return facts | answer
    return {"found": tuple(NamedBox(**each) for each in answer["found"])}
