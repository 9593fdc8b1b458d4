"""Time to first spike: one spike a neuron, and the earlier the more it says.

After Rueckauer and Liu, Conversion of analog to spiking neural networks using sparse
temporal coding, ISCAS 2018; reconstructed, as the linear code of time that loses
nothing: with T = L steps, level k is one spike at step L - k (counted from 0), and
level 0 is silence. The neuron integrates for T steps, and then its threshold falls
until it fires:

    u    = sum_t I(t) + theta / 2
    s(t) = H(u - (T - t) theta),   t = 0..T-1,   the first only;   H(0) = 1

A spike sends the threshold that it has met, (T - t) theta, since the mean over T steps
is then theta k / T. Ours is the half step, without which the threshold rounds down.
The code is that of QCFS with T levels. A layer fires while the next one integrates, so
each takes T steps. A maximum over places is a race: the first spike wins.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from bitsnn_jax.comparators.bit_serial import over_time, send_weighted
from bitsnn_jax.comparators.layer import Layer, Sent, TrainNeuron
from bitsnn_jax.comparators.method import Method
from bitsnn_jax.numerics.neurons import integrate


def first(crossed: Array) -> Array:
    """Keep only the first True along time."""

    def step(before, now):
        return before | now, now & ~before

    return lax.scan(step, jnp.zeros_like(crossed[0]), crossed)[1]


def earliest(largest, train: Array) -> Array:
    """Pick the train of the earliest spike."""
    race = jnp.stack([largest(step) for step in train])
    return jnp.where(first(race > 0), race, jnp.zeros((), train.dtype))


def neuron(steps: int) -> TrainNeuron:
    """Build neurons that fire once, when their falling threshold meets their charge."""

    def fire(layer: Layer, currents: Array) -> Sent:
        charge = integrate(currents, layer.full(layer.theta / 2))
        thresholds = layer.theta * over_time(range(steps, 0, -1), charge)
        return send_weighted(first(charge >= thresholds), thresholds)

    return TrainNeuron(fire, maximum=earliest, by_sum=True)


METHOD = Method(
    name="ttfs",
    title="Time to first spike",
    source="Reconstructed after Rueckauer and Liu, Conversion of analog to spiking "
    "neural networks using sparse temporal coding, ISCAS 2018",
    neuron=neuron,
    codes="counts",
)
