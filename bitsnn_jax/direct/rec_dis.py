"""RecDis: membranes whose distribution stays where gradients pass (MPD-Loss).

There is no public code. Reconstructed from memory, after the loss for binary networks
of Ding et al., CVPR 2019, which it follows, with the constants k of that. The weight is
chosen here.
"""

import jax
import jax.numpy as jnp

from bitsnn_jax.direct.dspike import NEURON
from bitsnn_jax.direct.method import Method, Seen, TaskLoss, of_mean

WEIGHT = 0.1
DEGENERATE, SATURATED, MISMATCHED = 1.0, 0.25, 2.0
REACH = 0.5  # of the surrogate, on each side of the threshold
EPSILON = 1e-5


def loss(seen: Seen, task_loss: TaskLoss) -> jax.Array:
    """Return L + w sum_l mean_c (degeneration + saturation + mismatch) of each example.

        degeneration (|m| - k_D s)+^2           all neurons on one side of the threshold
        saturation   (|m| - k_S s - 1/2)+^2     beyond the reach of the surrogate
        mismatch     (1/2 - |m| - k_M s)+^2     all within it, where it is no step

    m and s are mean and standard deviation of u - theta in a channel c: over T, places
    and the examples that a device works off at once. Every example has the same term.
    w = 0.1; k = 1, 1/4 and 2.
    """
    terms = [_shifts(f.membranes - f.theta).mean() for f in seen.layers.values()]
    return of_mean(seen, task_loss) + WEIGHT * jnp.stack(terms).sum()


def _shifts(u):
    over = tuple(range(u.ndim - 1))
    m, s = jnp.abs(u.mean(over)), jnp.sqrt(u.var(over) + EPSILON)
    shifts = [m - DEGENERATE * s, m - SATURATED * s - REACH, REACH - m - MISMATCHED * s]
    return (jnp.maximum(jnp.stack(shifts), 0) ** 2).sum(0)


METHOD = Method(
    name="rec_dis",
    title="RecDis (MPD-Loss)",
    source="Guo et al., RecDis-SNN, CVPR 2022; reconstructed",
    neuron=lambda progress: NEURON,
    loss=loss,
)
