"""TET: a loss at each step, and one that keeps outputs near the threshold."""

import jax
import jax.numpy as jnp

from bitsnn_jax.direct.method import Method, Seen, TaskLoss
from bitsnn_jax.direct.neurons import IntegrateAndFire, decay
from bitsnn_jax.direct.surrogates import SURROGATES

WEIGHT, GOAL = 1e-3, 1.0
NEURON = IntegrateAndFire(decay(0.5), SURROGATES["triangle"])


def loss(seen: Seen, task_loss: TaskLoss) -> jax.Array:
    """Return (1 - w) mean_t L(o_t) + w mean((o - goal)^2) of each example.

    w = 1e-3 and goal = 1, the threshold, as in the authors' code.
    """
    each = jax.vmap(task_loss)(seen.outputs).mean(0)
    outputs = jnp.moveaxis(seen.outputs, 1, 0)  # [n, T, ...]
    near = ((outputs - GOAL) ** 2).reshape(len(outputs), -1).mean(1)
    return (1 - WEIGHT) * each + WEIGHT * near


METHOD = Method(
    name="tet",
    title="TET",
    source="Deng et al., Temporal efficient training, ICLR 2022",
    neuron=lambda progress: NEURON,
    loss=loss,
)
