"""What the benchmarks share: timed passes as rows for a JSON file."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


def in_turns(
    passes: Mapping[str, Callable[[], float]], *, rounds: int
) -> dict[str, list[float]]:
    """Return the seconds of passes, each a function that takes one, by round.

    In another order each round: a pass is slower behind that of another process.
    """
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for take in passes.values():
        take(), take()  # warms up
    rng = np.random.default_rng(0)
    for _ in range(rounds):
        for name in rng.permutation(list(passes)):
            seconds[name].append(passes[name]())
    return seconds


def rows(
    seconds: Mapping[str, Sequence[float]], *, reference: str
) -> list[dict[str, Any]]:
    """Summarise the seconds of passes that ran in turns, one number a round.

    Args:
      seconds: name of a pass -> seconds of each round.
      reference: the pass that ratios are to, of the same round.

    Returns:
      For each pass its name, the median in milliseconds, and the quartiles of its
      ratio to the reference.
    """
    return [
        {
            "pass": name,
            "milliseconds": 1e3 * statistics.median(times),
            "ratio": quartiles(times, seconds[reference]),
        }
        for name, times in seconds.items()
    ]


def quartiles(values: Sequence[float], of: Sequence[float]) -> list[float]:
    """Low, middle and high quartile of the ratios within each round.

    >>> quartiles([1.0, 2.0, 3.0], [1.0, 1.0, 1.0])
    [1.0, 2.0, 3.0]
    """
    ratios = [a / b for a, b in zip(values, of, strict=True)]
    return statistics.quantiles(ratios, n=4)
