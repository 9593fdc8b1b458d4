"""Thresholds and corrections in the order of firing, behind layers that are quantised.

A threshold that is found in the network of ReLUs suits values that its layer does not
get: it gets those of the quantised layers before it. So all batches go through two
networks side by side, that of ReLUs and the quantised one, and stop at each activation
until its threshold is found. No batch goes through a layer twice, except that "output"
tries the next layer with each of 13 thresholds; and each layer is compiled once.

Memory holds, for each batch, what the rest of the network needs at that place: about
the values of one layer and of the branches beside it, twice.
"""

import copy
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax.conversion.at_once import find_at_once
from bitsnn_jax.conversion.batches import progress
from bitsnn_jax.conversion.candidates import (
    Activation,
    Run,
    along,
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
from bitsnn_jax.conversion.segments import Cut, Walk, cut
from bitsnn_jax.numerics.qcfs import qcfs, signed_qcfs

# What "output" tries: the theta of least error times a half to one and a half.
_AROUND = 2.0 ** (np.arange(-8, 5) / 8)


class Found(NamedTuple):
    """What calibration finds, by path.

    Attributes:
      theta: thresholds, [] or [C].
      offset: what is added in front of the neurons, [C]; empty without correction.
    """

    theta: dict[Any, np.ndarray]
    offset: dict[Any, np.ndarray]


def find_in_order(
    run: Run,
    variables: Any,
    batches: Sequence[Any],
    *,
    method: str,
    percentile: float = 99.9,
    correct_biases: bool = False,
    thetas: dict[Any, np.ndarray] | None = None,
) -> Found:
    """Find a theta for each activation, and an offset in front, in the order of firing.

    Args:
      run, variables, batches, percentile: as for `calibration.find_thetas`.
      method: as there, or "output": theta makes the squared error of what the next
        activation is fed, or of the results, smallest.
      correct_biases: find offsets.
      thetas: those that are known; they are not sought.

    Raises:
      ValueError: as `calibration.find_thetas`; activations that a part of the program
        hides which is traced by itself.
    """
    walks = _walks(run, variables, batches)
    stops, known = walks[0].stops, dict(thetas or {})
    if correct_biases:
        _refuse_signed(stops)
    calls = Counter(path for path, _ in stops)
    several = {path for path, count in calls.items() if count > 1}
    if several - known.keys():  # in no order: one theta for all calls
        first = "mse" if method == "output" else method
        known |= find_at_once(
            run, variables, batches, method=first, percentile=percentile
        )
        known = {path: known[path] for path in several}
    found, silent = Found({}, {}), []
    for path, activation in progress(stops, "calibrating"):
        layer = _Layer(path, activation, [walk.arrive() for walk in walks])
        corrected = correct_biases and path not in several
        offset = layer.offset() if corrected else None
        theta = known.get(path)
        if theta is None:
            theta = layer.theta(offset, activation.method or method, percentile, walks)
        if theta is None:
            silent.append(path)
            theta = np.ones(layer.theta_shape, np.float32)
        found.theta[path] = theta
        if offset is not None:
            found.offset[path] = offset
        for walk, (real, coded) in zip(walks, layer.zs, strict=True):
            walk.leave(_relu(activation, real), _sent(activation, coded, theta, offset))
    if len(silent) == len(stops):  # the batches are at fault, or the network
        checked(0, name_of(silent[0]))
    for path in silent:
        warn_of_silence(path, stacklevel=4)
    return found


def _refuse_signed(stops) -> None:
    """Raise ValueError for a network with attention, or others that are no ReLUs."""
    # The last axis is not always one of channels there: behind a softmax, an offset
    # would be one for each word, and wake the words that are masked.
    signed = [name_of(path) for path, activation in stops if activation.signed]
    if signed:
        raise ValueError(
            "correct_biases expects a network of ReLUs only, and got activations for "
            f"values of both signs, first {signed[0]}: pass correct_biases=False"
        )


class _Walks:
    """A batch on its way through both networks."""

    def __init__(self, parts: Cut, variables: Any, x: Any):
        self.stops = parts.stops
        self.real = Walk(parts, variables, x)
        self.real.arrive()  # nothing is quantised yet: one for both
        self.coded = copy.copy(self.real)

    def arrive(self) -> tuple[jax.Array, jax.Array]:
        return self.real.arrive(), self.coded.arrive()

    def leave(self, real: jax.Array, coded: jax.Array) -> None:
        self.real.leave(real)
        self.coded.leave(coded)


def _walks(run: Run, variables: Any, batches: Sequence[Any]) -> list[_Walks]:
    """Cut the network for each shape of batches."""

    def program(stop, variables, x):
        return run(lambda path, act, z: stop((path, act), z), variables, x)

    cuts, walks = {}, []
    for x in batches:
        shape = str(jax.eval_shape(lambda x: x, x))
        if shape not in cuts:
            cuts[shape] = cut(program, variables, x)
        if not cuts[shape].stops:
            raise ValueError(
                "expected batches and a network with activations that have no theta "
                "yet: found none"
            )
        walks.append(_Walks(cuts[shape], variables, x))
    return walks


class _Layer(NamedTuple):
    """An activation, and what it is fed of each batch in both networks."""

    path: Any
    activation: Activation
    zs: list[tuple[jax.Array, jax.Array]]

    @property
    def theta_shape(self) -> tuple[int, ...]:
        shape = np.shape(self.zs[0][0])
        return (shape[self.activation.axis],) if self.activation.per_channel else ()

    def offset(self) -> np.ndarray:
        """Find what makes the mean of each channel right where it counts."""
        error, count = _summed(_shift(self.activation, *z) for z in self.zs)
        return np.asarray(error / np.maximum(count, 1), np.float32)

    def theta(self, offset, method, percentile, walks) -> np.ndarray | None:
        """Find the threshold; None if the activation is never positive."""
        activation = self.activation
        peaks = [np.asarray(_largest(activation, z, offset)) for _, z in self.zs]
        peak = np.max(peaks, axis=0)
        if np.max(peak) <= 0:
            return None
        peak = checked(peak, name_of(self.path))
        trials = _summed(_trials(activation, z, offset, peak) for _, z in self.zs)
        measure = "mse" if method == "output" else method
        theta = choose(peak, trials, measure, percentile)
        if method == "output":
            theta = self.theta_by_output(theta, peak, offset, walks)
        return theta

    def theta_by_output(self, theta, peak, offset, walks) -> np.ndarray:
        """Find the multiple of theta that is best for what comes next."""
        act, zs = self.activation, self.zs
        wanted = [
            walk.real.look_ahead(_relu(act, z))
            for walk, (z, _) in zip(walks, zs, strict=True)
        ]
        if wanted[0] is None:
            return theta
        candidates = [np.asarray(np.minimum(n * theta, peak), "f4") for n in _AROUND]

        def error(candidate):
            total = 0.0
            for walk, (_, z), want in zip(walks, zs, wanted, strict=True):
                got = walk.coded.look_ahead(_sent(act, z, candidate, offset))
                total += float(_squared_error(got, want))
            return total

        return candidates[int(np.argmin([error(each) for each in candidates]))]


def _summed(parts) -> Any:
    """Add up in float64, so that sums over batches lose nothing."""
    wide = [jax.tree.map(lambda x: np.asarray(x, np.float64), part) for part in parts]
    return jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]), *wide)


@partial(jax.jit, static_argnums=0)
def _relu(activation, z):
    return as_relu(None, activation, z)


@partial(jax.jit, static_argnums=0)
def _sent(activation, z, theta, offset):
    """Compute what the quantised activation sends."""
    z = with_offset(z, offset, activation.axis)
    wide = jnp.promote_types(z.dtype, jnp.float32)
    theta = jnp.asarray(theta, wide)
    if theta.ndim:
        theta = along(theta, z, activation.axis)
    act = signed_qcfs if activation.signed else qcfs
    return act(z.astype(wide), theta, levels=activation.levels).astype(z.dtype)


def with_offset(z: jax.Array, offset: Any, axis: int) -> jax.Array:
    """Add an offset for each channel; None adds nothing."""
    if offset is None:
        return z
    return z + along(jnp.asarray(offset, z.dtype), z, axis)


def _corrected(activation, z, offset) -> jax.Array:
    z = shown(with_offset(z, offset, activation.axis), activation)
    return capped(z, activation)


@partial(jax.jit, static_argnums=0)
def _largest(activation, z, offset):
    return largest(_corrected(activation, z, offset), activation)


@partial(jax.jit, static_argnums=0)
def _trials(activation, z, offset, peak):
    z = _corrected(activation, z, offset)
    return try_all(z, peak, levels=activation.levels)


@partial(jax.jit, static_argnums=0)
def _shift(activation, real, coded):
    """Sum the errors of a channel, and count the places that have a share in them."""
    real, coded = (shown(z, activation) for z in (real, coded))
    top = jnp.inf if activation.cap is None else activation.cap
    active = ((real > 0) & (real < top)) | ((coded > 0) & (coded < top))
    error = jnp.clip(real, 0, top) - jnp.clip(coded, 0, top)
    axes = tuple(range(real.ndim - 1))
    return jnp.sum(error, axes), jnp.sum(active, axes)


@jax.jit
def _squared_error(got, want):
    leaves = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    return sum(
        (jnp.sum(jnp.square(g - w), dtype=jnp.float32) for g, w in leaves),
        jnp.zeros(()),
    )
