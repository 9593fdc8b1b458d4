"""Radix encoding, with radix 2: bits without the half step.

Wang et al., Efficient spiking neural networks with radix encoding, IEEE Transactions on
Neural Networks and Learning Systems 2022. Reconstructed:

    v(t) = 2 v(t-1) + I(t),   t = 1..T,   v(0) = 0;   v(T) += b
    k = clip(floor(v(T)), 0, 2**T - 1), sent as bits, most significant first

in units of delta = theta / (2**T - 1). As what is sent here carries its worth, T delta
2**(T-t), doubling becomes a sum; and a bias b that enters once, with the last bit,
becomes one that is whole in the mean. A batch norm is taken for part of the layer's
weights and bias, which is why it needs no shift of its own.

What is left is that codes are rounded down, delta / 2 lower on average than those that
the network was trained with, in every layer. The paper fits its code into the training
of the network, which can make up for that. A layer sends while the next one integrates,
so each takes T steps.
"""

import jax.numpy as jnp
from jaxtyping import Array

from bitsnn_jax.comparators.bit_serial import can, largest_code, send_bits
from bitsnn_jax.comparators.layer import Layer, Sent, TrainNeuron
from bitsnn_jax.comparators.method import Method
from bitsnn_jax.numerics.neurons import integrate
from bitsnn_jax.numerics.qcfs import step_size


def neuron(steps: int) -> TrainNeuron:
    """Build neurons that send the bits of what they have, rounded down."""

    def fire(layer: Layer, currents: Array) -> Sent:
        delta = step_size(layer.theta * steps, 2**steps - 1)
        charge = integrate(currents, jnp.zeros(layer.site.shape, currents.dtype))
        return send_bits(charge, delta, steps)

    return TrainNeuron(fire, maximum=largest_code, by_sum=True)


METHOD = Method(
    name="radix",
    title="Radix encoding",
    source="Reconstructed after Wang et al., Efficient spiking neural networks with "
    "radix encoding, IEEE Transactions on Neural Networks and Learning Systems 2022",
    neuron=neuron,
    can=can,
    codes="floored bits",
)
