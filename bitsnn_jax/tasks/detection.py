"""Pictures with boxes, each of one category."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax import config, data, detection
from bitsnn_jax.models import DETECTORS, build_model
from bitsnn_jax.tasks.pixels import OfPixels
from bitsnn_jax.tasks.task import Batch, Deviation, Distance


@dataclasses.dataclass(frozen=True)
class Detection(OfPixels):
    """Boxes by anchors, of focal loss and offsets; COCO's average precision.

    Outputs are {"boxes", "classes"}: an array a level of the pyramid in each, see
    `detection.flat`. What is predicted lies in pixels of the network's input; average
    precision is that of the original pictures.

    Attributes:
      image_shape: height and width of the network's input.
      categories: their names.
    """

    image_shape: tuple[int, int] = (0, 0)
    categories: tuple[str, ...] = ()

    noun = "pictures"
    sources = data.BOXES
    models = DETECTORS
    score, answers = "AP", "detections"
    unheeded = (
        *("data.max_length", "data.vocabulary", "data.random_resized_crop"),
        *("data.crop", "data.autoaugment", "data.cutout", "loss.label_smoothing"),
        "binary.method",
    )

    def load(self, settings: config.Data, split: str) -> data.BoxedPictures:
        return data.load_boxes(settings, split)

    def train_batches(
        self, settings: config.Data, examples: data.BoxedPictures, **order: Any
    ) -> data.TrainBatches:
        return data.train_box_batches(settings, examples, **order)

    def eval_batches(
        self, settings: config.Data, examples: data.BoxedPictures, **order: Any
    ) -> Iterable[dict]:
        return data.eval_box_batches(settings, examples, **order)

    def check(self, config: config.Config, examples: data.BoxedPictures) -> None:
        if config.model.num_classes != examples.num_classes:
            raise ValueError(
                f"model.num_classes must be {examples.num_classes}, the categories of "
                f"data.directory={config.data.directory}; got "
                f"{config.model.num_classes}"
            )

    def build(
        self,
        config: config.Config,
        input_shape: tuple[int, ...],
        *,
        axis_name: str | None = None,
    ) -> nn.Module:
        height, width, channels = input_shape
        shape = (height, width, channels)
        return build_model(config.model, image_shape=shape, axis_name=axis_name)

    def on(self, examples: data.BoxedPictures) -> Self:
        height, width, _ = examples.input_shape
        return dataclasses.replace(
            super().on(examples),
            image_shape=(height, width),
            categories=examples.categories,
        )

    def loss(
        self, outputs: Any, batch: Batch, settings: config.Loss | None = None
    ) -> jax.Array:
        logits, offsets = detection.flat(outputs)
        return detection.loss(
            logits,
            offsets,
            self._anchors(outputs),
            batch["boxes"],
            batch["classes"],
            batch["crowd"],
            box_loss=(settings or config.Loss()).boxes,
        )

    def counts(self, outputs: Any, batch: Batch) -> dict[str, jax.Array]:
        """Count anchors that a box is matched to, and those whose class is right."""
        logits, _ = detection.flat(outputs)
        found = jax.vmap(detection.match, (None, 0, 0, 0))(
            self._anchors(outputs), batch["boxes"], batch["classes"], batch["crowd"]
        )
        matched = found >= 0
        classes = jnp.take_along_axis(batch["classes"], jnp.maximum(found, 0), 1)
        right = matched & (logits.argmax(-1) == classes)
        return {"matched": matched.sum(1), "right": right.sum(1)}

    def measures(self, counts: Mapping[str, Any], examples: float) -> dict[str, float]:
        return {"anchor_accuracy": counts["right"] / max(counts["matched"], 1)}

    def evidence(self, outputs: Any, batch: Batch) -> dict[str, Any]:
        names = ("boxes", "classes", "crowd", "area", "scale")
        truth = {name: batch[name] for name in names}
        return {"truth": truth, "found": self.predictions(outputs)}

    def judge(self, evidence: Mapping[str, Any]) -> dict[str, float]:
        truth, found = evidence["truth"], evidence["found"]
        measures = detection.average_precision(
            truth, found, categories=len(self.categories)
        )
        if not measures:
            raise ValueError(
                f"expected a box in some of {len(truth['classes'])} pictures, to judge "
                "by, got none"
            )
        return measures

    def predictions(self, outputs: Any) -> detection.Detections:
        logits, offsets = detection.flat(outputs)
        sizes = detection.level_sizes(detection.shapes(outputs))
        anchors = self._anchors(outputs)
        return detection.detect(logits, offsets, anchors, sizes, self.image_shape)

    def deviation(self, one: Any, other: Any) -> Deviation:
        """Compare boxes in pixels of the network's input, in whatever order they are.

        An example differs where a class has more boxes in one than in the other.
        """
        found = detection.agreement(one, other)
        boxes = Distance("boxes", found.boxes, "pixels")
        return Deviation(found.unlike, (boxes, Distance("scores", found.scores)))

    def shown(
        self, settings: config.Data, examples: data.BoxedPictures, index: int
    ) -> tuple[dict, dict]:
        example = data.boxes_as_evaluated(settings, examples, index)
        batch = {name: np.asarray(x)[None] for name, x in example.items()}
        pixels = np.squeeze(example["image"])
        truth = self._named(example["boxes"], example["classes"])
        facts = {"image": pixels.tolist(), "truth": truth}
        return batch | {"mask": np.ones(1, bool)}, facts

    def answer(self, outputs: Any) -> dict:
        found = jax.tree.map(lambda x: np.asarray(x)[0], self.predictions(outputs))
        named = self._named(found.boxes, found.classes)
        for each, score in zip(named, found.scores, strict=False):
            each["score"] = float(score)
        return {"found": named}

    def _anchors(self, outputs: Any) -> jax.Array:
        shapes = detection.shapes(outputs)
        return jnp.asarray(detection.anchors(self.image_shape, shapes))

    def _named(self, boxes, classes):
        """Say boxes with their categories, for JSON; those that are none come last."""
        return [
            {
                "box": np.asarray(box, float).tolist(),
                "category": self.categories[category],
            }
            for box, category in zip(boxes, classes, strict=True)
            if category >= 0
        ]
