"""Which examples of a published training part are held out for validation."""

import numpy as np

SPLITS = ("train", "validation", "test")


def tenth(count: int) -> int:
    """Return how many of so many examples are held out: a tenth, at most 10,000."""
    return min(10_000, max(1, count // 10))


def held_out(count: int, num_validation: int) -> tuple[np.ndarray, np.ndarray]:
    """Split the published training part into positions of training and validation.

    Raises:
      ValueError: nothing would be left to train on.
    """
    num_train = count - num_validation
    if num_train < 1:
        raise ValueError(
            f"data.directory: expected more than {num_validation} training "
            f"examples, as many are held out for validation; got {count}"
        )
    order = permutation(count)
    return order[:num_train], order[num_train:]


def permutation(n: int) -> np.ndarray:
    """Return the one order of n examples, whatever the seed of a run.

    By RandomState, because its stream is frozen: a Generator's may change with NumPy,
    and validation examples would become training examples of older checkpoints.
    """
    return np.random.RandomState(0).permutation(n)
