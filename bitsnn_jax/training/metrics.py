"""Metrics as sums and counts, so that merging them is exact."""

import dataclasses
import math
from collections.abc import Callable
from functools import reduce
from operator import add
from typing import Any

import flax.struct
import jax


@flax.struct.dataclass
class Metrics:
    """Sums over examples, divided only when they are read.

        merge(m, n) = m + n, term by term

    Merging is associative and commutative, so batches, devices and hosts add up to what
    one pass gives. A mean of means would not, as soon as a batch is not full.

    Attributes:
      loss: sum over examples of their loss.
      correct: examples whose largest logit is that of the label.
      examples: how many.
      spikes: over all neurons and time steps; 0 where they are not counted.
      neurons: how many could have spiked; 0 where spikes are not counted.
    """

    loss: Any = 0.0
    correct: Any = 0.0
    examples: Any = 0.0
    spikes: Any = 0.0
    neurons: Any = 0.0

    @classmethod
    def merge(cls, *parts: "Metrics") -> "Metrics":
        """The sum of all parts; of none, zeros."""
        return jax.tree.map(lambda *sums: reduce(add, sums), cls(), *parts)

    def compute(self) -> dict[str, float]:
        """Means per example, and per neuron for the spikes.

        >>> Metrics(loss=6.0, correct=2.0, examples=4.0).compute()
        {'loss': 1.5, 'accuracy': 0.5}
        """
        means = {
            "loss": self.loss / self.examples,
            "accuracy": self.correct / self.examples,
        }
        if self.neurons:
            means["spikes_per_neuron"] = self.spikes / self.neurons
        return means


def fetch(metrics: Metrics) -> Metrics:
    """Metrics of all devices, each a copy of the total, as Python floats.

    Floats have 53 bits: sums of fetched metrics stay exact where float32 would not.
    """
    names = [field.name for field in dataclasses.fields(metrics)]
    first = [getattr(metrics, name).addressable_shards[0].data for name in names]
    values = [float(value.squeeze()) for value in jax.device_get(first)]
    return Metrics(**dict(zip(names, values, strict=True)))


class Window:
    """Training metrics between two lines of the log, one step behind the devices.

    A step is dispatched before the metrics of the one before it are waited for, so the
    devices always have work.

    Args:
      write: called with the last step of a window and its means.
      every: steps in a window.
    """

    def __init__(self, write: Callable[[int, dict[str, float]], None], *, every: int):
        self._write, self._every = write, every
        self._in_flight: tuple[int, Metrics] | None = None
        self._total = Metrics()
        self.means: dict[str, float] = {}  # of the last window that was written

    def push(self, step: int, metrics: Metrics) -> None:
        """Takes the metrics of a step just dispatched, and waits for the one before."""
        arrived, self._in_flight = self._in_flight, (step, metrics)
        if arrived:
            self._add(*arrived)

    def flush(self) -> None:
        """Waits for the step in flight and writes what there is."""
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
            self.means = self._total.compute()
            self._total = Metrics()
            self._write(step, self.means)
