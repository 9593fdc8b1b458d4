"""Runs that were trained directly, as rows of a comparison."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from bitsnn_jax import comparators
from bitsnn_jax.comparators.structure import structure
from bitsnn_jax.config import Config
from bitsnn_jax.direct import method_of
from bitsnn_jax.integers.energy import Profile
from bitsnn_jax.jobs.compare_examples import Shown, each_batch, of_all_devices
from bitsnn_jax.jobs.compare_integers import INTEGERS
from bitsnn_jax.jobs.compare_networks import Ann
from bitsnn_jax.jobs.compare_rows import nanojoules
from bitsnn_jax.jobs.tally import Tally
from bitsnn_jax.results.comparison import MethodRecord, MethodRow
from bitsnn_jax.runs.checkpoint import Run
from bitsnn_jax.runs.loading import find_run, trains_fn, with_qcfs
from bitsnn_jax.runs.provenance import commit, machine
from bitsnn_jax.runtime.devices import split_over_devices
from bitsnn_jax.tasks import Task
from bitsnn_jax.tracing.fan_out import fan_out
from bitsnn_jax.tracing.reading import SpikingError


@dataclass(frozen=True)
class DirectMethod:
    """A method of direct training, with what every method of a comparison has.

    Attributes:
      name, title, source: as in `direct.Method`, with what else is not as usual: a
        network other than that of the comparison, another surrogate.
      waits: as in `direct.Method`.
      trained_with: the network that it is compared with. It starts from none.
    """

    name: str
    title: str
    source: str
    waits: bool
    trained_with: str = "qcfs"


@dataclass(frozen=True, eq=False)
class DirectRun:
    """A run that was trained directly.

    Attributes:
      source: what it was found by.
      run: its checkpoint.
      method: that trained it.
    """

    source: str
    run: Run
    method: DirectMethod

    @property
    def steps(self) -> int:
        """T."""
        return self.run.config.steps

    @property
    def seed(self) -> int:
        """The seed of the training."""
        return self.run.config.seed


def direct_runs(sources: Sequence[str], main: Run) -> list[DirectRun]:
    """Find runs that were trained directly, and check that they can be compared.

    Args:
      sources: folders, or names of networks of the package.
      main: the run trained with QCFS.

    Raises:
      CheckpointError: a run is missing; ValueError: one that was not trained directly,
        or for other data, or two of the same method, T and seed.
    """
    found: dict[tuple[str, int, int], DirectRun] = {}
    for source in (name.rstrip("/") or name for name in sources):
        run = find_run(source)
        _check_comparable(run, source, main)
        each = DirectRun(source, run, _method(run.config, main.config))
        key = each.method.name, each.steps, each.seed
        if key in found:
            raise ValueError(
                f"--direct {found[key].source} and {source} are both {key[0]} at T = "
                f"{key[1]} with seed {key[2]}: give one of them"
            )
        found[key] = each
    return list(found.values())


def _check_comparable(run: Run, source: str, main: Run) -> None:
    ours, theirs = main.config, run.config
    if not theirs.direct.method:
        raise ValueError(
            f"--direct {source} was trained with {theirs.model.activation}: expected a "
            "run with a direct.method"
        )
    pairs = {
        "task": (ours.task, theirs.task),
        "data.name": (ours.data.name, theirs.data.name),
        "model.num_classes": (ours.model.num_classes, theirs.model.num_classes),
        "the shape of an input": (main.input_shape, run.input_shape),
    }
    for field, (expected, got) in pairs.items():
        if expected != got:
            raise ValueError(f"--direct {source}: {field} must be {expected}, is {got}")


def _method(config: Config, main: Config) -> DirectMethod:
    """Name the method of a run, and what of the run is not as in the comparison."""
    method, model = method_of(config.direct), config.model
    names, titles = [method.name], [method.title]
    is_same = model.name == main.model.name
    if not is_same and method.models != (model.name,):  # else it is the method's own
        names.append(model.name)
        titles.append(model.name)
    if model.width != (main.model.width if is_same else 1.0):
        names.append(f"x{model.width:g}")
        titles.append(f"width {model.width:g}")
    if config.direct.surrogate:
        names.append(config.direct.surrogate)
        titles.append(config.direct.surrogate)
    # Of two families, the one that is trained on has another name.
    known = comparators.METHODS.keys() | INTEGERS.keys()
    if names[0] in known:
        names[0] = f"direct_{names[0]}"
    return DirectMethod("_".join(names), ", ".join(titles), method.source, method.waits)


class DirectCase:
    """A run that was trained directly, measured as methods are.

    Synapses are counted on the same network with QCFS, whose sites have the paths of
    its neurons. A spike therefore costs what one of a converted network would cost: in
    a sum of spikes each one counts, and so in average pooling. Operations of SEW's AND
    and IAND are a bound: their spikes count as if ADD had handed them on.

    Args:
      direct: the run.
      ann: the network trained with QCFS that it is compared with.
      prices: of operations.
      task: of both, on the test examples.
    """

    def __init__(self, direct: DirectRun, ann: Ann, prices: Profile, task: Task):
        self.direct, self.method = direct, direct.method
        self.ann, self.prices, self.task = ann, prices, task
        self.network = with_qcfs(direct.run.config, direct.run.input_shape, task)
        try:
            self.structure = structure(*self.network, nonspiking="decode")
        except SpikingError as error:
            raise ValueError(f"--direct {direct.source}: {error}") from error

    @cached_property
    def synapses(self) -> Mapping[str, Any]:
        """How many each neuron feeds."""
        return fan_out(*self.network, nonspiking="decode")

    def can(self, steps: int) -> str:
        """Tell why there is no row at T, or ""."""
        direct = self.direct
        return "" if steps == direct.steps else f"it was trained for T = {direct.steps}"

    def rows(
        self, todo: Sequence[int], *, seed: int, calibration: Any, shown: Shown
    ) -> Iterator[tuple[MethodRow, MethodRecord]]:
        """Measure the row of the run; see `compare_rows.Case.rows`."""
        del calibration  # it is trained
        record = MethodRecord(
            title=self.method.title,
            source=self.method.source,
            trained_with=self.method.trained_with,
            seconds=0.0,
            direct=True,
        )
        for steps in todo:
            row = MethodRow(
                method=self.method.name,
                steps=steps,
                seed=seed,
                **self._measured(steps, shown()),
                commit=commit(),
                machine=machine(),
                run=self.direct.source,
            )
            yield row, record

    def _measured(self, steps: int, shown: Any) -> dict[str, Any]:
        run, shape = self.direct.run, self.structure
        counted = partial(_counted, trains_fn(run.config, run.input_shape))
        given = run.variables, self.synapses
        tally, counts = Tally(self.task), []

        def take(results, batch):
            parts, *each = results
            tally.add(of_all_devices(parts), batch)
            counts.append([float(np.sum(rows, dtype=float)) for rows in each])

        seconds = each_batch(split_over_devices(counted), given, shown, take)
        spikes, operations = (
            sum(each) / tally.examples for each in zip(*counts, strict=True)
        )
        return {
            "window": steps,
            "until_output": steps * (shape.depth if self.method.waits else 1),
            "accuracy": tally.score,
            "agreement": tally.agreement(self.ann.predictions),
            "spikes_per_neuron": spikes / shape.neurons,
            "synaptic_operations": operations,
            "nanojoules": nanojoules(shape, steps, spikes, operations, self.prices),
            "milliseconds": 1e3 * seconds,
        }


def _counted(trains_of, given, x):
    """Return outputs, spikes [n] and synaptic operations [n] of each example."""
    variables, synapses = given
    outputs, trains = trains_of(variables, x)
    assert trains.keys() == synapses.keys(), (list(trains), list(synapses))
    sums = {path: spikes.sum(0) for path, spikes in trains.items()}
    spikes = sum(_by_example(each) for each in sums.values())
    operations = sum(_by_example(each * synapses[p]) for p, each in sums.items())
    return outputs, spikes, operations


def _by_example(values):
    return values.reshape(len(values), -1).sum(1)
