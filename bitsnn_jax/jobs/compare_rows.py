"""What one method reaches on its network, at each T: a row each."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from bitsnn_jax.comparators.method import Method
from bitsnn_jax.comparators.simulation import simulate
from bitsnn_jax.comparators.structure import Structure
from bitsnn_jax.integers.energy import Profile, energy
from bitsnn_jax.integers.operations import NodeOperations, Operations
from bitsnn_jax.jobs.compare_images import each_batch
from bitsnn_jax.jobs.compare_networks import Ann
from bitsnn_jax.results.comparison import MethodRecord, MethodRow
from bitsnn_jax.runs.provenance import commit, machine
from bitsnn_jax.runtime.devices import split_over_devices

Shown = Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]


class Case:
    """A method on its network; compiled once for all seeds.

    Args:
      method: which.
      ann: the network that it starts from.
      structure: of that network.
      synapses: of each of its neurons.
      prices: of operations.
    """

    def __init__(
        self,
        method: Method,
        ann: Ann,
        structure: Structure,
        synapses: Mapping[str, Any],
        prices: Profile,
    ):
        self.method, self.ann, self.structure = method, ann, structure
        self.synapses, self.prices = synapses, prices
        self.can = method.can
        self.run_of = cache(self._run)

    def rows(
        self, todo: Sequence[int], *, seed: int, images: Any, shown: Shown
    ) -> Iterator[tuple[MethodRow, MethodRecord]]:
        """Measure a row for each T, with what is known of the method by then.

        Args:
          todo: the T's, in order.
          seed: of the calibration images.
          images: to calibrate with.
          shown: begins the test images anew.
        """
        method, where = self.method, {"commit": commit(), "machine": machine()}
        # Each T is a run of its own, but for methods that pass by every T.
        passes = method.neuron(todo[-1]).on_the_way and not method.for_one
        for last, readouts in (
            [(todo[-1], todo)] if passes else [(t, [t]) for t in todo]
        ):
            started = time.perf_counter()
            found = {}
            if method.prepare is not None:
                found = method.prepare(self.ann.network, images, last)
            record = MethodRecord(
                title=method.title,
                source=method.source,
                trained_with=method.trained_with,
                seconds=time.perf_counter() - started,
            )
            reached = _reached(self.run_of(last), found, self.ann, shown())
            for t in readouts:
                measured = self._measured(t, last, reached)
                yield MethodRow(steps=t, seed=seed, **measured, **where), record

    def _run(self, steps: int):
        """Build ((variables, found), x) -> guesses, spikes, synaptic operations.

        What was found is an argument, and no constant: each seed has its own.
        """
        neuron = self.method.neuron(steps)

        @split_over_devices
        def run(given, x):
            variables, found = given
            simulate_fn = simulate(
                self.ann.network.apply_fn,
                neuron,
                steps=steps,
                found=found,
                fan_out=self.synapses,
            )
            made = simulate_fn(variables, x)
            spikes = sum(made.spikes.values())
            return jnp.argmax(made.outputs, -1), spikes, made.synaptic_operations

        return run

    def _measured(self, t: int, last: int, reached: "_Reached") -> dict[str, Any]:
        shape, neuron = self.structure, self.method.neuron(last)
        window = neuron.window(t)
        read = -1 if t == last else t - 1
        sent = min(neuron.length(t), last) - 1
        spikes, operations = reached.spikes[sent], reached.operations[sent]
        return {
            "method": self.method.name,
            "window": window,
            "until_output": neuron.until_output(t, shape.depth),
            "accuracy": float(reached.accuracy[read]),
            "agreement": float(reached.agreement[read]),
            "spikes_per_neuron": float(spikes / shape.neurons),
            "synaptic_operations": float(operations),
            "nanojoules": nanojoules(shape, window, spikes, operations, self.prices),
            "milliseconds": 1e3 * reached.seconds * window / neuron.window(last),
        }


class _Reached(NamedTuple):
    """For one image: at each read-out [T], or the last [1]; spikes up to each step."""

    accuracy: np.ndarray
    agreement: np.ndarray
    spikes: np.ndarray
    operations: np.ndarray
    seconds: float


def _reached(run, found, ann: Ann, shown) -> _Reached:
    sums: Any = 0.0
    right: Any = 0
    equal: Any = 0
    seen = 0
    results, median = each_batch(run, (ann.network.variables, found), shown)
    for (guesses, *counts), label in results:
        guesses = np.concatenate(guesses, -1)
        expected = ann.predictions[seen : seen + len(label)]
        right = right + np.sum(guesses == label, 1)
        equal = equal + np.sum(guesses == expected, 1)
        sums = sums + np.cumsum(np.sum(np.asarray(counts, float), 1), 1)
        seen += len(label)
    spikes, operations = sums / seen
    return _Reached(right / seen, equal / seen, spikes, operations, median)


def nanojoules(shape: Structure, window, spikes, operations, prices) -> float:
    """Price one example: what the neurons of any method have in common.

    The image is multiplied once, whatever the number of steps. Each neuron takes a bias
    and a comparison at each step. Shifts of a spike's weight are not counted.
    """
    node = NodeOperations(
        "network",
        "neurons",
        shape.neurons,
        synaptic_operations=round(operations),
        multiply_accumulates=shape.multiply_accumulates,
        bias_additions=window * shape.neurons,
        compares=window * shape.neurons,
        resets=round(spikes),
    )
    return 1e9 * energy(Operations((node,), 1, window), prices).total
