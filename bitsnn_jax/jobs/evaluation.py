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

from bitsnn_jax import config, data
from bitsnn_jax.conversion.spiking import SpikeStats
from bitsnn_jax.runtime.devices import AXIS, over_devices
from bitsnn_jax.tracing.program import ApplyFn

_PROGRAMS = 4  # that stay compiled, for networks that are evaluated again
NetworkFn = Callable[[Any, Any], tuple[Any, SpikeStats]]


class Evaluation(NamedTuple):
    """What a network did on some examples.

    Attributes:
      predictions: int [examples], in an order that depends on the devices only.
      accuracy: share of them that equal the label.
      stats: spikes of all examples; empty for an ANN.
      milliseconds_per_example: median over repeated passes of the first batch.
      compile_seconds: of tracing and compiling; about 0 for a function that was
        evaluated before on images of this shape.
    """

    predictions: np.ndarray
    accuracy: float
    stats: SpikeStats
    milliseconds_per_example: float
    compile_seconds: float


def evaluate(
    network_fn: NetworkFn,
    variables: Any,
    settings: config.Data,
    examples: data.Examples,
    *,
    repeats: int = 5,
) -> Evaluation:
    """Runs a network over every example, on all devices of all hosts.

    The last batch is padded and masked, so that each example counts once on any number
    of devices; the count is asserted.

    Args:
      network_fn: (variables, images [n, ...]) -> (logits [n, classes], SpikeStats), as
        `spiking` makes it; `without_spikes` makes it of an ANN.
      variables: what it takes.
      settings: `eval_batch_size` is read, and rounded up to a multiple of the devices.
      examples: a split.
      repeats: passes of the first batch that are timed.
    """
    devices, hosts = jax.device_count(), jax.process_count()
    size = -(-settings.eval_batch_size // devices) * devices
    shard = {"shard_index": jax.process_index(), "num_shards": hosts}
    batches = iter(data.eval_batches(settings, examples, **shard, batch_size=size))

    first = _split(next(batches))
    mapped = _program(network_fn, tuple(jax.devices()))

    def timed(batch):
        started = time.perf_counter()
        result = jax.block_until_ready(mapped(variables, batch))
        return time.perf_counter() - started, result

    first_seconds, _ = timed(first)
    seconds = statistics.median(timed(first)[0] for _ in range(repeats))

    predictions, totals = [], []
    for batch in itertools.chain([first], map(_split, batches)):
        _, (everywhere, sums) = timed(batch)
        guesses, mask = (_of_one_device(x).ravel() for x in everywhere)
        predictions.append(guesses[mask])
        totals.append(jax.tree.map(lambda x: _of_one_device(x).astype(np.int64), sums))
    correct, count, stats = jax.tree.map(lambda *parts: sum(parts), *totals)
    assert count == len(examples), f"{count} of {len(examples)} examples counted"
    return Evaluation(
        np.concatenate(predictions),
        float(correct / count),
        stats,
        1e3 * seconds / size,
        first_seconds - seconds,
    )


@functools.lru_cache(maxsize=_PROGRAMS)
def _program(network_fn, devices):
    """(variables, batch) -> guesses and masks of all, and sums; on every device."""

    def example(variables, image):
        logits, stats = network_fn(variables, image[None])
        return logits[0].argmax(), stats

    def step(variables, batch):
        guesses, stats = jax.vmap(example, (None, 0))(variables, batch["image"])
        seen = (guesses == batch["label"], jnp.ones(len(guesses)), stats)
        sums = jax.tree.map(lambda x: _masked_sum(x, batch["mask"]), seen)
        everywhere = jax.lax.all_gather((guesses, batch["mask"]), AXIS)
        return everywhere, jax.lax.psum(sums, AXIS)

    return over_devices(step, in_axes=(None, 0), devices=devices)


def without_spikes(apply_fn: ApplyFn) -> NetworkFn:
    """An ANN in the form that `evaluate` takes: (logits, no statistics)."""
    return _WithoutSpikes(apply_fn)


@dataclasses.dataclass(frozen=True)
class _WithoutSpikes:
    """Equal to another of the same function, so that one program serves both."""

    apply_fn: ApplyFn

    def __call__(self, variables, x):
        return self.apply_fn(variables, x), SpikeStats(OrderedDict(), OrderedDict())


def _split(batch):
    """The rows of a batch, shared among the devices of this host."""
    local = jax.local_device_count()
    return jax.tree.map(lambda x: x.reshape(local, -1, *x.shape[1:]), batch)


def _of_one_device(x):
    """What every device has a copy of, from one of this host."""
    return np.asarray(x.addressable_shards[0].data)[0]


def _masked_sum(x, mask):
    kept = mask.reshape(-1, *(1,) * (x.ndim - 1))
    return jnp.sum(jnp.where(kept, x, 0), axis=0, dtype=jnp.int32)
