"""Batches of images: augmented to train on, as they are to evaluate on."""

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bitsnn_jax import config
from bitsnn_jax.data.augment import augment, resize_and_crop
from bitsnn_jax.data.batches import TrainBatches, in_order, shuffled
from bitsnn_jax.data.examples import Examples
from bitsnn_jax.data.images import Unreadable
from bitsnn_jax.data.memory import check_fits


def train_batches(
    data: config.Data,
    examples: Examples,
    *,
    seed: int,
    shard_index: int = 0,
    num_shards: int = 1,
) -> TrainBatches:
    """Return augmented batches without end, every epoch in a new order.

    Args:
      data: `batch_size` (over all shards), `workers`, `unreadable` and what `augment`
        reads. With "skip", the next readable example replaces one that cannot be read,
        and a warning names it.
      examples: the training split.
      seed: 0..2**32 - 1; of the order and of the augmentation.
      shard_index: this host, 0..num_shards - 1.
      num_shards: how many hosts share a batch.

    Returns:
      An iterator of {"image": uint8 [b, h, w, c], "label": int32 [b]} with
      b = batch_size / num_shards; `normalise` makes the input of a network of the
      images. `get_state()` gives its position, a dictionary that JSON can hold; after
      `set_state()` with it, a new iterator (of the same arguments) goes on bit by bit
      as the old one would have.

    Raises:
      ValueError: a batch size that memory does not hold, `data.crop` out of range, what
        `batches.shuffled` raises; and `Unreadable` by the iterator.
    """
    side = min(examples.image_shape[:2])
    if data.crop >= side:
        raise ValueError(
            f"data.crop must be below the {side} pixels of an image's side, got "
            f"{data.crop}: windows without a pixel of the image would be drawn"
        )
    if data.autoaugment and examples.white != 255:
        raise ValueError(
            f"data.autoaugment must be False for data.name={data.name}: it is made for "
            f"pixels of 0..255, and white is {examples.white} there"
        )
    # The papers blank images out after normalisation, with 0.
    change = partial(augment, settings=data, blank=mean_colour(examples))
    order = {"seed": seed, "shard_index": shard_index, "num_shards": num_shards}
    return changed_batches(data, examples, change, **order)


def eval_batches(
    data: config.Data,
    examples: Examples,
    *,
    shard_index: int = 0,
    num_shards: int = 1,
    batch_size: int | None = None,
) -> Iterable[dict]:
    """Return every example exactly once over all shards, without change and in order.

    Args:
      data: `eval_batch_size`, `workers`, `image_size` and `unreadable` are read, the
        last two as in `as_evaluated`.
      examples: any split.
      shard_index: this host, 0..num_shards - 1.
      num_shards: how many hosts share a batch.
      batch_size: over all shards; None for `data.eval_batch_size`.

    Returns:
      An iterable, as often as wanted, of {"image": uint8 [b, h, w, c], "label": int32
      [b], "mask": bool [b]} with b = batch_size / num_shards. Rows without an example
      repeat the last one and have mask False.

    Raises:
      ValueError: a batch size that memory does not hold, what `batches.in_order`
        raises; and `Unreadable` while it is iterated over.
    """
    order = {"shard_index": shard_index, "num_shards": num_shards}
    read = partial(as_evaluated, data, examples)
    return read_batches(data, examples, read, batch_size=batch_size, **order)


def as_evaluated(data: config.Data, examples: Examples, index: int) -> dict:
    """Return one example as evaluation sees it: {"image": uint8 [h, w, c], "label"}.

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
        warn_of(error, "it counts as an error of the network")
        return {
            "image": np.zeros(examples.image_shape, np.uint8),
            "label": np.int32(-1),
        }
    if data.image_size:
        example["image"] = resize_and_crop(example["image"], size=data.image_size)
    return example


def changed_batches(
    data: config.Data,
    examples: Any,
    change: Callable[..., Any],
    *,
    num_shards: int,
    **order: int,
) -> TrainBatches:
    """Return shuffled batches of changed examples, all of them readable."""
    _check_room("data.batch_size", data.batch_size // num_shards, examples)
    return shuffled(
        Readable(examples) if data.unreadable == "skip" else examples,
        batch_size=data.batch_size,
        change=change,
        workers=data.workers,
        num_shards=num_shards,
        **order,
    )


def read_batches(
    data: config.Data,
    examples: Any,
    read: Callable[[int], dict],
    *,
    batch_size: int | None,
    num_shards: int,
    **order: int,
) -> Iterable[dict]:
    """Return what `read` makes of each index, in order."""
    size = data.eval_batch_size if batch_size is None else batch_size
    _check_room("data.eval_batch_size", size // num_shards, examples)
    return in_order(
        examples,
        read,
        batch_size=size,
        workers=data.workers,
        num_shards=num_shards,
        **order,
    )


def mean_colour(examples: Any) -> list[int]:
    """Return the pixel that is nearest to 0 after normalisation."""
    return np.rint(examples.mean * examples.white).astype(int).tolist()


@dataclass(frozen=True)
class Readable:
    """Examples of which a damaged one is replaced by the next that is whole."""

    examples: Examples

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        for i in range(len(self)):
            try:
                return self.examples[(index + i) % len(self)]
            except Unreadable as error:
                warn_of(error, "another one takes its place")
        raise Unreadable("data.directory: expected a whole image, found none")


def warn_of(error, consequence):
    # Python shows a warning of the same text once in a process.
    found, _, _ = str(error).rpartition(";")
    warnings.warn(f"{found}; {consequence}", stacklevel=2)


def _check_room(field, rows, examples):
    """Check that one batch fits, as the pixels that it is here."""
    shape = " x ".join(map(str, examples.image_shape))
    what = f"{field}: {rows} rows of {shape} (data.image_size)"
    check_fits(what, float(rows) * math.prod(examples.image_shape))
