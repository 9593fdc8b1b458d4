"""Images, each of one class."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from bitsnn_jax import config, data
from bitsnn_jax.binary import binary_network
from bitsnn_jax.direct import trained_directly
from bitsnn_jax.models import MODELS, build_model
from bitsnn_jax.tasks.classification import Classification
from bitsnn_jax.tasks.pixels import OfPixels
from bitsnn_jax.tasks.task import Batch


class ImageClassification(OfPixels, Classification):
    """Logits of images, and the share of labels that are met."""

    noun = "images"
    sources = data.SOURCES
    models = MODELS
    unheeded = ("data.scale_jitter", "data.max_length", "data.vocabulary", "loss.boxes")
    score = "accuracy"
    place = "patch"

    def load(self, settings: config.Data, split: str) -> data.Examples:
        return data.load(settings, split)

    def train_batches(
        self, settings: config.Data, examples: data.Examples, **order: Any
    ) -> data.TrainBatches:
        return data.train_batches(settings, examples, **order)

    def eval_batches(
        self, settings: config.Data, examples: data.Examples, **order: Any
    ) -> Iterable[dict]:
        return data.eval_batches(settings, examples, **order)

    def build(
        self,
        config: config.Config,
        input_shape: tuple[int, ...],
        *,
        axis_name: str | None = None,
    ) -> nn.Module:
        if len(input_shape) != 3:
            raise ValueError(
                f"images have height, width and channels, got a shape of {input_shape}"
            )
        height, width, channels = input_shape
        image_shape = (height, width, channels)
        if config.binary.method:
            return binary_network(
                config.binary,
                config.model,
                image_shape=image_shape,
                axis_name=axis_name,
            )
        network = partial(
            build_model, config.model, image_shape=image_shape, axis_name=axis_name
        )
        return trained_directly(config, network)

    def counts(self, outputs: Any, batch: Batch) -> dict[str, jax.Array]:
        return {"correct": self.predictions(outputs) == batch["label"]}

    def measures(self, counts: Mapping[str, Any], examples: float) -> dict[str, float]:
        return {"accuracy": counts["correct"] / examples}

    def whole(self, batch: Batch) -> Any:
        # Label -1 stands for an image that could not be read.
        return batch["mask"] & (batch["label"] >= 0)

    def shown(
        self, settings: config.Data, examples: data.Examples, index: int
    ) -> tuple[dict, dict]:
        example = data.as_evaluated(settings, examples, index)
        pixels, label = example["image"], np.asarray(example["label"])
        batch = {
            "image": pixels[None],
            "label": label[None],
            "mask": np.ones(1, bool),
        }
        return batch, {"label": int(label), "image": np.squeeze(pixels).tolist()}
