"""Batches of examples: endless and shuffled to train on, each once to evaluate on.

Several hosts share one global order of examples: host s of n takes the examples at
positions s, s + n, s + 2n, ... Row r of its batch is therefore row r * n + s of the
batch that a single host would have had, augmentation included.
"""

from functools import partial

import grain

from bitsnn_jax import config
from bitsnn_jax.data.augment import augment
from bitsnn_jax.data.sources import Examples, normalise

# Counted in batches: grain's default of 500 would hold 40 GB of ImageNet.
_READ = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)


def train_batches(
    data: config.Data,
    examples: Examples,
    *,
    seed: int,
    shard_index: int = 0,
    num_shards: int = 1,
) -> grain.DatasetIterator:
    """Batches without end, every epoch in a new order.

    The k-th batch is a function of (seed, k) and of what is passed here. Batches run on
    over the end of an epoch, so nothing is dropped and every example is met once an
    epoch, also when there are fewer examples than rows.

    Args:
      data: `batch_size` (over all shards), `crop` and `flip` are read.
      examples: the training split.
      seed: 0..2**32 - 1; of the order and of the augmentation.
      shard_index: this host, 0..num_shards - 1.
      num_shards: how many hosts share a batch.

    Returns:
      An iterator of {"image": float32 [b, h, w, c], "label": int32 [b]} with
      b = batch_size / num_shards. `get_state()` gives its position, a dictionary that
      JSON can hold; after `set_state()` with it, a new iterator (of the same arguments)
      goes on bit by bit as the old one would have.

    Raises:
      ValueError: no examples, a batch size that the shards cannot share, a seed or a
        shard index out of range.
    """
    rows = _rows(data.batch_size, shard_index, num_shards, field="data.batch_size")
    _check_some(examples)
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be in 0..2**32 - 1, got {seed}")
    change = partial(augment, crop=data.crop, flip=data.flip)
    order = grain.MapDataset.source(examples).seed(seed).shuffle().repeat()
    # Augmented before it is sharded: the change depends on the position in the global
    # order and not on the number of hosts.
    return iter(
        _batched(order.random_map(change), examples, shard_index, num_shards, rows)
    )


def eval_batches(
    data: config.Data,
    examples: Examples,
    *,
    shard_index: int = 0,
    num_shards: int = 1,
    batch_size: int | None = None,
) -> grain.IterDataset:
    """Every example exactly once over all shards, as they are and in order.

    Every shard gets the same number of equally large batches, so that hosts stay in
    step. Rows without an example repeat the last one and have mask False.

    Args:
      data: `eval_batch_size` is read.
      examples: any split.
      shard_index: this host, 0..num_shards - 1.
      num_shards: how many hosts share a batch.
      batch_size: over all shards; None for `data.eval_batch_size`.

    Returns:
      An iterable, as often as wanted, of {"image": float32 [b, h, w, c],
      "label": int32 [b], "mask": bool [b]} with b = batch_size / num_shards.

    Raises:
      ValueError: no examples, a batch size that the shards cannot share, or a shard
        index out of range.
    """
    size = data.eval_batch_size if batch_size is None else batch_size
    rows = _rows(size, shard_index, num_shards, field="data.eval_batch_size")
    _check_some(examples)
    last = len(examples) - 1
    padded_length = -(-len(examples) // size) * size
    order = grain.MapDataset.range(padded_length).map(
        lambda i: {**examples[min(i, last)], "mask": i <= last}
    )
    return _batched(order, examples, shard_index, num_shards, rows)


def steps_per_epoch(data: config.Data, examples: Examples) -> int:
    """Batches until every example was met: examples / batch_size, rounded up."""
    return -(-len(examples) // data.batch_size)


def _batched(order, examples, shard_index, num_shards, rows):
    def prepared(batch):
        return {**batch, "image": normalise(batch["image"], examples)}

    # There is no remainder to drop, the order is endless or padded; but without the
    # flag grain counts batches in floating point and overflows for an endless order.
    shard = order[shard_index::num_shards].batch(rows, drop_remainder=True)
    return shard.map(prepared).to_iter_dataset(_READ)


def _rows(batch_size, shard_index, num_shards, *, field):
    """Rows of one shard's batch."""
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
