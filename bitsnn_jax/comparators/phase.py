"""Phases: inverse-leaky neurons that first accumulate and then generate.

Liu et al., SpikeConverter: an efficient conversion framework zipping the gap between
artificial neural networks and spiking neural networks, AAAI 2022. Reconstructed, with
the leak k = 2 in both phases, so that phases are worth powers of two:

    accumulate  v(t) = 2 v(t-1) + I(t),          t = 1..T,   v(0) = v_init
    generate    s(t) = H(v(t) - 2**(T-1)),   v(t+1) = 2 (v(t) - 2**(T-1) s(t))

in units of delta = theta / (2**T - 1). Doubling a spike of step t until step T makes it
worth 2**(T-t). What is sent here carries that worth already, T delta 2**(T-t), since a
synapse has only the mean of its train; so phase 1 is a sum. The bias is whole at each
step, which is b / (2**T - 1) at each step of the equation above.

Ours where the source is silent to us: v_init = 0, neurons that start at rest and so
round down, and the threshold that makes the highest code theta. The paper fits leak and
threshold to each network instead, as `spike_converter` does. With v_init = 1/2 (in
delta) the codes are those of QCFS, without it they are those of radix encoding. A layer
generates while the next one accumulates, so each takes T steps.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from bitsnn_jax.comparators.bit_serial import (
    can,
    largest_code,
    over_time,
    send_weighted,
)
from bitsnn_jax.comparators.layer import Layer, Sent, TrainNeuron
from bitsnn_jax.comparators.method import Method
from bitsnn_jax.numerics.neurons import integrate
from bitsnn_jax.numerics.qcfs import step_size
from bitsnn_jax.numerics.spikes import weights


def generate(charge: Array, threshold: Array, *, steps: int) -> Array:
    """Generate the spikes of a charge that doubles at each step under one threshold."""

    def step(v, _):
        spikes = v >= threshold
        return 2 * jnp.where(spikes, v - threshold, v), spikes

    return lax.scan(step, charge, length=steps)[1]


def neuron(steps: int, *, v_init: float = 0.0) -> TrainNeuron:
    """Build neurons that send the bits of what they have accumulated.

    Args:
      steps: of one of the two phases.
      v_init: charge before the first step, in delta.
    """

    def fire(layer: Layer, currents: Array) -> Sent:
        delta = step_size(layer.theta * steps, 2**steps - 1)
        charge = integrate(currents, layer.full(v_init * delta))
        spikes = generate(charge, delta * 2 ** (steps - 1), steps=steps)
        return send_weighted(spikes, delta * over_time(weights(steps), charge))

    return TrainNeuron(fire, maximum=largest_code, by_sum=True)


METHOD = Method(
    name="phase",
    title="Phase code",
    source="Reconstructed after Liu et al., SpikeConverter: an efficient conversion "
    "framework zipping the gap between artificial neural networks and spiking neural "
    "networks, AAAI 2022; with a leak of 2 and trained thresholds",
    neuron=neuron,
    can=can,
    codes="floored bits",
)
