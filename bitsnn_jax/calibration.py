"""Thresholds from data: the theta with which QCFS takes the place of a ReLU.

A network that was trained with ReLU has no thresholds. A few batches are run through
it, every activation is quantised with each of 97 candidate thetas, and the one that a
method calls best is taken. What is kept for each candidate are sums over the batches,
so memory does not grow with their number.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from bitsnn_jax.layers import QCFS, ClippedReLU
from bitsnn_jax.qcfs import qcfs

# Candidates in shares of the largest activation, 16 an octave down to 1/64: theta is
# found to 2.2 %, which the error, flat around its minimum, hardly notices.
_SHARES = 2.0 ** -(np.arange(97) / 16)
_FINE = 2**20  # levels of a clipped ReLU, which does not quantise: as good as infinite


class Trials(NamedTuple):
    """What the candidates do, one row each, largest theta first; [97, *theta.shape].

    Attributes:
      error: sum of (qcfs(z) - relu(z))**2.
      above: how many z are above theta.
      count: how many z there were.
    """

    error: Any
    above: Any
    count: Any


def calibrate(
    z: Any, *, levels: int = 15, method: str = "mse", per_channel: bool = False
) -> np.ndarray:
    """The theta with which `qcfs` stands best for the ReLU of some pre-activations.

        theta = max(z) 2^(-g/16),   g in 0..96

    with g by `method`: "mse" makes the sum of (qcfs(z, theta) - relu(z))^2 smallest;
    "percentile" is the smallest theta that no more than 0.1 % of all z exceed;
    "maximum" is g = 0. Of equals, the largest theta.

    A channel without any positive z gets the theta of the layer's largest.

    Args:
      z: [..., C] pre-activations.
      levels: highest code of the QCFS that is to come.
      method: a name in `METHODS`.
      per_channel: one theta for each channel (last axis).

    Returns:
      float32 [] or [C], positive.

    Raises:
      ValueError: unknown method, or no z that is positive, or one that is not finite.

    >>> calibrate(np.array([-1.0, 0.5, 1.0, 1.5]), levels=3, method="maximum")
    array(1.5, dtype=float32)
    """
    _check_method(method)
    z = jnp.asarray(z)
    peak = _checked(_peak(z, per_channel=per_channel), "z")
    trials = jax.jit(_trials, static_argnames="levels")(z, peak, levels=levels)
    return _choose(peak, trials, method)


def calibrate_network(
    apply_fn: Callable[[Any, Any], Any],
    variables: dict,
    batches: Iterable[Any],
    *,
    method: str = "mse",
) -> dict:
    """Variables with a theta for each `QCFS` or `ClippedReLU` that has none in them.

    While the batches run through the network, twice, activations without theta act as
    ReLU, others as they are. Levels, and whether theta is per channel, are read from
    the modules. A module that is called more than once gets one theta for all calls.

    Args:
      apply_fn: (variables, x) -> anything; calls a Linen module in inference.
      variables: {"params", ...} of the network, thetas missing.
      batches: inputs; gone through twice.
      method: see `calibrate`.

    Returns:
      A new tree; arrays that were there are passed on.

    Raises:
      ValueError: as for `calibrate`, with the path of the layer; or no batches.

    >>> x = jnp.array([[0.5, 2.0]])
    >>> fn = lambda variables, x: QCFS(levels=3).apply(variables, x)
    >>> calibrate_network(fn, {"params": {}}, [x], method="maximum")
    {'params': {'theta': array(2., dtype=float32)}}
    """
    _check_method(method)
    peaks = _collect(
        apply_fn,
        variables,
        batches,
        lambda path, act, z: _peak(z, per_channel=act.per_channel),
        np.maximum,
    )
    peaks = {path: _checked(peak, "/".join(path)) for path, peak in peaks.items()}
    trials = _collect(
        apply_fn,
        variables,
        batches,
        lambda path, act, z: _trials(
            z, peaks[path], levels=getattr(act, "levels", _FINE)
        ),
        lambda a, b: jax.tree.map(np.add, a, b),
    )
    thetas = {
        ("params", *path, "theta"): _choose(peak, trials[path], method)
        for path, peak in peaks.items()
    }
    # A collection may have no leaves, such as the statistics without batch norm.
    return dict.fromkeys(variables, {}) | unflatten_dict(
        flatten_dict(variables) | thetas
    )


def _collect(apply_fn, variables, batches, look, merge):
    """{path: look(path, module, z)} of activations without theta, merged over calls.

    In float64: sums over many batches lose nothing.
    """
    owned = flatten_dict(variables["params"]).keys()

    @jax.jit
    def seen(variables, x):
        found = defaultdict(list)

        def as_relu(call, args, kwargs, context):
            act, path = context.module, context.module.path
            if not isinstance(act, QCFS | ClippedReLU) or (*path, "theta") in owned:
                return call(*args, **kwargs)
            (z,) = args
            found[path].append(look(path, act, z.astype(jnp.float32)))
            return nn.relu(z)

        with nn.intercept_methods(as_relu):
            apply_fn(variables, x)
        return dict(found)

    total = {}
    for x in batches:
        for path, calls in seen(variables, x).items():
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


def _peak(z, *, per_channel):
    """The largest value, of each channel or of all."""
    return jnp.max(z, axis=tuple(range(z.ndim - per_channel)))


def _trials(z, peak, *, levels):
    axes = tuple(range(z.ndim - jnp.ndim(peak)))

    def trial(share):
        theta = (share * peak).astype(z.dtype)
        error = qcfs(z, theta, levels=levels) - nn.relu(z)
        return jnp.sum(error**2, axes), jnp.sum(z > theta, axes)

    # One after the other, so that what a candidate makes of z is gone before the next.
    error, above = jax.lax.map(trial, jnp.asarray(_SHARES, z.dtype))
    return Trials(error, above, jnp.full(above.shape, z.size // jnp.size(peak)))


def _choose(peak, trials, method):
    best = METHODS[method](trials)
    return np.asarray(peak * _SHARES[best], np.float32)


# Rows of the best candidates.
METHODS: dict[str, Callable[[Trials], Any]] = {
    "maximum": lambda trials: np.zeros(np.shape(trials.error)[1:], int),
    "percentile": lambda trials: (
        np.sum(trials.above <= 0.001 * trials.count, axis=0) - 1
    ),
    "mse": lambda trials: np.argmin(trials.error, axis=0),
}


def _checked(peak, name):
    """Peaks as they are, those of channels that never fire as the layer's largest."""
    peak = np.asarray(peak, np.float64)
    if not (np.isfinite(peak).all() and peak.max() > 0):
        raise ValueError(
            f"{name} must have finite values and a positive one to calibrate theta "
            f"with; the largest is {peak.max()}"
        )
    return np.where(peak > 0, peak, peak.max())


def _check_method(method):
    if method not in METHODS:
        raise ValueError(
            f"method must be one of {', '.join(sorted(METHODS))}; got {method!r}"
        )
