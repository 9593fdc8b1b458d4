"""Sentences, or pairs of them, each of one class."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax import config, data
from bitsnn_jax.models import TEXT_MODELS, build_model
from bitsnn_jax.models.bert import BERT_SIZES
from bitsnn_jax.tasks.classification import Classification
from bitsnn_jax.tasks.task import Batch, Numbers


@dataclasses.dataclass(frozen=True)
class SentenceClassification(Classification):
    """Logits of tokens, int32 [n, 3, max_length]: word pieces, their types and a mask.

    Attributes:
      more: measures besides accuracy, of the data set: "f1" of class 1, "matthews".
      score: the measure that chooses the best checkpoint.
    """

    more: tuple[str, ...] = ()
    score: str = "accuracy"

    noun = "sentences"
    place = "word piece"
    sources = data.SENTENCES
    models = TEXT_MODELS
    unheeded = (
        *("data.image_size", "data.random_resized_crop", "data.crop", "data.flip"),
        *("data.scale_jitter", "data.autoaugment", "data.color_jitter", "data.cutout"),
        *("loss.boxes", "binary.method"),
    )

    def load(self, settings: config.Data, split: str) -> data.Sentences:
        return data.load_sentences(settings, split)

    def train_batches(
        self, settings: config.Data, examples: data.Sentences, **order: Any
    ) -> data.TrainBatches:
        size, workers = settings.batch_size, settings.workers
        return data.shuffled(examples, batch_size=size, workers=workers, **order)

    def eval_batches(
        self,
        settings: config.Data,
        examples: data.Sentences,
        *,
        batch_size: int | None = None,
        **order: Any,
    ) -> Iterable[dict]:
        return data.in_order(
            examples,
            examples.__getitem__,
            batch_size=batch_size or settings.eval_batch_size,
            workers=settings.workers,
            **order,
        )

    def check(self, config: config.Config, examples: data.Sentences) -> None:
        super().check(config, examples)
        self.check_inputs(config, examples)

    def check_inputs(self, config: config.Config, examples: data.Sentences) -> None:
        known = BERT_SIZES[config.model.name].vocabulary
        if examples.pieces and len(examples.pieces) != known:
            raise ValueError(
                f"data.vocabulary must have the {known} lines that model.name="
                f"{config.model.name} knows, got {len(examples.pieces)}: take the "
                "vocab.txt of its Hugging Face folder"
            )

    def build(
        self,
        config: config.Config,
        input_shape: tuple[int, ...],
        *,
        axis_name: str | None = None,
    ) -> nn.Module:
        if len(input_shape) != 2 or input_shape[0] != 3:
            raise ValueError(
                f"sentences have 3 rows of tokens, got a shape of {input_shape}"
            )
        return build_model(config.model, axis_name=axis_name)

    def on(self, examples: data.Sentences) -> Self:
        more = examples.measures
        # As GLUE judges CoLA.
        score = "matthews" if "matthews" in more else "accuracy"
        return dataclasses.replace(self, more=more, score=score)

    def inputs(self, batch: Batch) -> Any:
        return batch["tokens"]

    def placeholder(self, input_shape: tuple[int, ...]) -> Any:
        return jax.ShapeDtypeStruct((1, *input_shape), np.int32)

    def numbers(self, config: config.Config, examples: data.Sentences) -> Numbers:
        words = BERT_SIZES[config.model.name].vocabulary
        return Numbers(
            key="tokens",
            white=np.array([[words - 1], [1], [1]]),  # types and mask are 0 or 1
            dtype=np.int32,
            normalised=lambda tokens: tokens,
            # Drawn words would be padded in the middle.
            example=np.asarray(examples[0]["tokens"])[None],
            calibrated=128,  # of many words each
        )

    def filled(self, inputs: Any) -> jax.Array:
        return inputs[:, 2] > 0

    def counts(self, outputs: Any, batch: Batch) -> dict[str, jax.Array]:
        found, label = self.predictions(outputs), batch["label"]
        counts = {"correct": found == label}
        if self.more:
            pairs = 2 * label + found
            counts["pairs"] = pairs[:, None] == jnp.arange(4)
        return counts

    def measures(self, counts: Mapping[str, Any], examples: float) -> dict[str, float]:
        known = {"f1": _f1, "matthews": _matthews}
        more = {name: known[name](*map(float, counts["pairs"])) for name in self.more}
        return {"accuracy": counts["correct"] / examples, **more}

    def shown(
        self, settings: config.Data, examples: data.Sentences, index: int
    ) -> tuple[dict, dict]:
        example = examples[index]
        batch = {name: np.asarray(x)[None] for name, x in example.items()}
        facts = {"label": int(example["label"]), "words": examples.words(index)}
        return batch | {"mask": np.ones(1, bool)}, facts


# Of two classes. The arguments are right answers "0", wrong answers "1", wrong answers
# "0" and right answers "1". A quotient without a denominator is 0, as in scikit-learn.


def _f1(tn, fp, fn, tp):
    return 2 * tp / max(2 * tp + fp + fn, 1)


def _matthews(tn, fp, fn, tp):
    under = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return (tp * tn - fp * fn) / max(under, 1)
