"""Metrics as sums and counts, so that merging them is exact."""

import math
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import flax.struct
import jax
import numpy as np

Measures = Callable[[Mapping[str, Any], float], dict[str, float]]  # `Task.measures`


@flax.struct.dataclass
class Metrics:
    """Sums over examples, divided only when they are read.

        merge(m, n) = m + n, term by term

    Merging is associative and commutative, so batches, devices and hosts add up to what
    one pass gives. A mean of means would not, as soon as a batch is not full.

    Attributes:
      loss: sum over examples of their loss.
      examples: how many.
      counts: sums over examples of what the task counts, by name.
      spikes: over all neurons and time steps; 0 where they are not counted.
      neurons: how many could have spiked; 0 where spikes are not counted.
    """

    loss: Any = 0.0
    examples: Any = 0.0
    counts: dict[str, Any] = flax.struct.field(default_factory=dict)
    spikes: Any = 0.0
    neurons: Any = 0.0

    @classmethod
    def merge(cls, *parts: "Metrics") -> "Metrics":
        """Return the sum of all parts; of none, zeros."""
        return reduce(_add, parts, cls())

    def compute(self, measures: Measures) -> dict[str, float]:
        """Return means per example, and per neuron for the spikes.

        >>> metrics = Metrics(loss=6.0, examples=4.0, counts={"correct": 2.0})
        >>> metrics.compute(lambda counts, n: {"accuracy": counts["correct"] / n})
        {'loss': 1.5, 'accuracy': 0.5}
        """
        means = {"loss": self.loss / self.examples}
        found = measures(self.counts, self.examples)
        means |= {name: float(value) for name, value in found.items()}
        if self.neurons:
            means["spikes_per_neuron"] = self.spikes / self.neurons
        return means


def _add(one, other):
    names = one.counts | other.counts
    return Metrics(
        loss=one.loss + other.loss,
        examples=one.examples + other.examples,
        counts={n: one.counts.get(n, 0.0) + other.counts.get(n, 0.0) for n in names},
        spikes=one.spikes + other.spikes,
        neurons=one.neurons + other.neurons,
    )


def fetch(metrics: Metrics) -> Metrics:
    """Copy metrics of all devices, each with the total, to the host.

    Floats have 53 bits: sums of fetched metrics stay exact where float32 would not.
    """
    first = jax.tree.map(lambda x: x.addressable_shards[0].data, metrics)
    return jax.tree.map(_float, jax.device_get(first))


def _float(replica):
    value = np.asarray(replica, np.float64)[0]
    return value if value.ndim else value.item()


class Window:
    """Training metrics between two lines of the log, one step behind the devices.

    A step is dispatched before the metrics of the one before it are waited for, so the
    devices always have work.

    Args:
      write: called with the last step of a window and its means.
      measures: of the task.
      every: steps in a window.
    """

    def __init__(
        self,
        write: Callable[[int, dict[str, float]], None],
        measures: Measures,
        *,
        every: int,
    ):
        self._write, self._measures, self._every = write, measures, every
        self._in_flight: tuple[int, Metrics] | None = None
        self._total = Metrics()
        self.means: dict[str, float] = {}  # of the last window that was written

    def push(self, step: int, metrics: Metrics) -> None:
        """Take the metrics of a step just dispatched, and wait for the one before."""
        arrived, self._in_flight = self._in_flight, (step, metrics)
        if arrived:
            self._add(*arrived)

    def flush(self) -> None:
        """Wait for the step in flight and write what there is."""
        arrived, self._in_flight = self._in_flight, None
        if arrived:
            self._add(*arrived)
            self._close(arrived[0])

    def _add(self, step, metrics):
        metrics = fetch(metrics)
        if not math.isfinite(metrics.loss):
            raise FloatingPointError(
                f"the loss of step {step} is {metrics.loss}: try a lower "
                "optimizer.learning_rate, or optimizer.warmup_epochs"
            )
        self._total = Metrics.merge(self._total, metrics)
        if step % self._every == 0:
            self._close(step)

    def _close(self, step):
        if self._total.examples:
            self.means = self._total.compute(self._measures)
            self._total = Metrics()
            self._write(step, self.means)
