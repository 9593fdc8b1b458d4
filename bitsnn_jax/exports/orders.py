"""Moves of values that only put axes in another order."""

import math
from itertools import permutations

import numpy as np


def transposition(index: np.ndarray, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the order of axes, if places are moved as a transposition moves them.

    Args:
      index: of the places that values come from, in any shape.
      shape: of the values.

    >>> transposition(np.array([0, 3, 1, 4, 2, 5]), (1, 2, 3))
    (0, 2, 1)
    """
    places, flat = np.arange(math.prod(shape)).reshape(shape), index.reshape(-1)
    for order in permutations(range(len(shape))):
        if np.array_equal(places.transpose(order).reshape(-1), flat):
            return order
    return None
