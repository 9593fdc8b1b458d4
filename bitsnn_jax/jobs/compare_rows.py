"""What one method reaches on its network, at each T: a row each."""

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import numpy as np

from bitsnn_jax.comparators.layer import TrainNeuron
from bitsnn_jax.comparators.method import Method, Network
from bitsnn_jax.comparators.simulation import simulate
from bitsnn_jax.comparators.structure import Structure
from bitsnn_jax.integers.energy import Profile, energy
from bitsnn_jax.integers.operations import NodeOperations, Operations
from bitsnn_jax.jobs.compare_examples import Shown, each_batch, of_all_devices
from bitsnn_jax.jobs.compare_networks import Ann
from bitsnn_jax.jobs.tally import Tally
from bitsnn_jax.results.comparison import MethodRecord, MethodRow
from bitsnn_jax.runs.provenance import commit, machine
from bitsnn_jax.runtime.devices import split_over_devices
from bitsnn_jax.tasks import Task


class Case:
    """A method on its network; compiled once for all seeds.

    Args:
      method: which.
      ann: the network that it starts from.
      structure: of that network.
      synapses: of each of its neurons.
      prices: of operations.
      task: of the network, on the test examples.
    """

    def __init__(
        self,
        method: Method,
        ann: Ann,
        structure: Structure,
        synapses: Mapping[str, Any],
        prices: Profile,
        task: Task,
    ):
        self.method, self.ann, self.structure = method, ann, structure
        self.synapses, self.prices, self.task = synapses, prices, task
        self.can = method.can
        self.run_of = cache(self._run)

    def rows(
        self, todo: Sequence[int], *, seed: int, calibration: Any, shown: Shown
    ) -> Iterator[tuple[MethodRow, MethodRecord]]:
        """Measure a row for each T, with what is known of the method by then.

        Args:
          todo: the T's, in order.
          seed: of the calibration images.
          calibration: inputs to calibrate with.
          shown: begins the test examples anew.
        """
        method, where = self.method, {"commit": commit(), "machine": machine()}
        # Each T is a run of its own, but for methods that pass by every T.
        neuron = method.neuron(todo[-1])
        passes = neuron.on_the_way and not method.for_one
        if isinstance(neuron, TrainNeuron):  # nor if layers wait for means of trains
            passes &= not (self.structure.functions or self.structure.products)
        for last, readouts in (
            [(todo[-1], todo)] if passes else [(t, [t]) for t in todo]
        ):
            started = time.perf_counter()
            network = method.prepare(self.ann.network, calibration, last)
            record = MethodRecord(
                title=method.title,
                source=method.source,
                trained_with=method.trained_with,
                seconds=time.perf_counter() - started,
            )
            places = {t: -1 if t == last else t - 1 for t in readouts}
            reached = self._reached(self.run_of(last), network, shown(), places)
            for t in readouts:
                measured = self._measured(t, last, reached)
                yield MethodRow(steps=t, seed=seed, **measured, **where), record

    def _run(self, steps: int):
        """Build ((variables, found), x) -> outputs, spikes, synaptic operations.

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
                nonspiking="decode",
            )
            made = simulate_fn(variables, x)
            spikes = sum(made.spikes.values())
            return made.outputs, spikes, made.synaptic_operations

        return run

    def _reached(
        self, run, network: Network, shown, places: Mapping[int, int]
    ) -> "_Reached":
        """Run all batches; `places` says where each T is among the outputs."""
        tallies, sums = {t: Tally(self.task) for t in places}, []

        def take(results, batch):
            parts, *counts = results
            outputs = of_all_devices(parts, axis=1)  # [T, n, ...]
            for t, place in places.items():
                read = jax.tree.map(lambda each, i=place: each[i], outputs)
                tallies[t].add(read, batch)
            sums.append(np.cumsum(np.sum(np.asarray(counts, float), 1), 1))

        median = each_batch(run, (network.variables, network.found), shown, take)
        seen = next(iter(tallies.values())).examples
        spikes, operations = sum(sums, np.zeros(())) / seen
        said = self.ann.predictions
        equal = {t: tally.agreement(said) for t, tally in tallies.items()}
        scores = {t: tally.score for t, tally in tallies.items()}
        return _Reached(scores, equal, spikes, operations, median)

    def _measured(self, t: int, last: int, reached: "_Reached") -> dict[str, Any]:
        shape, neuron = self.structure, self.method.neuron(last)
        window = neuron.window(t)
        sent = min(neuron.length(t), last) - 1
        spikes, operations = reached.spikes[sent], reached.operations[sent]
        return {
            "method": self.method.name,
            "window": window,
            "until_output": neuron.until_output(t, shape.depth),
            "accuracy": float(reached.accuracy[t]),
            "agreement": float(reached.agreement[t]),
            "spikes_per_neuron": float(spikes / shape.neurons),
            "synaptic_operations": float(operations),
            "nanojoules": nanojoules(shape, window, spikes, operations, self.prices),
            "milliseconds": 1e3 * reached.seconds * window / neuron.window(last),
        }


class _Reached(NamedTuple):
    """For one example: at each T that is read; spikes up to each step."""

    accuracy: Mapping[int, float]
    agreement: Mapping[int, float]
    spikes: np.ndarray
    operations: np.ndarray
    seconds: float


def nanojoules(shape: Structure, window, spikes, operations, prices) -> float | None:
    """Price one example: what the neurons of any method have in common.

    The input is multiplied once, whatever the number of steps. Each neuron takes a bias
    and a comparison at each step. Shifts of a spike's weight are not counted.

    None for a network with functions that neurons do not compute: softmax and layer
    norm have no price in the profiles, and methods compute them once or at each step.
    """
    if shape.functions:
        return None
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
