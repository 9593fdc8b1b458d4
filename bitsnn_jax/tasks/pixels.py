"""What all tasks have in common whose inputs are pixels."""

import dataclasses
from typing import Any, Self

import numpy as np

from bitsnn_jax import config, data
from bitsnn_jax.tasks.task import Batch, Numbers, Task


@dataclasses.dataclass(frozen=True)
class OfPixels(Task):
    """Pixels as uint8, normalised with the mean and deviation of a data set.

    Attributes:
      normalisation: of pixels; None without a data set, for pictures that are
        normalised.
    """

    normalisation: data.Normalisation | None = None

    def on(self, examples: Any) -> Self:
        found = data.Normalisation.of(examples)
        return dataclasses.replace(self, normalisation=found)

    def inputs(self, batch: Batch) -> Any:
        image = batch["image"]
        if image.dtype != np.uint8:  # normalised already
            return image
        if self.normalisation is None:
            raise ValueError(
                f"expected {self.noun} that are normalised, as floats, got pixels, as "
                "uint8: take task.on(examples), which normalises them"
            )
        return self.normalisation(image)

    def numbers(self, config: config.Config, examples: Any) -> Numbers:
        del config
        return Numbers("image", 255, np.float32, data.normaliser(examples))
