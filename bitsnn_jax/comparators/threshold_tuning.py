"""Thresholds tuned to what is lost at T steps (Meng et al., Neural Networks 2022).

Meng et al., Training much deeper spiking neural networks with a small number of
time-steps, 2022. A threshold decides on two errors of a layer: activations become
multiples of theta / T, and what does not come evenly is lost or sent too early. A lower
threshold makes the first smaller; how much it makes of the second depends on how uneven
the currents are. So each layer, behind layers that are tuned, gets

    theta = argmin over c of mean (mean over t of s(t) - clip(z, 0, theta_0))^2
    with theta = c theta_0,   c in {0.3, 0.4, ..., 1.2}

where theta_0 is the trained clip, z what the source feeds the layer, and s what the
neurons send of the currents that the spiking network feeds them:

    v(0) = theta / 2;   v(t) = v(t-1) + I(t);   s(t) = theta H(v(t) - theta);
    v(t) -= s(t)

Reconstructed from the abstract: that thresholds are tuned to both errors is the
paper's; the search by measured errors, its candidates, its 128 images, and the half
charge are ours. Its other part, residual blocks of another structure, is a network of
its own and left out.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from bitsnn_jax.comparators import qcfs
from bitsnn_jax.comparators.batches import in_batches
from bitsnn_jax.comparators.decomposition import whole_train
from bitsnn_jax.comparators.layer import Layer, Sent, TrainNeuron
from bitsnn_jax.comparators.method import Method, Network
from bitsnn_jax.comparators.observe import clipped_relu, replaced
from bitsnn_jax.comparators.simulation import simulate
from bitsnn_jax.runtime.devices import AXIS, split_over_devices
from bitsnn_jax.tracing.program import ApplyFn

SHARES = np.arange(3, 13) / 10  # of the trained clip
_IMAGES = 128  # to tune with: their spike trains are held at once


def prepare(network: Network, batches: Iterable[Any], steps: int) -> Network:
    """Find {"theta": ...} for each layer at T steps; of equals, the lowest."""
    batch, *_ = in_batches(batches, _IMAGES)
    made = _tuned(network.apply_fn, steps)(network.variables, batch)
    return network._replace(found=jax.tree.map(lambda a: np.asarray(a[0]), made))


@lru_cache(maxsize=8)
def _tuned(apply_fn: ApplyFn, steps: int):
    """Make (variables, x) -> found, in one pass, layer by layer."""
    neurons = whole_train(qcfs.neuron())

    @split_over_devices
    def tuned(variables, x):
        _, seen = replaced(apply_fn, clipped_relu)(variables, x)
        made = {}

        def fire(layer: Layer, currents: Array) -> Sent:
            path = layer.site.path
            target = jnp.clip(seen[path], 0, layer.theta)

            def sent(share):
                tuned = layer._replace(theta=share * layer.theta)
                return neurons.fire(tuned, currents)

            def error(share):
                return jnp.mean((sent(share).value.mean(0) - target) ** 2)

            shares = jnp.asarray(SHARES, currents.dtype)
            errors = lax.pmean(lax.map(error, shares), AXIS)
            best = shares[jnp.argmin(errors)]
            made[path] = {"theta": best * layer.theta}
            return sent(best)

        simulate(apply_fn, TrainNeuron(fire), steps=steps)(variables, x)
        return made

    return tuned


METHOD = Method(
    name="threshold_tuning",
    title="tuned thresholds",
    source="Reconstructed after Meng et al., Training much deeper spiking neural "
    "networks with a small number of time-steps, Neural Networks 2022; without its "
    "residual blocks",
    neuron=lambda steps: qcfs.neuron(),
    trained_with="clipped_relu",
    prepare=prepare,
    seeds=True,
    for_one=True,
)
