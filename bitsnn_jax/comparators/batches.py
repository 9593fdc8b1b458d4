"""Calibration images, in batches of the size that a method asks for."""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np


def in_batches(batches: Iterable[Any], size: int) -> list[Any]:
    """Regroup the images of some batches, in their order, `size` at a time.

    Args:
      batches: pytrees of arrays [n, ...]; iterated once.
      size: images in a batch, if there are that many; a rest that does not fill one is
        dropped.

    Raises:
      ValueError: no batches.

    >>> [b.tolist() for b in in_batches([np.arange(3), np.arange(3, 5)], 2)]
    [[0, 1], [2, 3]]
    """
    batches = list(batches)
    if not batches:
        raise ValueError("expected batches of images to calibrate with, got none")
    images = jax.tree.map(lambda *parts: np.concatenate(parts), *batches)
    count = len(jax.tree.leaves(images)[0])
    size = min(size, count)
    starts = range(0, count - size + 1, size)
    return [jax.tree.map(lambda a, i=i: a[i : i + size], images) for i in starts]
