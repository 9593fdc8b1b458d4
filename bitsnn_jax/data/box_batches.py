"""Batches of pictures with boxes: augmented to train on, whole to evaluate on."""

from collections.abc import Iterable
from functools import partial

from bitsnn_jax import config
from bitsnn_jax.data.batches import TrainBatches
from bitsnn_jax.data.box_augmentation import augment_boxes, fit_boxes, fit_unread
from bitsnn_jax.data.boxed import BoxedPictures
from bitsnn_jax.data.images import Unreadable
from bitsnn_jax.data.pipeline import changed_batches, mean_colour, read_batches, warn_of


def train_box_batches(
    data: config.Data,
    examples: BoxedPictures,
    *,
    seed: int,
    shard_index: int = 0,
    num_shards: int = 1,
) -> TrainBatches:
    """Return augmented batches without end, every epoch in a new order.

    Args:
      data: `batch_size` (over all shards), `workers`, `unreadable` and what
        `augment_boxes` reads. With "skip", the next readable picture replaces one that
        cannot be read, and a warning names it.
      examples: the training split.
      seed: 0..2**32 - 1; of the order and of the augmentation.
      shard_index: this host, 0..num_shards - 1.
      num_shards: how many hosts share a batch.

    Returns:
      An iterator of rows of `augment_boxes`, each array with one more axis in front; of
      which `TrainBatches` says more.

    Raises:
      ValueError: a batch size that memory does not hold, what `batches.shuffled`
        raises; and `Unreadable` by the iterator.
    """
    fixed = {"most": examples.most, "blank": mean_colour(examples)}
    change = partial(augment_boxes, settings=data, **fixed)
    order = {"seed": seed, "shard_index": shard_index, "num_shards": num_shards}
    return changed_batches(data, examples, change, **order)


def eval_box_batches(
    data: config.Data,
    examples: BoxedPictures,
    *,
    shard_index: int = 0,
    num_shards: int = 1,
    batch_size: int | None = None,
) -> Iterable[dict]:
    """Return every picture exactly once over all shards, whole and in order.

    Args:
      data: `eval_batch_size`, `workers`, `image_size` and `unreadable` are read, the
        last two as in `boxes_as_evaluated`.
      examples: any split.
      shard_index: this host, 0..num_shards - 1.
      num_shards: how many hosts share a batch.
      batch_size: over all shards; None for `data.eval_batch_size`.

    Returns:
      An iterable, as often as wanted, of rows of `fit_boxes`, each array with one more
      axis in front, with "mask": bool [b]. Rows without an example repeat the last one
      and have mask False.

    Raises:
      ValueError: a batch size that memory does not hold, what `batches.in_order`
        raises; and `Unreadable` while it is iterated over.
    """
    order = {"shard_index": shard_index, "num_shards": num_shards}
    read = partial(boxes_as_evaluated, data, examples)
    return read_batches(data, examples, read, batch_size=batch_size, **order)


def boxes_as_evaluated(data: config.Data, examples: BoxedPictures, index: int) -> dict:
    """Return the row of one picture as evaluation sees it, see `fit_boxes`.

    With `data.unreadable="skip"`, a picture that cannot be read has the mean colour and
    keeps its boxes, which a network cannot find then. A warning names it.

    Raises:
      Unreadable: the picture is damaged, with `data.unreadable="error"`.
    """
    blank = mean_colour(examples)
    fixed = {"size": data.image_size, "most": examples.most, "blank": blank}
    try:
        example = examples[index]
    except Unreadable as error:
        if data.unreadable != "skip":
            raise
        warn_of(error, "the network will miss its boxes")
        return fit_unread(examples.truth(index), examples.size(index), **fixed)
    return fit_boxes(example, **fixed)
