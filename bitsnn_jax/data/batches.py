"""Batches of any examples: endless and shuffled to train on, each once to evaluate on.

Several hosts share one global order of examples: host s of n takes the examples at
positions s, s + n, s + 2n, ... Row r of its batch is therefore row r * n + s of the
batch that a single host would have had, random changes included. Nor does the number of
workers change a bit: each makes whole batches, in turn.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from functools import partial
from typing import Any

import grain
import numpy as np

from bitsnn_jax import config
from bitsnn_jax.data.workers import Ahead

# Counted in batches: grain's default of 500 would hold 40 GB of ImageNet.
_THREADS = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)


class TrainBatches(Iterator[dict]):
    """Iterate over batches without end, from a position that can be saved and restored.

    The position is a number of batches, whatever reads them: a run may go on with
    another number of workers.
    """

    def __init__(self, batches: grain.MapDataset, workers: int):
        self._batches, self._workers, self._position = batches, workers, 0
        self._running: list[Iterator[dict]] = []  # one, or none
        weakref.finalize(self, _end, self._running)

    def __next__(self) -> dict:
        if not self._running:
            rest = self._batches[self._position :]
            self._running.append(iter(_Prefetched(rest, self._workers)))
        batch = next(self._running[0])
        self._position += 1
        return batch

    def get_state(self) -> dict[str, int]:
        """Return the position, as a dictionary that JSON can hold."""
        return {"next_index": self._position}

    def set_state(self, state: dict[str, int]) -> None:
        """Go on bit by bit as the iterator that gave `state` would have."""
        self.close()
        self._position = state["next_index"]

    def close(self) -> None:
        """End the workers; the next batch would start new ones."""
        _end(self._running)


def shuffled(
    source: Any,
    *,
    seed: int,
    batch_size: int,
    change: Callable[[Any, np.random.Generator], Any] | None = None,
    workers: int = 0,
    shard_index: int = 0,
    num_shards: int = 1,
) -> TrainBatches:
    """Return batches without end, every epoch in a new order.

    The k-th batch is a function of (seed, k) and of what is passed here. Batches run on
    over the end of an epoch, so nothing is dropped and every example is met once an
    epoch, also when there are fewer examples than rows.

    Args:
      source: a sequence of examples, dictionaries of arrays of equal shapes once they
        are changed.
      seed: 0..2**32 - 1; of the order and of `change`.
      batch_size: rows over all shards.
      change: (example, random generator) -> example; what augments it.
      workers: processes that read and change examples; 0: threads of this one.
      shard_index: this host, 0..num_shards - 1.
      num_shards: how many hosts share a batch.

    Raises:
      ValueError: no examples, a batch size that the shards cannot share, a seed or a
        shard index out of range.
    """
    rows = _rows(batch_size, shard_index, num_shards, field="data.batch_size")
    _check_some(source)
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be in 0..2**32 - 1, got {seed}")
    order = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
    # Changed before it is sharded: the change depends on the position in the global
    # order and not on the number of hosts.
    changed = order if change is None else order.random_map(change)
    batches = _batched(changed, shard_index, num_shards, rows)
    return TrainBatches(batches, workers)


def in_order(
    examples: Sized,
    read: Callable[[int], dict],
    *,
    batch_size: int,
    workers: int = 0,
    shard_index: int = 0,
    num_shards: int = 1,
) -> Iterable[dict]:
    """Return every example exactly once over all shards, without change and in order.

    Every shard gets the same number of equally large batches, so that hosts stay in
    step. Rows without an example repeat the last one and have `mask` False.

    Args:
      examples: how many there are.
      read: index -> example, a dictionary of arrays.
      batch_size: rows over all shards.
      workers, shard_index, num_shards: as in `shuffled`.

    Returns:
      An iterable, as often as wanted, of batches with "mask": bool [rows].

    Raises:
      ValueError: no examples, a batch size that the shards cannot share, or a shard
        index out of range.
    """
    rows = _rows(batch_size, shard_index, num_shards, field="data.eval_batch_size")
    _check_some(examples)
    last = len(examples) - 1
    padded_length = -(-len(examples) // batch_size) * batch_size
    order = grain.MapDataset.range(padded_length).map(
        partial(_masked, read=read, last=last)
    )
    batches = _batched(order, shard_index, num_shards, rows)
    # More workers than batches would have nothing to do.
    return _Prefetched(batches, min(workers, len(batches)))


def steps_per_epoch(data: config.Data, examples: Sized) -> int:
    """Return the batches in an epoch: examples / batch_size, rounded up."""
    return -(-len(examples) // data.batch_size)


def along(mask: Any, x: Any) -> Any:
    """Give a mask of rows, [n], the axes of x, [n, ...], so that it broadcasts.

    >>> along(np.array([True, False]), np.ones((2, 3, 4))).shape
    (2, 1, 1)
    """
    return mask.reshape(-1, *(1,) * (x.ndim - 1))


def _masked(index, *, read, last):
    return {**read(min(index, last)), "mask": index <= last}


def _batched(order, shard_index, num_shards, rows):
    # There is no remainder to drop, the order is endless or padded; but without the
    # flag grain counts batches in floating point and overflows for an endless order.
    return order[shard_index::num_shards].batch(rows, drop_remainder=True)


@dataclass(frozen=True)
class _Prefetched(Iterable[dict]):
    """Batches made ahead, by threads or by processes."""

    batches: grain.MapDataset
    workers: int

    def __iter__(self) -> Iterator[dict]:
        made = (
            Ahead(self.batches, workers=self.workers)
            if self.workers
            else iter(self.batches.to_iter_dataset(_THREADS))
        )
        try:
            yield from made
        finally:
            made.close()


def _end(iterators):
    while iterators:
        iterators.pop().close()


def _rows(batch_size, shard_index, num_shards, *, field):
    """Count the rows of one shard's batch."""
    if not 0 <= shard_index < num_shards:
        raise ValueError(
            f"shard_index must be in 0..{num_shards - 1}, got {shard_index}"
        )
    if batch_size < 1 or batch_size % num_shards:
        raise ValueError(
            f"{field} must be a positive multiple of the {num_shards} shards, got "
            f"{batch_size}"
        )
    return batch_size // num_shards


def _check_some(examples):
    if not len(examples):
        raise ValueError("expected at least one example, got none: see data.directory")
