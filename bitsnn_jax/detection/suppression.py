"""Non-maximum suppression, in arrays of fixed size."""

from functools import partial

import jax
import jax.numpy as jnp

from bitsnn_jax.detection.boxes import iou


@partial(jax.jit, static_argnames=("limit",))
def nms(
    boxes: jax.Array,
    scores: jax.Array,
    classes: jax.Array,
    *,
    overlap: float = 0.5,
    limit: int = 100,
) -> jax.Array:
    """Take the best box again and again, and drop those of its class that overlap it.

    A step takes one box, so there are as many steps as boxes are wanted, and not as
    there are candidates; no IoU of two dropped boxes is computed.

    Args:
      boxes: [N, 4].
      scores: [N]; a box whose score is not positive is none.
      classes: integers [N].
      overlap: largest IoU that two boxes of a class may have.
      limit: how many boxes are wanted.

    Returns:
      int32 [limit] indices in falling order of score, equal ones by position; -1 after
      the last.

    >>> boxes = jnp.array([[0.0, 0, 4, 4], [0, 0, 4, 3], [0, 0, 4, 3]])
    >>> nms(boxes, jnp.array([0.5, 0.9, 0.7]), jnp.array([1, 1, 2]), limit=3)
    Array([ 1,  2, -1], dtype=int32)
    """

    def wanted(state):
        taken, rest, _ = state
        return (taken < limit) & (rest > 0).any()

    def take(state):
        taken, rest, kept = state
        best = jnp.argmax(rest).astype(jnp.int32)
        near = (iou(boxes[best][None], boxes)[0] > overlap) & (classes == classes[best])
        rest = jnp.where(near, 0, rest).at[best].set(0)
        return taken + 1, rest, kept.at[taken].set(best)

    some = jnp.where(scores > 0, scores, 0)
    none = jnp.full(limit, -1, jnp.int32)
    return jax.lax.while_loop(wanted, take, (jnp.int32(0), some, none))[2]
