"""Anchors: boxes of nine shapes at each place of each level of a pyramid."""

from collections.abc import Sequence

import numpy as np

RATIOS = (0.5, 1.0, 2.0)  # height / width
SCALES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
SIZE = 4  # side of the smallest square anchor, in strides
ANCHORS_PER_PLACE = len(RATIOS) * len(SCALES)


def anchors(
    image_shape: tuple[int, int], shapes: Sequence[tuple[int, int]]
) -> np.ndarray:
    """Return the anchors of all levels, in the order level, row, column, shape.

    The anchors of row i and column j have their centre at (j, i) times the stride of
    the level. Their area is (4 stride scale)^2 for scales 1, 2^(1/3), 2^(2/3), and
    height over width is 1/2, 1 or 2: all scales of the first ratio, then of the next
    (Lin et al. 2017, *Focal Loss for Dense Object Detection*). Centres and order are
    those of torchvision, which rounds sides to whole pixels; these are not rounded.

    Args:
      image_shape: height and width of the network's input.
      shapes: height and width of each level, the finest first. The stride of a level is
        image over level, rounded up to a power of two, and at least twice the one
        before.

    Returns:
      float32 [A, 4] boxes, A = 9 times the places of all levels.

    >>> anchors((8, 8), [(1, 1)])[4]  # ratio 1, scale 2^(1/3)
    array([-20.158737, -20.158737,  20.158737,  20.158737], dtype=float32)
    """
    levels = zip(shapes, _strides(image_shape, shapes), strict=True)
    return np.concatenate([_level(shape, stride) for shape, stride in levels])


def level_sizes(shapes: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """Return how many anchors each level has.

    >>> level_sizes([(2, 3), (1, 2)])
    (54, 18)
    """
    return tuple(ANCHORS_PER_PLACE * height * width for height, width in shapes)


def _strides(image_shape, shapes):
    strides, least = [], 1
    for shape in shapes:
        covers = max(
            image / places for image, places in zip(image_shape, shape, strict=True)
        )
        stride = max(least, 2 ** int(np.ceil(np.log2(covers))))
        strides.append(stride)
        least = 2 * stride
    return strides


def _level(shape, stride):
    root = np.sqrt(RATIOS)[:, None]
    sides = SIZE * stride * np.array(SCALES)
    widths, heights = (sides / root).ravel(), (sides * root).ravel()
    around_zero = np.stack([-widths, -heights, widths, heights], axis=-1) / 2
    y, x = stride * np.indices(shape).reshape(2, -1, 1)
    centres = np.concatenate([x, y, x, y], axis=-1)
    boxes = centres[:, None] + around_zero
    return boxes.reshape(-1, 4).astype(np.float32)
