"""What fits into this machine, asked before it is allocated."""

import math
import os


def check_fits(what: str, size: float) -> None:
    """Refuse what the machine has no memory for.

    Args:
      what: takes the memory, for the message, with the way to make it smaller.
      size: in bytes.

    Raises:
      ValueError: more than the physical memory.

    >>> check_fits("data.batch_size=1", 2**60)
    Traceback (most recent call last):
    ValueError: data.batch_size=1: expected to fit into this machine's memory...
    """
    there = _memory()
    if size > there:
        raise ValueError(
            f"{what}: expected to fit into this machine's memory of {there / 1e9:.1f} "
            f"GB, got {size / 1e9:.1f} GB"
        )


def _memory():
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not everywhere
        return math.inf
