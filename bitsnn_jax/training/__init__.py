"""Training of the quantised source network, data parallel."""

from bitsnn_jax.training.run import train_and_evaluate

__all__ = ["train_and_evaluate"]
