"""Losses of a detector: focal loss of classes, smooth L1 or GIoU of boxes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from bitsnn_jax.detection.boxes import (
    area,
    at_least_float32,
    decode,
    encode,
    intersection,
)
from bitsnn_jax.detection.matching import IGNORED, match

ALPHA, GAMMA = 0.25, 2.0
BETA = 0.11
EPSILON = 1e-7


def focal_loss(
    logits: jax.Array,
    targets: jax.Array,
    *,
    alpha: float = ALPHA,
    gamma: float = GAMMA,
) -> jax.Array:
    """Return the focal loss of each logit (Lin et al. 2017).

        -alpha_t (1 - p_t)^gamma log(p_t)

    p_t is sigmoid(z) where the target is 1, and 1 - sigmoid(z) elsewhere; alpha_t is
    alpha, and 1 - alpha. Computed by softplus alone, with u = z or, for target 0, -z:

        1 - p_t = exp(-softplus(u)),   -log(p_t) = softplus(-u),

    so neither value nor gradient overflows or loses its small end in float32.

    Args:
      logits: z, [...].
      targets: 0 or 1, of the same shape.

    Returns:
      [...], of the type of the logits.

    >>> focal_loss(jnp.zeros(2), jnp.array([1, 0])).round(4)  # log(2) / 16; three times
    Array([0.0433, 0.13  ], dtype=float32)
    """
    met = targets > 0
    u = jnp.where(met, logits, -logits)
    weight = jnp.where(met, alpha, 1 - alpha).astype(logits.dtype)
    return weight * jnp.exp(-gamma * jax.nn.softplus(u)) * jax.nn.softplus(-u)


def smooth_l1(
    offsets: jax.Array, targets: jax.Array, *, beta: float = BETA
) -> jax.Array:
    """Return |d| - beta / 2, or d^2 / (2 beta) where |d| < beta; d: the difference.

    Gradient: d / beta, cut off at -1 and 1. beta is .11 as in Detectron's RetinaNet; it
    is 1 in Fast R-CNN.

    >>> smooth_l1(jnp.array([0.1, 2.0]), jnp.zeros(2), beta=1.0)
    Array([0.005, 1.5  ], dtype=float32)
    """
    distance = jnp.abs(offsets - targets)
    inner = jnp.minimum(distance, beta)
    return inner * (distance - 0.5 * inner) / beta


def giou_loss(boxes: jax.Array, targets: jax.Array) -> jax.Array:
    """Return 1 - GIoU of boxes and targets, two by two (Rezatofighi et al. 2019).

        GIoU = I / U - (C - U) / C

    I: the area of the intersection, U: of the union, C: of the smallest box around
    both. 1e-7 is added to both divisors, as in torchvision.

    Args:
      boxes: [..., 4].
      targets: [..., 4].

    Returns:
      [...] in 0..2.

    >>> giou_loss(jnp.array([0.0, 0.0, 1.0, 1.0]), jnp.array([1.0, 0.0, 2.0, 1.0]))
    Array(1., dtype=float32)
    """
    common = intersection(boxes, targets)
    union = area(boxes) + area(targets) - common
    low = jnp.minimum(boxes[..., :2], targets[..., :2])
    high = jnp.maximum(boxes[..., 2:], targets[..., 2:])
    around = area(jnp.concatenate([low, high], axis=-1))
    return 1 - common / (union + EPSILON) + (around - union) / (around + EPSILON)


def _of_offsets(offsets, anchors, boxes):
    return smooth_l1(offsets, encode(anchors, boxes)).sum(axis=-1)


def _of_boxes(offsets, anchors, boxes):
    return giou_loss(decode(anchors, offsets), boxes)


# Offsets, anchors and boxes [A, 4] to the loss of each anchor, [A].
BOX_LOSSES: dict[str, Callable] = {"smooth_l1": _of_offsets, "giou": _of_boxes}


def loss(
    logits: jax.Array,
    offsets: jax.Array,
    anchors: jax.Array,
    boxes: jax.Array,
    classes: jax.Array,
    crowd: jax.Array,
    *,
    box_loss: str = "smooth_l1",
) -> jax.Array:
    """Return the loss of each image: focal loss of classes plus that of boxes.

    Each is a sum over anchors, divided by the number of anchors that have a box, or by
    1. The classes of anchors that have a box or are background count, and the offsets
    of anchors that have a box (`match`). Computed in float32 or more. Gradient: exactly
    0 for all others, whatever stands in rows of `boxes` that are none.

    Args:
      logits: [n, A, K].
      offsets: [n, A, 4].
      anchors: [A, 4].
      boxes: [n, M, 4].
      classes: integers [n, M]; negative where there is no box.
      crowd: booleans [n, M].
      box_loss: "smooth_l1" of offsets, or "giou" of boxes.

    Returns:
      [n].

    Raises:
      ValueError: box_loss has another name, or boxes has no rows.
    """
    if box_loss not in BOX_LOSSES:
        raise ValueError(
            f"box_loss must be one of {', '.join(BOX_LOSSES)}; got {box_loss!r}"
        )
    logits, offsets, anchors, boxes = at_least_float32(logits, offsets, anchors, boxes)

    def of_one(logits, offsets, boxes, classes, crowd):
        matched = match(anchors, boxes, classes, crowd)
        positive, index = matched >= 0, jnp.maximum(matched, 0)
        found = jnp.where(positive, classes[index], -1)
        targets = found[:, None] == jnp.arange(logits.shape[-1])
        each = focal_loss(logits, targets).sum(axis=-1)
        of_classes = jnp.where(matched == IGNORED, 0, each).sum()
        # Where there is no box, nothing is computed that could overflow: 0 times that
        # would be no number in the gradient.
        there = jnp.where(positive[:, None], boxes[index], anchors)
        offsets = jnp.where(positive[:, None], offsets, 0)
        each = BOX_LOSSES[box_loss](offsets, anchors, there)
        of_boxes = jnp.where(positive, each, 0).sum()
        return (of_classes + of_boxes) / jnp.maximum(positive.sum(), 1)

    return jax.vmap(of_one)(logits, offsets, boxes, classes, crowd)
