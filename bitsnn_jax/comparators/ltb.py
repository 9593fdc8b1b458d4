"""Local threshold balancing, for ReLU networks as they are (Bu et al., CVPR 2025).

Bu, Li and Yu, Inference-scale complexity in ANN-SNN conversion for high-performance and
low-power applications, CVPR 2025. Nothing is trained: while images run through the
network, every channel's threshold moves up by what is above it,

    theta <- theta + 2 mean(max(z - theta, 0)),   a = clip(z, 0, theta),

the mean over images and places, theta = 0 at first, the new one clipping; all layers at
once, a layer seeing what those before it have clipped. Then the neurons are those of
QCFS with these thresholds, and the output is read with a delay, of the steps t > t_d
only, in which the first spikes have come through all layers.

A channel that was never positive keeps theta = 0 and sends nothing.

Ours: 1000 updates of 32 images, going through the images as often as that takes; the
paper takes 1000 of 100, augmented. The paper's t_d comes from how fast layers charge
(its Eq. 19), and is a part of T, of which at least four steps are left to read. Here it
is `DELAY`, the same for every T, on top of T, and counts as latency: compare windows.
Max pooling stays where it is in the network (public code moves neurons behind it).
"""

from collections.abc import Iterable
from itertools import cycle, islice
from typing import Any

import jax
import jax.numpy as jnp

from bitsnn_jax.comparators import qcfs
from bitsnn_jax.comparators.batches import in_batches
from bitsnn_jax.comparators.layer import StepNeuron
from bitsnn_jax.comparators.method import Method, Network
from bitsnn_jax.comparators.observe import replaced

DELAY = 8
_UPDATES, _IMAGES = 1000, 32


def neuron(*, delay: int = DELAY) -> StepNeuron:
    """Build the neurons of QCFS, whose output is read with a delay."""
    return qcfs.neuron(warm_up=delay)


def prepare(
    network: Network, batches: Iterable[Any], steps: int, *, updates: int = _UPDATES
) -> Network:
    """Find {"theta": [1, ..., 1, C]} for each layer, whatever T is."""
    update = jax.jit(_update(network))
    batches = in_batches(batches, _IMAGES)
    shapes = jax.eval_shape(update, network.variables, batches[0], {})
    found = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    for x in islice(cycle(batches), updates):
        found = update(network.variables, x, found)
    return network._replace(found=jax.device_get(found))


def _update(network):
    """Make (variables, x, found) -> found: all layers' thresholds after one batch."""

    def update(variables, x, found):
        after = {}

        def clipped(layer, z):
            theta = layer.found.get("theta", 0)
            axes = tuple(range(z.ndim - 1))
            theta += 2 * jnp.maximum(z - theta, 0).mean(axes, keepdims=True)
            after[layer.site.path] = {"theta": theta}
            return jnp.clip(z, 0, theta)

        replaced(network.apply_fn, clipped, found=found)(variables, x)
        return after

    return update


METHOD = Method(
    name="ltb",
    title="local threshold balancing",
    source="Bu, Li and Yu, Inference-scale complexity in ANN-SNN conversion for "
    "high-performance and low-power applications, CVPR 2025",
    neuron=lambda steps: neuron(),
    trained_with="relu",
    prepare=prepare,
    seeds=True,
)
