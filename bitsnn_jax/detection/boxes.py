"""Boxes (x0, y0, x1, y1) in pixels, x to the right and y down, and their offsets."""

import math

import jax
import jax.numpy as jnp

LARGEST = math.log(1000 / 16)  # of dw and dh: a box 62.5 times as wide as its anchor


def area(boxes: jax.Array) -> jax.Array:
    """Return the areas of boxes [..., 4], which are 0 where a corner is out of order.

    >>> area(jnp.array([[0.0, 0.0, 2.0, 3.0], [2.0, 0.0, 0.0, 3.0]]))
    Array([6., 0.], dtype=float32)
    """
    return _product(boxes[..., 2:] - boxes[..., :2])


def intersection(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return the area that boxes [..., 4] have in common, two by two."""
    low = jnp.maximum(a[..., :2], b[..., :2])
    high = jnp.minimum(a[..., 2:], b[..., 2:])
    return _product(high - low)


def iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Divide the intersection of each two boxes by their union.

    A box without area has none with any other.

    Args:
      a: [m, 4].
      b: [n, 4].

    Returns:
      [m, n] in 0..1.

    >>> iou(jnp.array([[0.0, 0.0, 2.0, 2.0]]), jnp.array([[1.0, 0.0, 3.0, 2.0]]))
    Array([[0.33333334]], dtype=float32)
    """
    common = intersection(a[:, None], b[None])
    union = area(a)[:, None] + area(b) - common
    # Rounding must not leave less than the intersection: no IoU is above 1.
    return _share(common, jnp.maximum(union, common))


def coverage(a: jax.Array, b: jax.Array) -> jax.Array:
    """Divide the intersection of each two boxes by the area of the first, [m, n].

    >>> coverage(jnp.array([[0.0, 0.0, 2.0, 2.0]]), jnp.array([[1.0, 0.0, 9.0, 9.0]]))
    Array([[0.5]], dtype=float32)
    """
    return _share(intersection(a[:, None], b[None]), area(a)[:, None])


def encode(anchors: jax.Array, boxes: jax.Array) -> jax.Array:
    """Say where boxes are, as seen from their anchors: (dx, dy, dw, dh).

        dx = (x - xa) / wa,   dy = (y - ya) / ha,   dw = log(w / wa),   dh = log(h / ha)

    x, y, w, h are centre and size of the box; xa, ya, wa, ha those of the anchor (Ren
    et al. 2015, without weights).

    Args:
      anchors: [..., 4], of positive area.
      boxes: [..., 4], of positive area.

    Returns:
      [..., 4] offsets.

    >>> encode(jnp.array([0.0, 0.0, 2.0, 2.0]), jnp.array([1.0, 0.0, 3.0, 2.0]))
    Array([0.5, 0. , 0. , 0. ], dtype=float32)
    """
    anchor_centre, anchor_size = _centre_and_size(anchors)
    centre, size = _centre_and_size(boxes)
    moved = (centre - anchor_centre) / anchor_size
    return jnp.concatenate([moved, jnp.log(size / anchor_size)], axis=-1)


def decode(anchors: jax.Array, offsets: jax.Array) -> jax.Array:
    """Return the boxes that offsets from anchors lead to; the inverse of `encode`.

    dw and dh count as log(1000 / 16) where they are larger, so that nothing overflows;
    their gradient is 0 there.

    Args:
      anchors: [..., 4].
      offsets: [..., 4].

    Returns:
      [..., 4] boxes.

    >>> decode(jnp.array([0.0, 0.0, 2.0, 2.0]), jnp.array([0.5, 0.0, 0.0, 0.0]))
    Array([1., 0., 3., 2.], dtype=float32)
    """
    anchor_centre, anchor_size = _centre_and_size(anchors)
    centre = offsets[..., :2] * anchor_size + anchor_centre
    size = jnp.exp(jnp.minimum(offsets[..., 2:], LARGEST)) * anchor_size
    return jnp.concatenate([centre - 0.5 * size, centre + 0.5 * size], axis=-1)


def clip(boxes: jax.Array, image_shape: tuple[int, int]) -> jax.Array:
    """Cut boxes [..., 4] off at the border of an image (height, width).

    >>> clip(jnp.array([-1.0, 2.0, 9.0, 9.0]), (4, 8))
    Array([0., 2., 8., 4.], dtype=float32)
    """
    height, width = image_shape
    limits = jnp.array([width, height, width, height], boxes.dtype)
    return jnp.clip(boxes, 0, limits)


def at_least_float32(*arrays: jax.Array) -> list[jax.Array]:
    """Return arrays of one type, the widest: half precision moves boxes by pixels.

    >>> [x.dtype.name for x in at_least_float32(jnp.ones(1, jnp.bfloat16))]
    ['float32']
    """
    dtype = jnp.result_type(jnp.float32, *arrays)
    return [jnp.asarray(array, dtype) for array in arrays]


def _product(sides):
    # A reduction over two would be folded one by one where boxes are constants.
    sides = jnp.maximum(sides, 0)
    return sides[..., 0] * sides[..., 1]


def _centre_and_size(boxes):
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * size, size


def _share(part, whole):
    # The inner choice keeps 0 / 0 out of the gradient, too.
    some = whole > 0
    return jnp.where(some, part / jnp.where(some, whole, 1), 0)
