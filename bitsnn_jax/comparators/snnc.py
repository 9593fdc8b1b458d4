"""Calibration of ReLU networks, light and with potentials (Li et al., ICML 2021).

Li et al., A free lunch from ANN: towards efficient, accurate spiking neural networks
calibration, 2021. The network is trained with ReLU. For T steps each layer's threshold
is the one with which activations, rounded down to T levels, change least,

    theta = argmin sum (floor(T clip(a / theta, 0, 1)) theta / T - a)^2,
    theta in {(1 - i / 100) max(a), i < 95},

and half a level is given back in T parts, so that what rounded down rounds:

    v(t) = v(t-1) + I(t) + b + theta / (2T);   s(t) = H(v(t) - theta);
    v(t) -= theta s(t),   v(0) = v_0

What is left of the difference between the activation a and the mean s of what the
neurons send is then taken out, layer by layer, behind layers that are corrected:

    light:       b   = mean of a - s, for each channel;            v_0 = 0
    potentials:  v_0 = T times the mean over images of a - s, for each neuron;   b = 0

The paper's third part, which trains the weights of each layer on its activations, is
`snnc_weights`; in the authors' public code it is switched off for CIFAR, with the
remark that potentials alone did best there. Batch norm is not folded but done at each
step, which is the same.

Ours: the sums that theta is found by go over all images (public code: thetas of several
batches, in a running average), as they are (public code: augmented). The corrections
are found from the first 128 images, as many as the public code takes.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from bitsnn_jax.comparators.batches import in_batches
from bitsnn_jax.comparators.layer import Layer, Sent, StepNeuron, TrainNeuron
from bitsnn_jax.comparators.method import Network
from bitsnn_jax.comparators.observe import relu, replaced
from bitsnn_jax.comparators.qcfs import integrate_and_fire, send
from bitsnn_jax.comparators.simulation import simulate
from bitsnn_jax.runtime.devices import AXIS, split_over_devices
from bitsnn_jax.tracing.program import ApplyFn

SOURCE = (
    "Li et al., A free lunch from ANN: towards efficient, accurate spiking neural "
    "networks calibration, ICML 2021"
)
_SHARES = 1 - np.arange(95) / 100
_IMAGES = 128  # to correct with: their spike trains are held at once

Found = dict[str, dict[str, Any]]
Correct = Callable[[Array, int], dict[str, Array]]


def neuron(steps: int) -> StepNeuron:
    """Build IF neurons with half a level in T parts, and a layer's b and v_0 if any."""

    def start(layer):
        return layer.full(layer.found.get("v_init", 0))

    def step(layer, v, current, t):
        given = layer.found.get("bias", 0) + layer.theta / (2 * steps)
        v, spikes = integrate_and_fire(layer, v, (current + given).astype(v.dtype))
        return v, send(layer, spikes)

    return StepNeuron(start, step)


def light(network: Network, batches: Iterable[Any], steps: int) -> Network:
    """Find thresholds, and a bias for each channel."""
    return _calibrated(network, batches, steps, _bias)


def potentials(network: Network, batches: Iterable[Any], steps: int) -> Network:
    """Find thresholds, and a potential to start from for each neuron."""
    return _calibrated(network, batches, steps, potential)


def thresholds(network: Network, batches: Iterable[Any], steps: int) -> Found:
    """Find {"theta": []} for each layer from all images, which are read twice.

    Raises:
      ValueError: a layer has no positive activation, or one that is not finite.
    """
    largest, errors = _looks(network.apply_fn)
    seen = [jax.device_get(largest(network.variables, x)) for x in batches]
    peaks = jax.tree.map(lambda *parts: np.max(parts), *seen)
    for path, peak in peaks.items():
        if not 0 < peak < np.inf:
            raise ValueError(
                f"{path} must have a positive, finite largest activation to find its "
                f"threshold with, got {peak}"
            )
    # In float64: sums over many batches lose nothing.
    given = (network.variables, peaks, float(steps))
    parts = [jax.device_get(errors(given, x)) for x in batches]
    total = jax.tree.map(lambda *parts: np.sum(parts, axis=(0, 1), dtype=float), *parts)
    return {
        path: {"theta": peaks[path] * _SHARES[np.argmin(error)]}
        for path, error in total.items()
    }


@lru_cache(maxsize=2)  # a table calibrates the same network for each T and each seed
def _looks(apply_fn: ApplyFn):
    """Build what finds each layer's peak, and what finds errors of candidates."""
    run = replaced(apply_fn, relu)

    @jax.jit
    def largest(variables, x):
        return {path: z.max() for path, z in run(variables, x)[1].items()}

    @split_over_devices
    def errors(given, x):
        variables, peaks, steps = given
        seen = run(variables, x)[1]
        return {path: _errors(z, peaks[path], steps) for path, z in seen.items()}

    return largest, errors


def _errors(z, peak, steps):
    """Square the errors of each candidate, the largest theta first: [95]."""
    a = jnp.maximum(z, 0).reshape(len(z), -1)
    ones = jnp.ones(a.shape[1], a.dtype)

    def error(share):
        theta = share * peak
        quantised = jnp.floor(jnp.clip(a / theta * steps, 0, steps)) * theta / steps
        # A product takes a third of the time: on CPUs a sum is one chain of additions.
        each = jnp.matmul((quantised - a) ** 2, ones, precision=lax.Precision.HIGHEST)
        return each.sum()

    # One after the other, so that memory holds the values of one candidate only.
    return lax.map(error, jnp.asarray(_SHARES, z.dtype))


def _calibrated(network, batches, steps, correct) -> Network:
    batches = list(batches)
    found = thresholds(network, in_batches(batches, _IMAGES), steps)
    ready = network._replace(found=found)
    return corrected(ready, network.variables, batches, steps, correct)


def corrected(
    network: Network, ann: Any, batches: Iterable[Any], steps: int, correct: Correct
) -> Network:
    """Correct what neurons send, layer by layer.

    Args:
      network: with thresholds.
      ann: variables of the ReLU network that says what they should send.
      batches: of images.
      steps: T.
      correct: makes a correction of the mean of what is missing, [1, ...], and T.
    """
    images, *_ = in_batches(batches, _IMAGES)
    corrections = _corrections(network.apply_fn, steps, correct)
    made = corrections((network.variables, network.found, ann), images)
    both = {
        path: {**found, **_of_one_device(made[path])}
        for path, found in network.found.items()
    }
    return network._replace(found=both)


def _of_one_device(made):
    return jax.tree.map(lambda a: np.asarray(a[0]), made)


@lru_cache(maxsize=8)
def _corrections(apply_fn: ApplyFn, steps: int, correct):
    """Make ((variables, found, ann), x) -> `correct` of the mean of a - s, by layer.

    Takes one pass, layer by layer; the mean is over the images on all devices.
    """
    neurons = neuron(steps)

    @split_over_devices
    def corrections(given, x):
        variables, found, ann = given
        _, seen = replaced(apply_fn, relu)(ann, x)
        made = {}

        def fire(layer: Layer, currents: Array) -> Sent:
            path = layer.site.path
            sent = _train(neurons, layer, currents).value.mean(0)
            missing = (jnp.maximum(seen[path], 0) - sent).mean(0, keepdims=True)
            made[path] = correct(lax.pmean(missing, AXIS), steps)
            corrected = layer._replace(found={**layer.found, **made[path]})
            return _train(neurons, corrected, currents)

        simulate(apply_fn, TrainNeuron(fire), steps=steps, found=found)(variables, x)
        return made

    return corrections


def _bias(missing: Array, steps: int) -> dict[str, Array]:
    places = tuple(range(missing.ndim - 1))
    return {"bias": missing.mean(places, keepdims=True)}


def potential(missing: Array, steps: int) -> dict[str, Array]:
    return {"v_init": steps * missing}


def _train(neurons: StepNeuron, layer: Layer, currents: Array) -> Sent:
    """Fire neurons that only look back on a whole train."""

    def step(state, now):
        return neurons.step(layer, state, *now)

    times = jnp.arange(len(currents))
    return lax.scan(step, neurons.start(layer), (currents, times))[1]
