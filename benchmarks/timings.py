"""What the benchmarks share: timed passes as rows for a JSON file."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any


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
