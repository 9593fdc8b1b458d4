"""SRP, residual membrane potential (Hao et al., AAAI 2023).

Two stages with the neurons of the QCFS network. All layers run for tau steps; then each
neuron is judged by the potential that is left to it, and all start again for T steps:

    v(0) = theta / 2;   t = 1..tau:          v(t) = v(t-1) + I(t) - theta s(t)
    m = H(v(tau) - theta / 1000),  H(0) = 0;   v(tau) = theta / 2
    t = tau+1..tau+T:   v(t) = v(t-1) + I(t) - theta s(t);   what is sent is m s(t)

where s(t) = H(v(t-1) + I(t) - theta), H(0) = 1. A neuron whose potential ends below
zero has fired more than its input was worth, which only uneven arrival can bring about;
for the most part it should not have fired at all, and it is silenced.

The output is the mean over the T steps of the second stage: the latency is tau + T. The
spikes of the first stage are sent, and are counted. tau is 4 on CIFAR in the paper,
where sources have 4 levels; 8 and 14 for ResNet-34 and VGG-16 on ImageNet. With tau = 0
it is the QCFS network.
"""

import jax.numpy as jnp

from bitsnn_jax.comparators.layer import StepNeuron
from bitsnn_jax.comparators.method import Method
from bitsnn_jax.comparators.qcfs import integrate_and_fire, send

LEFT = 1e-3  # of theta: what must be left to a neuron that may fire


def neuron(tau: int = 4) -> StepNeuron:
    """Build IF neurons that are judged after `tau` steps."""
    if tau < 0:
        raise ValueError(f"tau must not be negative, got {tau}")

    def start(layer):
        return layer.full(layer.theta / 2), jnp.ones(layer.site.shape, bool)

    def step(layer, state, current, t):
        v, may_fire = state
        v, spikes = integrate_and_fire(layer, v, current)
        sent = send(layer, spikes & may_fire)
        judged = t + 1 == tau
        may_fire = jnp.where(judged, v > LEFT * layer.theta, may_fire)
        v = jnp.where(judged, layer.theta / 2, v)
        return (v, may_fire), sent

    return StepNeuron(start, step, warm_up=tau)


METHOD = Method(
    name="srp",
    title="SRP",
    source="Hao et al., Reducing ANN-SNN conversion error through residual membrane "
    "potential, AAAI 2023",
    neuron=lambda steps: neuron(),
)
