"""What a network of integers is shown: the numbers of examples as they are stored."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax import config, data
from bitsnn_jax.jobs.sources import Network
from bitsnn_jax.models.bert import BERT_SIZES
from bitsnn_jax.tasks import SentenceClassification
from bitsnn_jax.tracing.fast_convolutions import with_fast_convolutions
from bitsnn_jax.tracing.program import ApplyFn


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A network as a function of stored numbers: pixels, or word ids and a mask.

    Attributes:
      key: their name in a batch.
      apply_fn: (variables, numbers) -> logits, from which the network is lowered.
      example: numbers of one example, or shape and type.
      white: the largest of each place, see `fixed_point`.
      dtype: that the float network takes them in.
    """

    key: str
    apply_fn: ApplyFn
    example: Any
    white: Any
    dtype: Any

    def float_pass(self, variables: Any) -> Callable[[Any], Any]:
        """Return the float network as a function of stored numbers."""
        network = with_fast_convolutions(self.apply_fn)
        return lambda numbers: network(variables, numbers.astype(self.dtype))


def stored(network: Network) -> Stored:
    """Return what a network is shown in integers."""
    if isinstance(network.task, SentenceClassification):
        return _tokens(network)
    return of_pixels(network.apply_fn, network.examples)


def of_pixels(apply_fn: ApplyFn, examples: data.Examples) -> Stored:
    """Return that of a network of normalised images."""
    return Stored(
        key="image",
        apply_fn=pixel_network(apply_fn, examples),
        example=jax.ShapeDtypeStruct((1, *examples.image_shape), np.float32),
        white=255,
        dtype=jnp.float32,
    )


def _tokens(network: Network) -> Stored:
    """Word ids, token types of 0 or 1, and a mask of 0 or 1 are integers already."""
    words = BERT_SIZES[network.config.model.name].vocabulary
    return Stored(
        key="tokens",
        apply_fn=network.apply_fn,
        example=np.asarray(network.examples[0]["tokens"])[None],
        white=np.array([[words - 1], [1], [1]]),
        dtype=jnp.int32,
    )


def first_stored(network: Network, count: int) -> np.ndarray:
    """Return the numbers of the first training examples, in their random order."""
    settings = network.config.data
    if isinstance(network.task, SentenceClassification):
        examples = network.task.load(settings, "train").first(count)
        return np.stack([examples[i]["tokens"] for i in range(len(examples))])
    return first_pixels(settings, count)


def first_pixels(settings: config.Data, count: int) -> np.ndarray:
    """Return the first images of the training split."""
    examples = data.load(settings, "train").first(count)
    images = [data.as_evaluated(settings, examples, i) for i in range(len(examples))]
    return np.stack([each["image"] for each in images])


def pixel_network(apply_fn: ApplyFn, examples: data.Examples) -> ApplyFn:
    """Put normalisation in front of a network: (variables, pixels) -> logits.

    Args:
      apply_fn: takes normalised images.
      examples: whose scale of pixels it was trained on.
    """
    scale, shift = data.scale_and_shift(examples)

    def apply_to_pixels(variables, pixels):
        images = pixels * scale.astype(pixels.dtype) + shift.astype(pixels.dtype)
        return apply_fn(variables, images)

    return apply_to_pixels
