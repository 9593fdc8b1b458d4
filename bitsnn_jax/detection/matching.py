"""Which box each anchor is trained to find."""

import jax
import jax.numpy as jnp

from bitsnn_jax.detection.boxes import area, at_least_float32, coverage, iou

POSITIVE, NEGATIVE = 0.5, 0.4  # least IoU of a match; background is below the other
IN_CROWD = 0.5  # least share of an anchor inside a crowd box, for which it is ignored
BACKGROUND, IGNORED = -1, -2


def match(
    anchors: jax.Array, boxes: jax.Array, classes: jax.Array, crowd: jax.Array
) -> jax.Array:
    """Return the index of the box that each anchor is to find, or why there is none.

    An anchor takes the box of the largest IoU, the first of equal ones, if that is .5
    or more; it is background below .4, and ignored in between. So that a box which no
    anchor reaches is not lost, an anchor that no other surpasses for some box takes its
    own best box at any IoU (`allow_low_quality_matches` in torchvision). Background is
    ignored where at least half of the anchor lies inside a crowd box, for which no
    anchor is responsible.

    Args:
      anchors: [A, 4].
      boxes: [M, 4], M at least 1.
      classes: integers [M]; negative where there is no box. A box without area is none.
      crowd: booleans [M].

    Returns:
      int32 [A]: index of the box; -1 (`BACKGROUND`); -2 (`IGNORED`).

    Raises:
      ValueError: boxes has no rows.

    >>> anchors = jnp.array([[0.0, 0.0, 4.0, 4.0], [8.0, 8.0, 9.0, 9.0]])
    >>> boxes, crowd = jnp.array([[0.0, 0.0, 3.0, 4.0]]), jnp.array([False])
    >>> match(anchors, boxes, jnp.array([7]), crowd)
    Array([ 0, -1], dtype=int32)
    """
    if not boxes.shape[0]:
        raise ValueError(
            "expected boxes [M, 4] of at least one row, with class -1 where there is "
            "no box; got none"
        )
    anchors, boxes = at_least_float32(anchors, boxes)
    some = (classes >= 0) & (area(boxes) > 0)

    def meet(state, row):
        own, index, unsurpassed, hidden = state
        m, box, thing, hides = row
        overlap = jnp.where(thing, iou(anchors, box[None])[:, 0], 0)
        # Computed once: a second computation may round otherwise, and the best would
        # not equal itself.
        overlap = jax.lax.optimization_barrier(overlap)
        best = overlap.max()
        inside = coverage(anchors, box[None])[:, 0] >= IN_CROWD
        return (
            jnp.maximum(own, overlap),
            jnp.where(overlap > own, m, index),
            unsurpassed | ((overlap == best) & (best > 0)),
            hidden | (hides & inside),
        ), None

    # One box after the other: there is no array [A, M], and each step is a few long
    # vectors.
    def everywhere(value):
        return jnp.full(len(anchors), value)

    state = tuple(map(everywhere, (anchors.dtype.type(0), jnp.int32(0), False, False)))
    rows = jnp.arange(len(boxes), dtype=jnp.int32), boxes, some & ~crowd, some & crowd
    (own, index, unsurpassed, hidden), _ = jax.lax.scan(meet, state, rows)
    below = jnp.where(own < NEGATIVE, BACKGROUND, IGNORED)
    matched = jnp.where((own >= POSITIVE) | unsurpassed, index, below)
    return jnp.where((matched == BACKGROUND) & hidden, IGNORED, matched)
