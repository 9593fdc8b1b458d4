"""Scales that a network was trained with, taken over: PACT, LSQ and their like.

    clip(z, 0, alpha)                  theta = alpha              PACT
    s round(clip(z / s, 0, L))         theta = L s, L levels      LSQ, DoReFa, ...

The second is QCFS in another notation, whatever its straight-through estimator looks
like: it is found by evaluating the function. It rounds halves to even, where QCFS
rounds them up.
"""

import itertools
from typing import NamedTuple

import numpy as np

from bitsnn_jax.activations.recognition import Numbers, values_of
from bitsnn_jax.activations.regions import Region, Regions, clip_bounds, region_bounds
from bitsnn_jax.tracing.equations import parts
from bitsnn_jax.tracing.values import Constant

_REACH = 3  # scales and offsets in front of the rounding, or behind it
_HUGE = 1e20  # beyond any clip
_POINTS = np.linspace(-0.25, 1.25, 12001)  # in units of the largest value
_ROUNDING = frozenset("ceil floor round".split())


class Trained(NamedTuple):
    """A trained scale.

    Attributes:
      levels: None if values are clipped and not rounded.
      before, behind: how many scales and offsets in front of the region, and behind it,
        belong to it.
      theta: [] or [C]; None where it is kept elsewhere.
    """

    levels: int | None
    before: int = 0
    behind: int = 0
    theta: np.ndarray | None = None


def find_trained(regions: Regions, region: Region, numbers: Numbers) -> Trained | None:
    """Find the scale that an activation was trained with, if it was."""
    clip = region_bounds(region)
    if clip is not None:
        return _trained_cap(region, numbers) if clip == (0, None) else None
    if not any(_rounds(op.eqn) for op in region.operations):
        return None
    reach = range(_REACH, -1, -1)
    for before, behind in itertools.product(reach, reach):
        whole = regions.extended(region, before, behind)
        if whole is not None and (grid := _grid(whole, numbers)) is not None:
            theta, levels = grid
            return Trained(levels, before, behind, theta)
    return None


def with_scales(regions: Regions, region: Region) -> Region:
    """Take in all scales and offsets that may belong to a trained scale."""
    if not any(_rounds(op.eqn) for op in region.operations):
        return region
    for before, behind in itertools.product(range(_REACH, -1, -1), repeat=2):
        if (whole := regions.extended(region, before, behind)) is not None:
            return whole
    return region


def _trained_cap(region: Region, numbers: Numbers) -> Trained | None:
    """Find the trained cap of a region that clips."""
    caps = [
        value
        for op in region.operations
        if (bounds := clip_bounds(op)) is not None and bounds[1] is None
        for value in op.values
        if isinstance(value, Constant) and value.number is None
    ]
    theta = numbers(caps[0]) if len(caps) == 1 else None
    if theta is None:
        return None
    theta = theta if np.ptp(theta) else np.ravel(theta)[0]
    return Trained(None, theta=np.asarray(theta, np.float32))


def _grid(region: Region, numbers: Numbers) -> tuple[np.ndarray, int] | None:
    """Find theta and levels of a function, if it is round(clip(z / s, 0, L)) s."""
    found = [numbers(c) for c in region.constants]
    sizes = {np.size(n) for n in found if n is not None and np.ptp(n)} | {1}
    channels = max(sizes, default=1)
    if not sizes <= {1, channels}:
        return None

    def spread(constant):  # one number where all channels have the same
        number = numbers(constant)
        return number if number is None or np.ptp(number) else np.ravel(number)[0]

    top = values_of(region, np.full((1, channels), _HUGE), spread)
    if top is None or not (np.isfinite(top).all() and (top > 0).all()):
        return None
    y = values_of(region, _POINTS[:, None] * top, spread) / top
    levels = int(np.count_nonzero(np.diff(y[:, 0]) > 1e-4))
    steps = _POINTS[:, None] * levels
    wanted = np.clip(np.round(steps), 0, levels) / max(levels, 1)
    is_tie = np.abs(steps % 1 - 0.5) < 1e-3 * max(levels, 1)
    if not levels or (np.abs(y - wanted) > 1e-5)[~is_tie[:, 0]].any():
        return None
    theta = top[0] if channels > 1 else top[0, 0]
    return np.asarray(theta, np.float32), levels


def _rounds(eqn) -> bool:
    return eqn.primitive.name in _ROUNDING or any(
        _rounds(inner) for part in parts(eqn) for inner in part.jaxpr.eqns
    )
