"""Examples, how they are augmented, and the order in which they are met."""

from bitsnn_jax.data.batches import (
    TrainBatches,
    in_order,
    shuffled,
    steps_per_epoch,
)
from bitsnn_jax.data.box_batches import (
    boxes_as_evaluated,
    eval_box_batches,
    train_box_batches,
)
from bitsnn_jax.data.boxed import BOXES, BoxedPictures, load_boxes
from bitsnn_jax.data.examples import (
    Examples,
    InMemory,
    Normalisation,
    Streamed,
    normalise,
    normaliser,
    scale_and_shift,
)
from bitsnn_jax.data.pipeline import as_evaluated, eval_batches, train_batches
from bitsnn_jax.data.sentences import SENTENCES, Sentences, load_sentences
from bitsnn_jax.data.sources import SOURCES, load, load_pictures

__all__ = [
    "BOXES",
    "SENTENCES",
    "SOURCES",
    "BoxedPictures",
    "Examples",
    "InMemory",
    "Normalisation",
    "Sentences",
    "Streamed",
    "TrainBatches",
    "as_evaluated",
    "boxes_as_evaluated",
    "eval_batches",
    "eval_box_batches",
    "in_order",
    "load",
    "load_boxes",
    "load_pictures",
    "load_sentences",
    "normalise",
    "normaliser",
    "scale_and_shift",
    "shuffled",
    "steps_per_epoch",
    "train_batches",
    "train_box_batches",
]
