"""What all tasks have in common whose examples are each of one class."""

from typing import Any

import jax
import numpy as np
import optax

from bitsnn_jax import config
from bitsnn_jax.tasks.task import Batch, Task


class Classification(Task):
    """Cross-entropy of logits, [n, classes]; the largest is the answer."""

    def check(self, config: config.Config, examples: Any) -> None:
        if config.model.num_classes != examples.num_classes:
            raise ValueError(
                f"model.num_classes must be {examples.num_classes}, the classes of "
                f"data.name={config.data.name}; got {config.model.num_classes}"
            )

    def loss(
        self, outputs: Any, batch: Batch, settings: config.Loss | None = None
    ) -> jax.Array:
        labels = batch["label"]
        if settings is None:
            return optax.softmax_cross_entropy_with_integer_labels(outputs, labels)
        return optax.softmax_cross_entropy(outputs, _targets(outputs, batch, settings))

    def squared_error(
        self, outputs: Any, batch: Batch, settings: config.Loss | None = None
    ) -> jax.Array:
        """Return the mean over classes of (outputs - one-hot label)^2, [n]."""
        targets = _targets(outputs, batch, settings or config.Loss())
        return ((outputs - targets) ** 2).mean(-1)

    def distance(self, outputs: Any, taught: Any, settings: config.Loss) -> jax.Array:
        """Return T^2 KL(softmax(taught / T) || softmax(outputs / T)), [n].

        Hinton et al. 2015; T is `settings.temperature`, and T^2 keeps gradients as
        large as those of the labels.
        """
        t = settings.temperature
        known, found = jax.nn.softmax(taught / t), jax.nn.log_softmax(outputs / t)
        return t**2 * optax.losses.kl_divergence(found, known)

    def predictions(self, outputs: Any) -> Any:
        return outputs.argmax(-1)

    def answer(self, outputs: Any) -> dict:
        return {
            "prediction": int(np.argmax(outputs[0])),
            "logits": np.asarray(outputs[0], float).tolist(),
        }


def _targets(outputs, batch, settings):
    classes = jax.nn.one_hot(batch["label"], outputs.shape[-1])
    return optax.smooth_labels(classes, settings.label_smoothing)
