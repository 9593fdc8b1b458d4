"""Several spikes in one step, for ReLU networks (Li and Zeng, IJCAI 2022).

    v(t) = v(t-1) + I(t);   n(t) = clip(floor(v(t) / theta), 0, gamma);
    v(t) -= n(t) theta,   v(0) = 0

and what is sent is n(t) theta, as n(t) spikes between two steps. A neuron that was fed
late can still send all that it has. gamma = 5, as in the public code, and theta is the
layer's largest activation over the training images: here, the calibration images.

Differs from the paper: a maximum over places is taken of the spikes of each step. The
paper's lateral inhibition lets a unit of max pooling send what the units before it have
together sent most, which needs a memory that no reading here has.
"""

import jax.numpy as jnp

from bitsnn_jax.comparators.layer import Sent, StepNeuron
from bitsnn_jax.comparators.method import Method
from bitsnn_jax.comparators.observe import by_largest
from bitsnn_jax.comparators.qcfs import empty

GAMMA = 5


def neuron(*, gamma: int = GAMMA) -> StepNeuron:
    """Build IF neurons that send up to `gamma` spikes a step."""

    def step(layer, v, current, t):
        v = v + current
        theta = jnp.where(layer.theta > 0, layer.theta, jnp.inf)
        count = jnp.clip(jnp.floor(v / theta), 0, gamma)
        sent = count * layer.theta
        return v - sent, Sent(sent, count.astype(jnp.int32))

    return StepNeuron(empty, step)


METHOD = Method(
    name="burst_if",
    title="burst spikes in one step",
    source="Li and Zeng, Efficient and accurate conversion of spiking neural network "
    "with burst spikes, IJCAI 2022",
    neuron=lambda steps: neuron(),
    trained_with="relu",
    prepare=by_largest("layer"),
    seeds=True,
)
