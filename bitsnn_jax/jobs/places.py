"""Spikes by head and by place, of networks with attention."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax.conversion.readings import OneShot, SpikeStats, run
from bitsnn_jax.jobs.evaluation import evaluate
from bitsnn_jax.jobs.sources import Network
from bitsnn_jax.numerics.qcfs import grid_codes
from bitsnn_jax.results.spikes import AttentionSpikes, HeadSpikes
from bitsnn_jax.tasks import Task
from bitsnn_jax.tracing.attention import Attention, Layout
from bitsnn_jax.tracing.program import ApplyFn


def attention_spikes(
    network: Network, found: Attention, *, steps: int, coding: str = "bits"
) -> AttentionSpikes:
    """Count spikes by head, and those of places that hold nothing, over all examples.

    Args:
      network: with QCFS.
      found: its attention.
      steps: T.
      coding: of the spikes, as in `spiking`.
    """
    counting = _ByPlace(network.apply_fn, network.task, _hashable(found), steps, coding)
    stats = evaluate(
        counting,
        network.variables,
        network.config.data,
        network.examples,
        task=network.task,
        repeats=1,
    ).stats
    examples = len(network.examples)
    in_places = [path for path, layout in found.layouts.items() if layout.places]
    by_layer = [stats.spikes[path].sum((1, 2)) for path in in_places]
    spikes = np.sum(by_layer, 0)  # at filled places, at empty ones
    filled = _filled_places(stats, found)
    return AttentionSpikes(
        steps=steps,
        place=network.task.place,
        places=found.places,
        filled=float(filled),
        spikes_per_place=float(spikes[0] / (filled * examples)),
        empty_share=float(spikes[1] / max(spikes.sum(), 1)),
        heads=tuple(
            HeadSpikes(
                path=path,
                # Of places that hold something; each head has as many neurons.
                spikes=tuple(
                    (
                        layout.heads
                        * stats.spikes[path][0].sum(1)
                        / stats.neurons[path][0]
                    ).tolist()
                ),
            )
            for path, layout in found.layouts.items()
            if layout.heads > 1
        ),
    )


def by_head_and_place(code: Any, layout: Layout, *, steps: int) -> jax.Array:
    """Count the spikes of a layer for each step, head and place.

    Args:
      code: of the layer, [1, ...]: whole numbers, a bit for each step.
      layout: which axes those are.
      steps: T, the number of bits.

    Returns:
      int32 [T, heads, places], of length 1 where the layer has none.

    >>> code = jnp.array([[[1, 2, 3], [0, 0, 2]]])
    >>> by_head_and_place(code, Layout(places=1), steps=2)[:, 0]
    Array([[2, 1],
           [2, 0]], dtype=int32)
    """
    heads, at, places = layout
    split = code.reshape(*code.shape[:at], heads, -1, *code.shape[at + 1 :])
    ordered = jnp.moveaxis(split, at, 0)
    if places is None:
        rows = ordered.reshape(heads, 1, -1)
    else:
        rows = jnp.moveaxis(ordered, places + 1, 1)
        rows = rows.reshape(*rows.shape[:2], -1)
    planes = [(rows >> place) & 1 for place in reversed(range(steps))]
    return jnp.stack([plane.sum(-1, dtype=jnp.int32) for plane in planes])


def _hashable(found: Attention) -> tuple[tuple[str, Layout], ...]:
    return tuple(found.layouts.items())


def _filled_places(stats: SpikeStats, found: Attention) -> float:
    """Return how many places of an example hold something, on average."""
    path = next(path for path, layout in found.layouts.items() if layout.places)
    filled, empty = stats.neurons[path]
    return filled / (filled + empty) * found.places


@dataclass(frozen=True)
class _ByPlace:
    """A network that counts: equal to another of the same network."""

    apply_fn: ApplyFn
    task: Task
    layouts: tuple[tuple[str, Layout], ...]
    steps: int
    coding: str

    def __call__(self, variables, x):
        options = {"steps": self.steps, "coding": self.coding}
        reading = _Counting(dict(self.layouts), self.task.filled(x), **options)
        outputs = run(reading, self.apply_fn, variables, x)
        return outputs, reading.stats()


class _Counting(OneShot):
    """Counts spikes by [filled or empty, head, step], and neurons by the first."""

    def __init__(self, layouts, filled, **options):
        super().__init__(**options)
        self.layouts, self.filled = layouts, filled
        self.neurons = []

    def observe(self, site, z, a, delta):
        code = jnp.minimum(grid_codes(a, delta), 2**self.steps - 1).astype(jnp.uint32)
        layout = self.layouts[site.path]
        sent = self.coding.spikes(code)
        counts = by_head_and_place(sent, layout, steps=self.times)
        places = counts.shape[-1]
        filled = jnp.ones(places, bool)
        if layout.places is not None and self.filled is not None:
            filled = self.filled[0]
        parts = jnp.stack([filled, ~filled]).astype(jnp.int32)
        self.counts.append(jnp.einsum("thp,fp->fht", counts, parts))
        self.neurons.append(parts.sum(-1) * (np.prod(site.shape) // places))

    def stats(self):
        paths = [site.path for site in self.sites]
        return SpikeStats(
            OrderedDict(zip(paths, self.counts, strict=True)),
            OrderedDict(zip(paths, self.neurons, strict=True)),
        )
