"""IM-Loss: membranes, or spikes, whose mean keeps most information.

Two methods, since the paper and the public code differ. Means are over T, the neurons
of a layer, and the examples that a device works off at once. Every example's loss has
the same such term.

Both are published with SGD 0.1, momentum 0.9, weight decay 1e-4, cosine, 100 epochs.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from bitsnn_jax.direct.dspike import NEURON
from bitsnn_jax.direct.layers import outside_blocks
from bitsnn_jax.direct.method import Method, Seen, TaskLoss, of_mean
from bitsnn_jax.direct.neurons import Fired, Neuron
from bitsnn_jax.direct.surrogates import evolving, surrogate

WEIGHT, CODE_WEIGHT = 2.0, 0.005
BLUNT, SHARP = 1.0, 10.0
DECAY = 0.25  # of `NEURON`


def sharpness(progress: Any) -> Any:
    """Return how sharp the surrogate is: ((10^p - 1) 10 + (10 - 10^p) 1) / 9.

    >>> sharpness(0.0), sharpness(1.0)
    (1.0, 10.0)
    """
    grown = 10**progress
    return ((grown - 1) * SHARP + (10 - grown) * BLUNT) / 9


def neuron(progress: Any) -> Neuron:
    """Return LIF neurons whose surrogate gets sharper, (K / 2) sech(K z)^2."""
    k = sharpness(progress)
    return dataclasses.replace(NEURON, spike=surrogate(lambda z: evolving(z, k)))


def loss(seen: Seen, task_loss: TaskLoss) -> jax.Array:
    """Return L + w sum_l (mean(u_l) - theta)^2 of each example, as in the paper.

    u is the membrane before firing; w = 2. Layers inside residual blocks have no term.
    Reconstructed from notes on the paper, with its sharpness from memory.
    """
    terms = [
        (fired.membranes.mean() - fired.theta) ** 2
        for fired in outside_blocks(seen.layers).values()
    ]
    return of_mean(seen, task_loss) + WEIGHT * jnp.stack(terms).sum()


def loss_of_code(seen: Seen, task_loss: TaskLoss) -> jax.Array:
    """Return L + w mean_l (mean(s_l) - 1 / (2 T))^2 of each example, as in the code.

    w = 0.005; s are spikes, of all layers but the first and the last. At the end of a
    residual block the code looks at the currents in their place, so this does.
    """
    layers = list(outside_blocks(seen.layers).items())[1:-1]
    goal = 0.5 / len(seen.outputs)
    means = [(currents(f) if "/" in path else f.spikes).mean() for path, f in layers]
    return of_mean(seen, task_loss) + CODE_WEIGHT * _mean_square(means, goal)


def currents(fired: Fired) -> jax.Array:
    """Return what charged the neurons of this file: x_t = u_t - u'_(t-1) / 4.

    u' is what the hard reset leaves, u (1 - s).
    """
    left = fired.membranes * (1 - fired.spikes)
    before = jnp.concatenate([jnp.zeros_like(left[:1]), left[:-1]])
    return fired.membranes - DECAY * before


def _mean_square(means, goal):
    return ((jnp.stack(means) - goal) ** 2).mean()


METHODS = (
    Method(
        name="im_loss",
        title="IM-Loss",
        source="Guo et al., IM-Loss, NeurIPS 2022; reconstructed from notes",
        neuron=neuron,
        loss=loss,
    ),
    Method(
        name="im_loss_code",
        title="IM-Loss (code)",
        source="Guo et al., IM-Loss, NeurIPS 2022; the loss of the public code",
        neuron=lambda progress: NEURON,
        loss=loss_of_code,
    ),
)
