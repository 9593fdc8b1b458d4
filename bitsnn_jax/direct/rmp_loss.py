"""RMP-Loss: membranes that are near 0 or 1 before they become spikes.

There is no public code. Reconstructed from memory, apart from the distance itself,
which stands in the same group's code of IM-Loss. Published with SGD 0.1, cosine, and
400 epochs on CIFAR.
"""

import jax
import jax.numpy as jnp

from bitsnn_jax.direct.dspike import NEURON
from bitsnn_jax.direct.method import Method, Seen, TaskLoss, of_mean

PEAK = 0.1


def loss(seen: Seen, task_loss: TaskLoss) -> jax.Array:
    """Return L + w(p) mean min(|u|, |1 - u|)^2 of each example.

    u is the membrane before firing. The mean is over T and neurons, then over layers.
    The weight rises from 0 to 0.1 at half of the training, and falls again.
    """
    weight = 2 * PEAK * jnp.minimum(seen.progress, 1 - seen.progress)
    terms = [_distance(fired.membranes) for fired in seen.layers.values()]
    return of_mean(seen, task_loss) + weight * jnp.stack(terms).mean(0)


def _distance(membranes):
    to_spike = jnp.minimum(jnp.abs(membranes), jnp.abs(1 - membranes)) ** 2
    return to_spike.mean(axis=(0, *range(2, membranes.ndim)))


METHOD = Method(
    name="rmp_loss",
    title="RMP-Loss",
    source="Guo et al., RMP-Loss, ICCV 2023; reconstructed",
    neuron=lambda progress: NEURON,
    loss=loss,
)
