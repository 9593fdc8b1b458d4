"""Burst spikes that grow, for ReLU networks (Park et al., DAC 2019).

    g(t) = beta g(t-1) if s(t-1) = 1, else 1;   g(1) = 1
    v(t) = v(t-1) + I(t);   s(t) = H(v(t) - g(t) theta);   v(t) -= g(t) theta s(t)

and what is sent is g(t) theta s(t): a neuron that has fired sends its next spike with
beta times the weight, under a threshold that has grown as much. A burst of n spikes
carries (beta^n - 1) / (beta - 1) thetas, so large potentials leave quickly, and each
spike is still one bit on a wire to a synapse that counts bursts.

Reconstructed: beta = 2 and theta = an eighth of the layer's largest activation are from
memory of the paper's experiments. Its image comes in phases of 8 steps; here it is the
current of each step, as for all methods. The largest activations are those of the
calibration images.
"""

import jax.numpy as jnp

from bitsnn_jax.comparators.layer import Sent, StepNeuron
from bitsnn_jax.comparators.method import Method
from bitsnn_jax.comparators.observe import by_largest

BETA, SHARE = 2.0, 0.125


def neuron(*, beta: float = BETA) -> StepNeuron:
    """Build neurons whose spikes grow by `beta` from one to the next of a burst."""

    def start(layer):
        return layer.full(0), layer.full(1)

    def step(layer, state, current, t):
        v, g = state
        v = v + current
        threshold = g * layer.theta
        spikes = (v >= threshold) & (layer.theta > 0)
        sent = jnp.where(spikes, threshold, 0)
        return (v - sent, jnp.where(spikes, beta * g, 1)), Sent(sent, spikes)

    return StepNeuron(start, step)


METHOD = Method(
    name="burst",
    title="burst spikes that grow",
    source="Reconstructed after Park et al., Fast and efficient information "
    "transmission with burst spikes in deep spiking neural networks, DAC 2019",
    neuron=lambda steps: neuron(),
    trained_with="relu",
    prepare=by_largest("layer", share=SHARE),
    seeds=True,
)
