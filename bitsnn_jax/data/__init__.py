"""Examples, how they are augmented, and the order in which they are met."""

from bitsnn_jax.data.examples import (
    Examples,
    InMemory,
    Streamed,
    normalise,
    scale_and_shift,
)
from bitsnn_jax.data.pipeline import (
    TrainBatches,
    as_evaluated,
    eval_batches,
    steps_per_epoch,
    train_batches,
)
from bitsnn_jax.data.sources import SOURCES, load, load_pictures

__all__ = [
    "SOURCES",
    "Examples",
    "InMemory",
    "Streamed",
    "TrainBatches",
    "as_evaluated",
    "eval_batches",
    "load",
    "load_pictures",
    "normalise",
    "scale_and_shift",
    "steps_per_epoch",
    "train_batches",
]
