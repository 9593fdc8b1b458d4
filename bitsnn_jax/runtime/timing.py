"""How long functions take: measured in turns, so that they compare."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def in_turns(
    passes: Mapping[str, Callable[[], Any]], *, rounds: int
) -> dict[str, list[float]]:
    """Measure the seconds of each function in each round, after a call to warm up.

    A machine drifts. In a round every function has its turn, so the ratio of two of
    them in one round says more than the ratio of their medians.

    Args:
      passes: functions by name; each returns when its work is done.
      rounds: how many.

    >>> seconds = in_turns({"sum": lambda: sum(range(9))}, rounds=3)
    >>> [len(times) for times in seconds.values()]
    [3]
    """
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for run in passes.values():
        run()
    for _ in range(rounds):
        for name, run in passes.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def ratio(seconds: Sequence[float], of: Sequence[float]) -> float:
    """Return the median of the ratios within each round.

    >>> ratio([1.0, 4.0, 9.0], [1.0, 2.0, 3.0])
    2.0
    """
    return statistics.median(a / b for a, b in zip(seconds, of, strict=True))
