"""Batch evaluation of ANN and SNN over all devices and hosts, every example once."""

import dataclasses
import functools
import itertools
import statistics
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax import config
from bitsnn_jax.conversion.spiking import SpikeStats
from bitsnn_jax.data.batches import along
from bitsnn_jax.runtime.devices import (
    AXIS,
    by_device,
    first_replica,
    over_devices,
    share_of_host,
    unpadded,
)
from bitsnn_jax.tasks import TASKS, Examples, Task
from bitsnn_jax.tracing.fast_convolutions import with_fast_convolutions
from bitsnn_jax.tracing.program import ApplyFn

_PROGRAMS = 4  # that stay compiled, for networks that are evaluated again
NetworkFn = Callable[[Any, Any], tuple[Any, SpikeStats]]


class Evaluation(NamedTuple):
    """What a network did on some examples.

    Attributes:
      measure: the name of the score of the task.
      predictions: of the task, [examples, ...] in each array, in an order that depends
        on the devices only.
      measures: of the task, over all examples.
      stats: spikes of all examples; empty for an ANN.
      milliseconds_per_example: median over repeated passes of the first batch.
      compile_seconds: of tracing and compiling; about 0 for a function that was
        evaluated before on inputs of this shape.
    """

    measure: str
    predictions: Any
    measures: dict[str, float]
    stats: SpikeStats
    milliseconds_per_example: float
    compile_seconds: float

    @property
    def accuracy(self) -> float:
        """Return the share of right predictions, of a task that measures it."""
        return self.measures["accuracy"]

    @property
    def score(self) -> float:
        """Return the score of the task."""
        return self.measures[self.measure]

    @property
    def others(self) -> dict[str, float]:
        """Return the measures beside it, such as F1."""
        return {k: v for k, v in self.measures.items() if k != self.measure}


def evaluate(
    network_fn: NetworkFn,
    variables: Any,
    settings: config.Data,
    examples: Examples,
    *,
    task: Task = TASKS["image_classification"],
    repeats: int = 5,
) -> Evaluation:
    """Run a network over every example, on all devices of all hosts.

    The last batch is padded and masked, so that each example counts once on any number
    of devices; the count is asserted.

    Args:
      network_fn: (variables, inputs [n, ...]) -> (outputs [n, ...], SpikeStats), as
        `spiking` makes it; `without_spikes` makes it of an ANN.
      variables: what it takes.
      settings: `eval_batch_size` is read, and rounded up to a multiple of the devices.
      examples: a split.
      task: says what batches, inputs and predictions are.
      repeats: passes of the first batch that are timed.
    """
    task = task.on(examples)
    devices = jax.device_count()
    size = -(-settings.eval_batch_size // devices) * devices
    batches = iter(
        task.eval_batches(settings, examples, **share_of_host(), batch_size=size)
    )
    first = by_device(next(batches))
    mapped = _program(network_fn, task, tuple(jax.devices()))

    def timed(batch):
        started = time.perf_counter()
        result = jax.block_until_ready(mapped(variables, batch))
        return time.perf_counter() - started, result

    first_seconds, _ = timed(first)
    seconds = statistics.median(timed(first)[0] for _ in range(repeats))

    rows, totals = [], []
    for batch in itertools.chain([first], map(by_device, batches)):
        _, (everywhere, sums) = timed(batch)
        rows.append(unpadded(*first_replica(everywhere)))
        totals.append(jax.tree.map(_wide, first_replica(sums)))
    counts, count, stats = jax.tree.map(lambda *parts: sum(parts), *totals)
    assert count == len(examples), f"{count} of {len(examples)} examples counted"
    predictions, evidence = jax.tree.map(lambda *parts: np.concatenate(parts), *rows)
    return Evaluation(
        task.score,
        predictions,
        task.judged(counts, count, evidence),
        stats,
        1e3 * seconds / size,
        first_seconds - seconds,
    )


@functools.lru_cache(maxsize=_PROGRAMS)
def _program(network_fn, task, devices):
    """Build (variables, batch) -> rows of all devices, masks and sums."""

    def example(variables, inputs):
        one = jax.tree.map(lambda x: x[None], inputs)
        outputs, stats = network_fn(variables, one)
        return jax.tree.map(lambda x: x[0], outputs), stats

    def step(variables, batch):
        inputs, mask = task.inputs(batch), batch["mask"]
        outputs, stats = jax.vmap(example, (None, 0))(variables, inputs)
        seen = (task.counts(outputs, batch), jnp.ones(len(mask), jnp.int32), stats)
        sums = jax.tree.map(lambda x: _masked_sum(x, mask), seen)
        rows = task.predictions(outputs), task.evidence(outputs, batch)
        return jax.lax.all_gather((rows, mask), AXIS), jax.lax.psum(sums, AXIS)

    fast = with_fast_convolutions(step)
    return over_devices(fast, in_axes=(None, 0), devices=devices)


def without_spikes(apply_fn: ApplyFn) -> NetworkFn:
    """Return an ANN in the form that `evaluate` takes: (outputs, no statistics)."""
    return _WithoutSpikes(apply_fn)


@dataclasses.dataclass(frozen=True)
class _WithoutSpikes:
    """Equal to another of the same function, so that one program serves both."""

    apply_fn: ApplyFn

    def __call__(self, variables, x):
        return self.apply_fn(variables, x), SpikeStats(OrderedDict(), OrderedDict())


def _wide(total):
    """Widen sums, since those of many batches outgrow 32 bits."""
    return total.astype(f"{total.dtype.kind}8")


def _masked_sum(x, mask):
    whole = not jnp.issubdtype(x.dtype, jnp.floating)
    dtype = jnp.int32 if whole else jnp.float32
    return jnp.sum(jnp.where(along(mask, x), x, 0), axis=0, dtype=dtype)
