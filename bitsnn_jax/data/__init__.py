"""Examples, how they are augmented, and the order in which they are met."""

from bitsnn_jax.data.pipeline import eval_batches, steps_per_epoch, train_batches
from bitsnn_jax.data.sources import SOURCES, Examples, load, normalise

__all__ = [
    "SOURCES",
    "Examples",
    "eval_batches",
    "load",
    "normalise",
    "steps_per_epoch",
    "train_batches",
]
