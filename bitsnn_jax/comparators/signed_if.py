"""The signed IF neuron of Fast-SNN (Hu et al., TPAMI 2023).

    v(0) = theta / 2,  n = 0
    v += I(t);   if v >= theta:                 send +1,  v -= theta,  n += 1
                 if v <= -0.001 and n > 0:      send -1,  v += theta,  n -= 1

A neuron takes a spike back as soon as its potential says that it was one too many,
where SNM waits for a whole threshold. The two never happen at one step: a neuron that
has fired is not below zero. The 0.001 is in the units of the potential, not in
those of theta, as in the public code.

The source is a quantised network of b bits, and T = 2**b - 1, its levels: there the
mean of T spikes can be each of its activations. The rule asks for no T, and so it is
run for all; with T below the levels the means are coarser than the activations, as in
the QCFS network, whose start it shares. The paper quantises weights too, and fine-tunes
them layer by layer against errors that add up. Here they are those of the QCFS network,
so that the neuron alone is compared.

Without negative spikes it is the QCFS network, and under constant input they do not
occur: a potential falls below zero only by input that is negative.
"""

import jax.numpy as jnp

from bitsnn_jax.comparators.layer import Sent, StepNeuron
from bitsnn_jax.comparators.method import Method
from bitsnn_jax.comparators.qcfs import integrate_and_fire

BELOW = -1e-3  # a potential that is negative by more than round-off


def neuron() -> StepNeuron:
    """Build IF neurons that take spikes back."""

    def start(layer):
        half = layer.full(layer.theta / 2)
        return half, jnp.zeros(layer.site.shape, jnp.int32)

    def step(layer, state, current, t):
        v, count = state
        v, up = integrate_and_fire(layer, v, current)
        down = (v <= BELOW) & (count > 0)
        v = jnp.where(down, v + layer.theta, v)
        sign = up.astype(jnp.int32) - down
        return (v, count + sign), Sent(sign * layer.theta, up | down)

    return StepNeuron(start, step)


METHOD = Method(
    name="signed_if",
    title="Fast-SNN (signed IF)",
    source="Hu et al., Fast-SNN: fast spiking neural network by converting quantized "
    "ANN, TPAMI 2023",
    neuron=lambda steps: neuron(),
)
