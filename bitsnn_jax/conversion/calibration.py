"""Thresholds from data: the theta with which QCFS replaces a ReLU.

A network that was trained with ReLU has no thresholds. A few batches run through it,
every activation is quantised with each of 97 candidate thetas, and the method picks the
best. Only sums over the batches are kept for each candidate, so memory does not grow
with their number.
"""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from bitsnn_jax.conversion.batches import kept, progress
from bitsnn_jax.numerics.layers import QCFS, ClippedReLU
from bitsnn_jax.numerics.qcfs import qcfs

# Candidates in shares of the largest activation, 16 an octave down to 1/64: theta is
# found to 2.2 %, which hardly matters: the error is flat around its minimum.
_SHARES = 2.0 ** -(np.arange(97) / 16)
_FINE = 2**20  # levels of a clipped ReLU, which does not quantise: practically infinite
CAPS = {"relu6": 6.0}  # the caps of `model.activation`, where they have one


class Activation(NamedTuple):
    """What replaces a ReLU: QCFS, and min(relu(z), cap) if it has a cap.

    Attributes:
      levels: highest code.
      per_channel: one theta for each channel.
      cap: of the ReLU, 6 for a ReLU6; None without one.
      axis: of the channels.
    """

    levels: int
    per_channel: bool = False
    cap: float | None = None
    axis: int = -1


class Trials(NamedTuple):
    """Statistics of the candidates, [97, *theta.shape], largest theta first.

    Attributes:
      error: sum of (qcfs(z) - relu(z))**2, z being at most the cap.
      above: how many z are above theta.
      count: how many z there were.
    """

    error: Any
    above: Any
    count: Any


def calibrate(
    z: Any,
    *,
    levels: int = 15,
    method: str = "mse",
    per_channel: bool = False,
    cap: float | None = None,
    percentile: float = 99.9,
) -> np.ndarray:
    """Find the theta with which `qcfs` comes closest to the ReLU of some values.

        theta = max(z) 2^(-g/16),   g in 0..96

    with g by `method`: "mse" makes the sum of (qcfs(z, theta) - relu(z))^2 smallest;
    "percentile" is the smallest theta that no more than 0.1 % of all z exceed;
    "maximum" is g = 0. Of equals, the largest theta.

    A channel without any positive z gets the theta of the layer's largest.

    Args:
      z: [..., C] pre-activations.
      levels: highest code of the QCFS.
      method: a name in `CALIBRATIONS`.
      per_channel: one theta for each channel (last axis).
      cap: of the ReLU, 6 for a ReLU6: each z above counts as the cap.
      percentile: for "percentile": the share of all z, in %, that theta should reach.

    Returns:
      float32 [] or [C], positive, at most the cap.

    Raises:
      ValueError: unknown method, a cap that is not positive, a percentile out of range;
        no positive z, or one that is not finite.

    >>> calibrate(np.array([-1.0, 0.5, 1.0, 1.5]), levels=3, method="maximum")
    array(1.5, dtype=float32)
    """
    _check(method, percentile, cap)
    activation = Activation(levels, per_channel, cap)
    z = _capped(jnp.asarray(z), activation)
    peak = _checked(_peak(z, activation), "z")
    trials = jax.jit(_trials, static_argnames="levels")(z, peak, levels=levels)
    return _choose(peak, trials, method, percentile)


def calibrate_network(
    apply_fn: Callable[[Any, Any], Any],
    variables: dict,
    batches: Iterable[Any],
    *,
    method: str = "mse",
    cap: float | None = None,
    percentile: float = 99.9,
    max_batches: int | None = None,
) -> dict:
    """Find a theta for each `QCFS` or `ClippedReLU` that has none.

    The batches run through the network twice; activations without theta act as ReLU
    meanwhile. Levels, and whether theta is per channel, are read from the modules. A
    module that is called more than once gets one theta for all calls.

    Args:
      apply_fn: (variables, x) -> anything; calls a Linen module in inference.
      variables: {"params", ...} of the network, thetas missing.
      batches: inputs, or pairs of inputs and labels, from anything that yields them.
      method: see `calibrate`.
      cap: of the ReLUs that the network was trained with, 6 for ReLU6; the largest
        theta.
      percentile: see `calibrate`.
      max_batches: how many batches to read; None for all.

    Returns:
      A new tree; existing arrays are passed on.

    Raises:
      ValueError: as for `calibrate`, with the path of the layer; or no batches.

    >>> x = jnp.array([[0.5, 2.0]])
    >>> fn = lambda variables, x: QCFS(levels=3).apply(variables, x)
    >>> calibrate_network(fn, {"params": {}}, [x], method="maximum")
    {'params': {'theta': array(2., dtype=float32)}}
    """
    _check(method, percentile, cap)
    owned = flatten_dict(variables["params"]).keys()

    def run(visit, variables, x):
        def as_visited(call, args, kwargs, context):
            act, path = context.module, context.module.path
            if not isinstance(act, QCFS | ClippedReLU) or (*path, "theta") in owned:
                return call(*args, **kwargs)
            levels = getattr(act, "levels", _FINE)
            return visit(path, Activation(levels, act.per_channel, cap), *args)

        with nn.intercept_methods(as_visited):
            return apply_fn(variables, x)

    batches = kept(batches, partial(run, as_relu), variables, max_batches=max_batches)
    found = find_thetas(run, variables, batches, method=method, percentile=percentile)
    thetas = {("params", *path, "theta"): theta for path, theta in found.items()}
    # A collection may have no leaves, such as the statistics without batch norm.
    return dict.fromkeys(variables, {}) | unflatten_dict(
        flatten_dict(variables) | thetas
    )


# Says what an activation sends: (path, Activation, z) -> array.
Visit = Callable[[Any, Activation, jax.Array], jax.Array]
# Runs a network on a batch, its activations as `Visit` says: (visit, variables, x).
Run = Callable[[Visit, Any, Any], Any]


def as_relu(path: Any, activation: Activation, z: jax.Array) -> jax.Array:
    """Act as the ReLU that was trained: min(max(z, 0), cap)."""
    a = jnp.maximum(z, 0)
    return a if activation.cap is None else jnp.minimum(a, activation.cap)


def find_thetas(
    run: Run,
    variables: Any,
    batches: Sequence[Any],
    *,
    method: str,
    percentile: float = 99.9,
) -> dict[Any, np.ndarray]:
    """Find a theta for each activation of a network, from sums over batches.

    Args:
      run: the network: `run(visit, variables, x)` asks `visit(path, Activation, z)`
        what each activation sends. Paths are tuples or strings. It is jitted.
      variables: of the network.
      batches: inputs; iterated twice, for the largest values and for the rest.
      method: see `calibrate`.
      percentile: see `calibrate`.

    An activation that is never positive gets a theta of 1, and a warning.

    Raises:
      ValueError: as for `calibrate`, with the path, if no activation is positive or one
        is not finite.
    """
    _check(method, percentile)
    collect = partial(_collect, run, variables, batches)
    peaks = collect(lambda path, act, z: _peak(z, act), np.maximum)
    silent = [path for path, peak in peaks.items() if np.max(peak) <= 0]
    if len(silent) < len(peaks):  # otherwise the batches are at fault, or the network
        for path in silent:
            peaks[path] = np.ones_like(peaks[path])
            warn_of_silence(path)
    peaks = {path: _checked(peak, _name(path)) for path, peak in peaks.items()}
    trials = collect(
        lambda path, act, z: _trials(z, peaks[path], levels=act.levels),
        lambda a, b: jax.tree.map(np.add, a, b),
    )
    return {
        path: np.asarray(peak, np.float32)
        if path in silent
        else _choose(peak, trials[path], method, percentile)
        for path, peak in peaks.items()
    }


def warn_of_silence(path: Any) -> None:
    """Warn of an activation that is never positive."""
    warnings.warn(
        f"{_name(path)} never fires on these batches: theta is 1 there, which is right "
        "as long as it stays silent",
        stacklevel=4,
    )


def _collect(run, variables, batches, look, merge):
    """Collect {path: look(path, activation, z)}, merged over all calls.

    Sums over batches are in float64, so that they lose nothing.
    """

    def seen_by(variables, x):
        seen = OrderedDict()  # jit would return a plain dict sorted by name

        def visit(path, activation, z):
            shown = _capped(
                channels_last(z, activation).astype(jnp.float32), activation
            )
            seen.setdefault(path, []).append(look(path, activation, shown))
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


def channels_last(z: jax.Array, activation: Activation) -> jax.Array:
    """Move the axis of the channels to the end."""
    return z if activation.axis == -1 else jnp.moveaxis(z, activation.axis, -1)


def _name(path) -> str:
    return path if isinstance(path, str) else "/".join(path)


def _capped(z, activation) -> jax.Array:
    return z if activation.cap is None else jnp.minimum(z, activation.cap)


def _peak(z, activation) -> jax.Array:
    """Find the largest value, of each channel or of all."""
    return jnp.max(z, axis=tuple(range(z.ndim - activation.per_channel)))


def _trials(z, peak, *, levels) -> Trials:
    axes = tuple(range(z.ndim - jnp.ndim(peak)))

    def trial(share):
        theta = (share * peak).astype(z.dtype)
        error = qcfs(z, theta, levels=levels) - nn.relu(z)
        return jnp.sum(error**2, axes), jnp.sum(z > theta, axes)

    # One after the other, so that memory holds the values of one candidate only.
    error, above = jax.lax.map(trial, jnp.asarray(_SHARES, z.dtype))
    return Trials(error, above, jnp.full(above.shape, z.size // jnp.size(peak)))


def _choose(peak, trials, method, percentile) -> np.ndarray:
    best = CALIBRATIONS[method](trials, percentile)
    return np.asarray(peak * _SHARES[best], np.float32)


def _row_of_percentile(trials, percentile):
    # Rounded, so that 99.9 leaves a thousandth and not a little more.
    share = round(1 - percentile / 100, 12)
    return np.sum(trials.above <= share * trials.count, axis=0) - 1


# Rows of the best candidates.
CALIBRATIONS: dict[str, Callable[[Trials, float], Any]] = {
    "maximum": lambda trials, _: np.zeros(np.shape(trials.error)[1:], int),
    "percentile": _row_of_percentile,
    "mse": lambda trials, _: np.argmin(trials.error, axis=0),
}


def _checked(peak, name) -> np.ndarray:
    """Check peaks; channels that never fire get the largest one of the layer."""
    peak = np.asarray(peak, np.float64)
    if not (np.isfinite(peak).all() and peak.max() > 0):
        raise ValueError(
            f"{name} must have finite values and a positive one to calibrate theta "
            f"with; the largest is {peak.max()}"
        )
    return np.where(peak > 0, peak, peak.max())


def _check(method, percentile, cap=None) -> None:
    if method not in CALIBRATIONS:
        raise ValueError(
            f"method must be one of {', '.join(sorted(CALIBRATIONS))}; got {method!r}"
        )
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile must be above 0, at most 100; got {percentile}")
    if cap is not None and not cap > 0:
        raise ValueError(f"cap must be positive, or None for no cap; got {cap}")
