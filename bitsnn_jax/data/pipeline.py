"""Batches of examples: endless and shuffled to train on, each once to evaluate on.

Several hosts share one global order of examples: host s of n takes the examples at
positions s, s + n, s + 2n, ... Row r of its batch is therefore row r * n + s of the
batch that a single host would have had, augmentation included. Nor does the number of
workers change a bit: each makes whole batches, in turn.
"""

import math
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import grain
import numpy as np

from bitsnn_jax import config
from bitsnn_jax.data.augment import augment, resize_and_crop
from bitsnn_jax.data.examples import Examples, normalise
from bitsnn_jax.data.images import Unreadable
from bitsnn_jax.data.memory import check_fits
from bitsnn_jax.data.workers import Ahead

# Counted in batches: grain's default of 500 would hold 40 GB of ImageNet.
_THREADS = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)


class TrainBatches(Iterator[dict]):
    """An endless iterator over batches whose position can be saved and restored.

    The position is a number of batches, whatever reads them: a run may go on with
    another number of workers.
    """

    def __init__(self, batches: grain.MapDataset, examples: Examples, workers: int):
        self._batches, self._examples, self._workers = batches, examples, workers
        self._position = 0
        self._running: list[Iterator[dict]] = []  # one, or none
        weakref.finalize(self, _end, self._running)

    def __next__(self) -> dict:
        if not self._running:
            rest = self._batches[self._position :]
            prepare = partial(normalise, examples=self._examples)
            self._running.append(iter(_Prefetched(rest, prepare, self._workers)))
        batch = next(self._running[0])
        self._position += 1
        return batch

    def get_state(self) -> dict[str, int]:
        """The position, as a dictionary that JSON can hold."""
        return {"next_index": self._position}

    def set_state(self, state: dict[str, int]) -> None:
        """Goes on bit by bit as the iterator that gave `state` would have."""
        self.close()
        self._position = state["next_index"]

    def close(self) -> None:
        """Ends the workers; the next batch would start new ones."""
        _end(self._running)


def train_batches(
    data: config.Data,
    examples: Examples,
    *,
    seed: int,
    shard_index: int = 0,
    num_shards: int = 1,
) -> TrainBatches:
    """Batches without end, every epoch in a new order.

    The k-th batch is a function of (seed, k) and of what is passed here. Batches run on
    over the end of an epoch, so nothing is dropped and every example is met once an
    epoch, also when there are fewer examples than rows.

    Args:
      data: `batch_size` (over all shards), `workers`, `unreadable` and what `augment`
        reads. With "skip", an example that cannot be read is replaced by the next one
        that can, and a warning names it.
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
      ValueError: no examples, a batch size that the shards cannot share or that memory
        does not hold, a seed, a shard index or `data.crop` out of range; and
        `Unreadable` by the iterator.
    """
    rows = _rows(data.batch_size, shard_index, num_shards, field="data.batch_size")
    _check_some(examples)
    _check_room("data.batch_size", rows, examples)
    side = min(examples.image_shape[:2])
    if data.crop >= side:
        raise ValueError(
            f"data.crop must be below the {side} pixels of an image's side, got "
            f"{data.crop}: windows without a pixel of the image would be drawn"
        )
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be in 0..2**32 - 1, got {seed}")
    if data.autoaugment and examples.white != 255:
        raise ValueError(
            f"data.autoaugment must be False for data.name={data.name}: it is made for "
            f"pixels of 0..255, and white is {examples.white} there"
        )
    # The papers blank images out after normalisation, with 0: the mean colour.
    blank = np.rint(examples.mean * examples.white).astype(int).tolist()
    source = _Readable(examples) if data.unreadable == "skip" else examples
    order = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
    # Augmented before it is sharded: the change depends on the position in the global
    # order and not on the number of hosts.
    changed = order.random_map(partial(augment, settings=data, blank=blank))
    batches = _batched(changed, shard_index, num_shards, rows)
    return TrainBatches(batches, examples, data.workers)


def eval_batches(
    data: config.Data,
    examples: Examples,
    *,
    shard_index: int = 0,
    num_shards: int = 1,
    batch_size: int | None = None,
    pixels: bool = False,
) -> Iterable[dict]:
    """Every example exactly once over all shards, without change and in order.

    Every shard gets the same number of equally large batches, so that hosts stay in
    step. Rows without an example repeat the last one and have mask False.

    Args:
      data: `eval_batch_size`, `workers`, `image_size` and `unreadable` are read, the
        last two as in `as_evaluated`.
      examples: any split.
      shard_index: this host, 0..num_shards - 1.
      num_shards: how many hosts share a batch.
      batch_size: over all shards; None for `data.eval_batch_size`.
      pixels: images as they are stored, for a network that normalises them itself.

    Returns:
      An iterable, as often as wanted, of {"image": float32 [b, h, w, c], or uint8 with
      `pixels`; "label": int32 [b], "mask": bool [b]} with b = batch_size / num_shards.

    Raises:
      ValueError: no examples, a batch size that the shards cannot share or that memory
        does not hold, or a shard index out of range; and `Unreadable` while it is
        iterated over.
    """
    size = data.eval_batch_size if batch_size is None else batch_size
    rows = _rows(size, shard_index, num_shards, field="data.eval_batch_size")
    _check_some(examples)
    _check_room("data.eval_batch_size", rows, examples)
    last = len(examples) - 1
    padded_length = -(-len(examples) // size) * size
    order = grain.MapDataset.range(padded_length).map(
        partial(_masked, data=data, examples=examples, last=last)
    )
    batches = _batched(order, shard_index, num_shards, rows)
    # More workers than batches would have nothing to do.
    prepare = np.array if pixels else partial(normalise, examples=examples)
    return _Prefetched(batches, prepare, min(data.workers, len(batches)))


def _masked(index, *, data, examples, last):
    return {
        **as_evaluated(data, examples, min(index, last)),
        "mask": index <= last,
    }


def as_evaluated(data: config.Data, examples: Examples, index: int) -> dict:
    """One example as evaluation sees it: {"image": uint8 [h, w, c], "label"}.

    The image is brought to `data.image_size` by `resize_and_crop`, if that is not 0.
    With `data.unreadable="skip"`, an image that cannot be read is black and its label
    is -1, which no network answers: it counts as an error, and a warning names it.

    Raises:
      Unreadable: the image is damaged, with `data.unreadable="error"`.
    """
    try:
        example = examples[index]
    except Unreadable as error:
        if data.unreadable != "skip":
            raise
        _warn(error, "it counts as an error of the network")
        return {
            "image": np.zeros(examples.image_shape, np.uint8),
            "label": np.int32(-1),
        }
    if data.image_size:
        example["image"] = resize_and_crop(example["image"], size=data.image_size)
    return example


def steps_per_epoch(data: config.Data, examples: Examples) -> int:
    """Batches until every example was met: examples / batch_size, rounded up."""
    return -(-len(examples) // data.batch_size)


@dataclass(frozen=True)
class _Readable:
    """Examples of which a damaged one is replaced by the next that is whole."""

    examples: Examples

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        for i in range(len(self)):
            try:
                return self.examples[(index + i) % len(self)]
            except Unreadable as error:
                _warn(error, "another one takes its place")
        raise Unreadable("data.directory: expected a whole image, found none")


def _warn(error, consequence):
    # Python shows a warning of the same text once in a process.
    found, _, _ = str(error).rpartition(";")
    warnings.warn(f"{found}; {consequence}", stacklevel=2)


def _batched(order, shard_index, num_shards, rows):
    # There is no remainder to drop, the order is endless or padded; but without the
    # flag grain counts batches in floating point and overflows for an endless order.
    return order[shard_index::num_shards].batch(rows, drop_remainder=True)


@dataclass(frozen=True)
class _Prefetched(Iterable[dict]):
    """Batches made ahead, by threads or by processes, and images prepared here.

    Pixels travel from a worker as bytes, a fourth of float32.
    """

    batches: grain.MapDataset
    prepare: Callable[[np.ndarray], np.ndarray]
    workers: int

    def __iter__(self) -> Iterator[dict]:
        made = (
            Ahead(self.batches, workers=self.workers)
            if self.workers
            else iter(self.batches.to_iter_dataset(_THREADS))
        )
        try:
            for batch in made:
                yield {**batch, "image": self.prepare(batch["image"])}
        finally:
            made.close()


def _end(iterators):
    while iterators:
        iterators.pop().close()


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


def _check_room(field, rows, examples):
    """One batch must fit, as float32."""
    shape = " x ".join(map(str, examples.image_shape))
    what = f"{field}: {rows} rows of {shape} (data.image_size)"
    check_fits(what, 4.0 * rows * math.prod(examples.image_shape))
