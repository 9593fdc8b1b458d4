"""The bit-serial network in integers, as rows of a comparison."""

import functools
import operator
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from bitsnn_jax.comparators import bit_serial
from bitsnn_jax.comparators.structure import Structure
from bitsnn_jax.integers.energy import Profile
from bitsnn_jax.integers.fixed_point import FixedPointError, fixed_point
from bitsnn_jax.integers.graph import Graph
from bitsnn_jax.integers.network import IntegerNetwork
from bitsnn_jax.integers.operations import count, term_paths
from bitsnn_jax.jobs.compare_examples import Shown
from bitsnn_jax.jobs.compare_networks import Ann
from bitsnn_jax.jobs.compare_rows import nanojoules
from bitsnn_jax.jobs.pass_times import ROUNDS, Pass, executions
from bitsnn_jax.jobs.tally import Tally
from bitsnn_jax.results.comparison import MethodRecord, MethodRow
from bitsnn_jax.runs.provenance import commit, machine
from bitsnn_jax.runtime.devices import split_over_devices
from bitsnn_jax.runtime.timing import in_turns, ratio
from bitsnn_jax.tasks import Task


@dataclass(frozen=True)
class IntegerMethod:
    """An execution of the network in integers, with what every method has.

    Attributes:
      name, title: for flags, and for readers.
      execution: of `pass_times.executions`.
      can, source, trained_with, seeds: as in `comparators.method.Method`.
    """

    name: str
    title: str
    execution: str
    can: Callable[[int], str] = bit_serial.can
    source: str = "the bit-serial SNN of this project, its weights rounded to 8 bits"
    trained_with: str = "qcfs"
    seeds: bool = False


INTEGERS = {
    method.name: method
    for method in (
        IntegerMethod(
            "integers_one_shot", "Bit-serial SNN, integers, one pass", "one-shot"
        ),
        IntegerMethod(
            "integers_stepped", "Bit-serial SNN, integers, every spike", "stepped"
        ),
    )
}


class Pixels(NamedTuple):
    """What networks of pixels are made of and shown.

    Attributes:
      graph: makes the layer graph of the network; called once.
      ann: the float network as a function of pixels.
      task: of the network, on the test images.
      shown: begins these anew; their batches have the pixels.
      outputs: of sums of a network in integers, see `OfNumbers.outputs`.
    """

    graph: Callable[[], Graph]
    ann: Pass
    task: Task
    shown: Shown
    outputs: Callable[[IntegerNetwork], Callable[[Mapping[str, Any]], Any]]


class RoundedNetworks:
    """The networks in integers at each T, rounded when they are first asked for.

    Args:
      pixels: what they are made of.
    """

    def __init__(self, pixels: Pixels):
        self.pixels = pixels
        self._graph = functools.cache(pixels.graph)
        self.at = functools.cache(self._at)

    def _at(self, steps: int) -> IntegerNetwork:
        return fixed_point(self._graph(), steps=steps)


class IntegerCase:
    """An execution of the network in integers, measured as methods are.

    Spikes, synaptic operations and energy are those of the spiking network, however it
    is executed. Milliseconds are of the logits alone, in turns with the float network.

    Args:
      method: which execution.
      ann: the network that it is made of.
      structure: of that network.
      prices: of operations.
      networks: in integers.
    """

    def __init__(
        self,
        method: IntegerMethod,
        ann: Ann,
        structure: Structure,
        prices: Profile,
        networks: RoundedNetworks,
    ):
        self.method, self.ann, self.structure = method, ann, structure
        self.prices, self.networks = prices, networks

    def can(self, steps: int) -> str:
        """Tell why there are no integers of that many steps, or ""."""
        if reason := self.method.can(steps):
            return reason
        try:
            self.networks.at(steps)
        except FixedPointError as error:
            return str(error)
        return ""

    def rows(
        self, todo: Sequence[int], *, seed: int, calibration: Any, shown: Shown
    ) -> Iterator[tuple[MethodRow, MethodRecord]]:
        """Measure a row for each T; see `compare_rows.Case.rows`."""
        del calibration, shown  # nothing is calibrated, and pixels are shown
        where = {"commit": commit(), "machine": machine()}
        for steps in todo:
            started = time.perf_counter()
            network = self.networks.at(steps)
            record = MethodRecord(
                title=self.method.title,
                source=self.method.source,
                trained_with=self.method.trained_with,
                seconds=time.perf_counter() - started,
            )
            found = self._measured(network)
            row = MethodRow(
                method=self.method.name, steps=steps, seed=seed, **found, **where
            )
            yield row, record

    def _measured(self, network: IntegerNetwork) -> dict[str, Any]:
        shape, steps = self.structure, network.steps
        run = executions()[self.method.execution](network)
        compiled, paths = jax.jit(run), term_paths(network)
        pixels, counts = self.networks.pixels, []
        tally, outputs_of = Tally(pixels.task), pixels.outputs(network)
        for _, batch in pixels.shown():
            result = compiled(batch["image"])
            size = len(batch["mask"])
            counts.append(count(network, result.codes, examples=size, paths=paths))
            tally.add(outputs_of(result.outputs), batch)
        counted = functools.reduce(operator.add, counts)
        operations = counted.total("synaptic_operations") / counted.examples
        spikes = counted.spikes_per_neuron * shape.neurons
        milliseconds, passes = self._time(lambda _, x: run(x).outputs)
        neuron = bit_serial.neuron(steps)
        return {
            "window": neuron.window(steps),
            "until_output": neuron.until_output(steps, shape.depth),
            "accuracy": tally.score,
            "agreement": tally.agreement(self.ann.predictions),
            "spikes_per_neuron": counted.spikes_per_neuron,
            "synaptic_operations": operations,
            "nanojoules": nanojoules(shape, steps, spikes, operations, self.prices),
            "milliseconds": milliseconds,
            "ann_passes": passes,
        }

    def _time(self, outputs: Callable[[Any, Any], Any]) -> tuple[float, float]:
        """Return milliseconds an image, and the ratio to the float network's."""
        _, batch = next(self.networks.pixels.shown())
        pixels = batch["image"]

        def started(run):
            split = split_over_devices(run)
            return lambda: jax.block_until_ready(split((), pixels))

        passes = {
            "ann": started(lambda _, x: self.networks.pixels.ann(x)),
            "integers": started(outputs),
        }
        seconds = in_turns(passes, rounds=ROUNDS)
        median = float(np.median(seconds["integers"]))
        return 1e3 * median / len(pixels), ratio(seconds["integers"], seconds["ann"])
