"""Candidates for a threshold, and the measures by which one of them is chosen."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax.numerics.qcfs import qcfs

# Candidates in shares of the largest activation, 16 an octave down to 1/64: theta is
# found to 2.2 %, which hardly matters: the error is flat around its minimum.
_SHARES = 2.0 ** -(np.arange(97) / 16)


class Activation(NamedTuple):
    """What replaces a ReLU: QCFS, and min(relu(z), cap) if it has a cap.

    Attributes:
      levels: highest code, of either sign.
      per_channel: one theta for each channel.
      cap: of the ReLU, 6 for a ReLU6; None without one.
      axis: of the channels.
      method: how theta is chosen; None for as the others of the network.
      signed: it replaces nothing, by QCFS for both signs, and is measured by |z|.
    """

    levels: int
    per_channel: bool = False
    cap: float | None = None
    axis: int = -1
    method: str | None = None
    signed: bool = False


# Says what an activation sends: (path, Activation, z) -> array.
Visit = Callable[[Any, Activation, jax.Array], jax.Array]
# Runs a network on a batch, its activations as `Visit` says: (visit, variables, x).
Run = Callable[[Visit, Any, Any], Any]


def as_relu(path: Any, activation: Activation, z: jax.Array) -> jax.Array:
    """Act as what was trained: the ReLU min(max(z, 0), cap), or nothing if signed."""
    return z if activation.signed else capped(jnp.maximum(z, 0), activation)


def capped(z: jax.Array, activation: Activation) -> jax.Array:
    """Limit values to the cap."""
    return z if activation.cap is None else jnp.minimum(z, activation.cap)


def shown(z: jax.Array, activation: Activation) -> jax.Array:
    """Convert to what is measured: float32, the channels last, |z| if signed."""
    if activation.axis != -1:
        z = jnp.moveaxis(z, activation.axis, -1)
    # A pair rounds z as one neuron rounds |z|: the errors are the same but for signs.
    z = z.astype(jnp.float32)
    return jnp.abs(z) if activation.signed else z


def along(values: jax.Array, z: jax.Array, axis: int) -> jax.Array:
    """Shape values of channels, [C], so that they broadcast against z."""
    return values.reshape(-1, *(1,) * (z.ndim - 1 - axis % z.ndim))


class Trials(NamedTuple):
    """Statistics of the candidates, [97, *theta.shape], largest theta first.

    Attributes:
      error: sum of (qcfs(z) - target)**2, z being at most the cap.
      above: how many z are above theta.
      count: how many z there were.
    """

    error: Any
    above: Any
    count: Any


def largest(z: jax.Array, activation: Activation) -> jax.Array:
    """Find the largest value, of each channel or of all."""
    return jnp.max(z, axis=tuple(range(z.ndim - activation.per_channel)))


def try_all(z: jax.Array, peak: Any, *, levels: int) -> Trials:
    """Quantise values with each candidate theta; the target is relu(z)."""
    axes = tuple(range(z.ndim - jnp.ndim(peak)))

    def trial(share):
        theta = (share * peak).astype(z.dtype)
        error = qcfs(z, theta, levels=levels) - jax.nn.relu(z)
        return jnp.sum(error**2, axes), jnp.sum(z > theta, axes)

    # One after the other, so that memory holds the values of one candidate only.
    error, above = jax.lax.map(trial, jnp.asarray(_SHARES, z.dtype))
    return Trials(error, above, jnp.full(above.shape, z.size // jnp.size(peak)))


def choose(
    peak: np.ndarray, trials: Trials, method: str, percentile: float
) -> np.ndarray:
    """Choose the best candidate."""
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


def checked(peak: Any, name: str) -> np.ndarray:
    """Check peaks; channels that never fire get the largest one of the layer."""
    peak = np.asarray(peak, np.float64)
    if not (np.isfinite(peak).all() and peak.max() > 0):
        raise ValueError(
            f"{name} must have finite values and a positive one to calibrate theta "
            f"with; the largest is {peak.max()}"
        )
    return np.where(peak > 0, peak, peak.max())


def check_options(
    methods: Any, method: str, percentile: float, cap: float | None = None
) -> None:
    """Raise ValueError for an option that is out of range."""
    if method not in methods:
        raise ValueError(
            f"method must be one of {', '.join(sorted(methods))}; got {method!r}"
        )
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile must be above 0, at most 100; got {percentile}")
    if cap is not None and not cap > 0:
        raise ValueError(f"cap must be positive, or None for no cap; got {cap}")


def name_of(path: Any) -> str:
    """Return the name of an activation."""
    return path if isinstance(path, str) else "/".join(path)


def warn_of_silence(path: Any, *, stacklevel: int) -> None:
    """Warn of an activation that is never positive."""
    warnings.warn(
        f"{name_of(path)} never fires on these batches: theta is 1 there, which is "
        "right as long as it stays silent",
        stacklevel=stacklevel + 1,
    )
