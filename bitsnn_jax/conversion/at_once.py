"""Thresholds for all layers at once, from sums over batches.

Only sums are kept for each candidate, so memory does not grow with the batches.
"""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from bitsnn_jax.conversion.batches import progress
from bitsnn_jax.conversion.candidates import (
    Run,
    as_relu,
    capped,
    checked,
    choose,
    largest,
    name_of,
    shown,
    try_all,
    warn_of_silence,
)


def find_at_once(
    run: Run,
    variables: Any,
    batches: Sequence[Any],
    *,
    method: str,
    percentile: float = 99.9,
) -> dict[Any, np.ndarray]:
    """Find a theta for each activation, all fed by ReLUs; see `find_thetas`.

    The batches are iterated twice, for the largest values and for the rest.
    """
    methods = {}

    def look(path, activation, z):
        methods[path] = activation.method or method
        return largest(z, activation)

    collect = partial(_collect, run, variables, batches)
    peaks = collect(look, np.maximum)
    if "output" in methods.values():
        raise ValueError('method="output" goes in order: pass sequential=True')
    silent = [path for path, peak in peaks.items() if np.max(peak) <= 0]
    if len(silent) < len(peaks):  # otherwise the batches are at fault, or the network
        for path in silent:
            peaks[path] = np.ones_like(peaks[path])
            warn_of_silence(path, stacklevel=4)
    peaks = {path: checked(peak, name_of(path)) for path, peak in peaks.items()}
    trials = collect(
        lambda path, act, z: try_all(z, peaks[path], levels=act.levels),
        lambda a, b: jax.tree.map(np.add, a, b),
    )
    return {
        path: np.asarray(peak, np.float32)
        if path in silent
        else choose(peak, trials[path], methods[path], percentile)
        for path, peak in peaks.items()
    }


def _collect(run, variables, batches, look, merge):
    """Collect {path: look(path, activation, z)}, merged over all calls.

    Sums over batches are in float64, so that they lose nothing.
    """

    def seen_by(variables, x):
        seen = OrderedDict()  # jit would return a plain dict sorted by name

        def visit(path, activation, z):
            value = look(path, activation, capped(shown(z, activation), activation))
            seen.setdefault(path, []).append(value)
            return as_relu(path, activation, z)

        run(visit, variables, x)
        return seen

    seen_by = jax.jit(seen_by)
    total = {}
    for x in progress(batches, "calibrating"):
        for path, calls in seen_by(variables, x).items():
            for value in calls:
                value = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), value)
                before = total.get(path)
                total[path] = value if before is None else merge(before, value)
    if not total:
        raise ValueError(
            "expected batches and a network with activations that have no theta yet: "
            "found none"
        )
    return total
