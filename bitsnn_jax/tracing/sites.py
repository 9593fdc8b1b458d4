"""The neurons of a traced program: their names and their thresholds."""

import itertools
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np


class Site(NamedTuple):
    """A QCFS activation of the program: a layer of neurons of the SNN."""

    path: str
    levels: int
    shape: tuple[int, ...]
    sizes: tuple[int, ...]  # of the thresholds, as in `Current`


def next_path(sites: Iterable[Site], scope: tuple[str, ...]) -> str:
    """Name the neurons that come after `sites` and stand in these modules."""
    # The first name is the class of the outermost module, which says nothing.
    path = "/".join(scope[1:] or scope) or "neuron"
    return unique(path, [site.path for site in sites])


def unique(path: str, taken: Collection[str]) -> str:
    """Return `path`, or the name of a module's second call, `path@2`, and so on."""
    count = sum(t == path or t.startswith(path + "@") for t in taken)
    if not count:
        return path
    # A name with @ may have been given by hand, so that the count alone is not enough.
    names = (f"{path}@{i}" for i in itertools.count(count + 1))
    return next(name for name in names if name not in taken)


def check_theta(theta: Any, path: str) -> None:
    """Raise ValueError unless thresholds are positive and finite.

    Those that a transformation traces are not known: `convert` and `verify` see all.
    """
    if isinstance(theta, jax.core.Tracer):
        return
    values = np.asarray(theta, np.float64)
    if not (np.isfinite(values) & (values > 0)).all():
        wrong = values[~(np.isfinite(values) & (values > 0))]
        raise ValueError(
            f"theta of {path} must be positive and finite, got {wrong.flat[0]:g}"
            + (f" and {wrong.size - 1} more like it" if wrong.size > 1 else "")
            + ": calibrate it anew, or train with a lower learning rate"
        )
