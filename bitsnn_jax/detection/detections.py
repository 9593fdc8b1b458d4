"""From what a network says of each anchor to the boxes that it finds."""

from functools import partial
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax.detection.boxes import area, at_least_float32, clip, decode
from bitsnn_jax.detection.suppression import nms

SCORE = 0.05  # the least
CANDIDATES = 1000  # of a level
LIMIT = 100  # of an image


class Detections(NamedTuple):
    """The boxes that a network finds in each image, the best first.

    Attributes:
      boxes: [n, 100, 4] in pixels of the network's input; 0 where there is none.
      scores: [n, 100]; 0 where there is none.
      classes: int32 [n, 100]; -1 where there is none.
    """

    boxes: jax.Array
    scores: jax.Array
    classes: jax.Array


@partial(jax.jit, static_argnames=("level_sizes",))
def detect(
    logits: jax.Array,
    offsets: jax.Array,
    anchors: jax.Array,
    level_sizes: tuple[int, ...],
    image_shape: tuple[int, int],
) -> Detections:
    """Return the best boxes of each image (Lin et al. 2017).

    Of each level, the best 1,000 pairs of anchor and class whose score, sigmoid(logit),
    is .05 or more; their boxes, cut off at the border, without those that nothing is
    left of; of each class, those that no better one overlaps with an IoU above .5; of
    an image, the best 100. Equal scores go by position.

    Args:
      logits: [n, A, K].
      offsets: [n, A, 4].
      anchors: [A, 4].
      level_sizes: how many of the anchors are of each level.
      image_shape: height and width of the network's input.

    Raises:
      ValueError: the levels have more or fewer anchors than there are.
    """
    if sum(level_sizes) != len(anchors) or logits.shape[1] != len(anchors):
        raise ValueError(
            f"expected as many anchors as the levels {level_sizes} have, got "
            f"{len(anchors)}, and logits of {logits.shape[1]}"
        )
    logits, offsets, anchors = at_least_float32(logits, offsets, anchors)

    def of_one(logits, offsets):
        boxes, scores, classes = _candidates(logits, offsets, anchors, level_sizes)
        boxes = clip(boxes, image_shape)
        scores = jnp.where((scores >= SCORE) & (area(boxes) > 0), scores, 0)
        kept = nms(boxes, scores, classes, limit=LIMIT)
        some = kept >= 0
        return Detections(
            jnp.where(some[:, None], boxes[kept], 0),
            jnp.where(some, scores[kept], 0),
            jnp.where(some, classes[kept], -1),
        )

    return jax.vmap(of_one)(logits, offsets)


def _candidates(logits, offsets, anchors, level_sizes):
    """Boxes, scores and classes of the best pairs of each level."""
    found = []
    for start, stop in pairwise(np.cumsum((0, *level_sizes))):
        rows = slice(start, stop)
        pairs, scores = _best_pairs(jax.nn.sigmoid(logits[rows]))
        place, classes = jnp.divmod(pairs, logits.shape[-1])
        boxes = decode(anchors[rows][place], offsets[rows][place])
        found.append((boxes, scores, classes.astype(jnp.int32)))
    return [jnp.concatenate(parts) for parts in zip(*found, strict=True)]


def _best_pairs(scores):
    """Positions in [anchors, classes] of the best scores, and these.

    An anchor of such a pair is one of as many anchors of the best single score. Looking
    for those first leaves much less to sort.
    """
    anchors, classes = scores.shape
    _, places = jax.lax.top_k(scores.max(axis=1), min(CANDIDATES, anchors))
    places = jnp.sort(places)  # equal scores go by position
    few = scores[places].ravel()
    best, position = jax.lax.top_k(few, min(CANDIDATES, few.size))
    row, column = jnp.divmod(position, classes)
    return places[row] * classes + column, best
