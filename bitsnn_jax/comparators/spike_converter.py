"""SpikeConverter, phases with a leak that is fitted (Liu et al., AAAI 2022).

Liu et al., SpikeConverter: an efficient conversion framework zipping the gap between
artificial neural networks and spiking neural networks, 2022. Neurons first accumulate,
then generate, and in both phases their potential grows by a factor k, the inverse of a
leak:

    accumulate  v(t) = k v(t-1) + I(t),        t = 1..T,   v(0) = 0
    generate    s(t) = H(v(t) - theta),   v(t+1) = k (v(t) - theta s(t)),   t = 1..T

so that a spike of step t is worth theta k^(1-t) of the value z that a layer generates.
What is sent here carries that worth already, T theta k^(1-t), since a synapse has only
the mean of its train; so phase 1 is a sum, and its v is T z. The layer before has the
same k, which its spikes are accumulated with: there is one for the network.

With any k in 1..2 a value below the highest code loses less than a spike of the last
step is worth. A smaller k reaches higher with the same threshold, a larger one has
finer steps. k and each layer's theta are those with which the activations of a ReLU
network change least:

    theta = argmin of e = sum (generated - a)^2 / sum a^2,   k = argmin of the sum of e
    with the highest code theta (k - k^(1-T)) / (k - 1) in {i / 20 max(a), i = 1..20},
    k in {1.1, 1.2, ..., 2.0}

Reconstructed: that phases are separate, the inverse leak, and that it is fitted are the
paper's; the measure and the candidates are ours. The sums go over a sample of at most
16,384 positive activations of a layer. `phase` is this neuron with k = 2 on a network
trained with QCFS. A layer generates while the next one accumulates, so each takes T
steps.
"""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from bitsnn_jax.comparators.bit_serial import can, largest_code, send_weighted
from bitsnn_jax.comparators.layer import Layer, Sent, TrainNeuron
from bitsnn_jax.comparators.method import Method, Network
from bitsnn_jax.comparators.observe import relu, replaced
from bitsnn_jax.numerics.neurons import integrate

LEAKS = np.arange(11, 21) / 10
_TOPS = np.arange(1, 21) / 20  # highest codes, as shares of the largest activation
_SAMPLE = 2**14


def worths(leak: Any, steps: int) -> Any:
    """Compute k^(1-t) for t = 1..T: what spikes are worth, in theta."""
    return leak ** -np.arange(steps, dtype=float)


def neuron(steps: int) -> TrainNeuron:
    """Build neurons that generate with the "leak" and "theta" that were found."""

    def fire(layer: Layer, currents: Array) -> Sent:
        start = jnp.zeros(layer.site.shape, currents.dtype)
        leak = jnp.asarray(layer.found["leak"], currents.dtype)
        times = jnp.arange(steps).reshape(-1, *(1,) * start.ndim)
        thresholds = steps * layer.theta * leak**-times

        def step(v, threshold):
            spikes = v >= threshold
            return jnp.where(spikes, v - threshold, v), spikes

        _, spikes = lax.scan(step, integrate(currents, start), thresholds)
        return send_weighted(spikes, thresholds)

    # A code that is larger has a spike at the first step in which two differ.
    return TrainNeuron(fire, maximum=largest_code, by_sum=True)


def prepare(network: Network, batches: Iterable[Any], steps: int) -> Network:
    """Find {"theta": [], "leak": []} for each layer at T steps.

    Raises:
      ValueError: there are no batches, or a layer has no positive, finite activation.
    """
    samples = _samples(network, batches)
    fits = [
        {path: best_threshold(a, leak, steps) for path, a in samples.items()}
        for leak in LEAKS
    ]
    sums = [sum(error for _, error in fit.values()) for fit in fits]
    best = int(np.argmin(sums))
    found = {
        path: {"theta": theta, "leak": LEAKS[best]}
        for path, (theta, _) in fits[best].items()
    }
    return network._replace(found=found)


def best_threshold(a: np.ndarray, leak: float, steps: int) -> tuple[float, float]:
    """Find the threshold that changes positive activations least, and its error e."""
    worth = worths(leak, steps)
    thetas = a.max() * _TOPS / worth.sum()
    left = np.broadcast_to(a, (len(thetas), len(a))).copy()
    for w in worth:
        threshold = thetas[:, None] * w
        left -= np.where(left >= threshold, threshold, 0)
    errors = (left**2).sum(1) / (a**2).sum()
    best = int(np.argmin(errors))
    return float(thetas[best]), float(errors[best])


def _samples(network: Network, batches: Iterable[Any]) -> dict[str, np.ndarray]:
    """Take positive activations of each layer, the largest among them, in float64."""
    run = jax.jit(replaced(network.apply_fn, relu))
    seen: dict[str, list[np.ndarray]] = {}
    for x in batches:
        for path, z in jax.device_get(run(network.variables, x)[1]).items():
            positive = np.sort(z[~(z <= 0)], axis=None).astype(float)
            seen.setdefault(path, []).append(_thinned(positive))
    if not seen:
        raise ValueError("expected batches of images to calibrate with, got none")
    samples = {path: np.sort(np.concatenate(parts)) for path, parts in seen.items()}
    for path, a in samples.items():
        if not len(a) or not np.isfinite(a[-1]):
            raise ValueError(
                f"{path} must have a positive, finite largest activation to find its "
                f"threshold with, got {a[-1] if len(a) else 0}"
            )
    return {path: _thinned(a) for path, a in samples.items()}


def _thinned(a: np.ndarray) -> np.ndarray:
    """Take the largest of sorted values, and every n-th below it."""
    every = max(1, -(-len(a) // _SAMPLE))
    return a[::-1][::every]


METHOD = Method(
    name="spike_converter",
    title="SpikeConverter",
    source="Reconstructed after Liu et al., SpikeConverter: an efficient conversion "
    "framework zipping the gap between artificial neural networks and spiking neural "
    "networks, AAAI 2022",
    neuron=neuron,
    trained_with="relu",
    prepare=prepare,
    can=can,
    seeds=True,
)
