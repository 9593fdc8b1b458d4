"""The rate coded network of QCFS (Bu et al., ICLR 2022).

    v(0) = theta / 2
    v(t) = v(t-1) + I(t);   s(t) = H(v(t) - theta);   v(t) -= theta s(t),   H(0) = 1

Every layer runs at each step and sends theta s(t). Under constant input, T spikes at
most and the half threshold make the count the QCFS code with T levels. Behind the first
layer input is not constant: what comes late in a window is lost, what comes early may
fire too much, which is the method's unevenness error.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array

from bitsnn_jax.comparators.layer import Layer, Sent, StepNeuron
from bitsnn_jax.comparators.method import Method


def integrate_and_fire(layer: Layer, v: Array, current: Array) -> tuple[Array, Array]:
    """Step once with reset by subtraction: (v, spikes as bool)."""
    v = v + current
    spikes = v >= layer.theta
    return jnp.where(spikes, v - layer.theta, v), spikes


def send(layer: Layer, spikes) -> Sent:
    """Send spikes that are worth theta each."""
    zero = jnp.zeros((), layer.theta.dtype)
    return Sent(jnp.where(spikes, layer.theta, zero), spikes)


def half_charged(layer: Layer) -> Array:
    """Start all neurons at v(0) = theta / 2."""
    return layer.full(layer.theta / 2)


def empty(layer: Layer) -> Array:
    """Start all neurons at v(0) = 0."""
    return layer.full(0)


def neuron(
    start: Callable[[Layer], Array] = half_charged, *, warm_up: int = 0
) -> StepNeuron:
    """Build the IF neuron; one with threshold 0 sends nothing.

    Args:
      start: layer -> v(0).
      warm_up: steps before the output is read.
    """

    def step(layer, v, current, t):
        v, spikes = integrate_and_fire(layer, v, current)
        return v, send(layer, spikes & (layer.theta > 0))

    return StepNeuron(start, step, warm_up=warm_up)


METHOD = Method(
    name="qcfs",
    title="QCFS rate SNN",
    source="Bu et al., Optimal ANN-SNN conversion for high-accuracy and "
    "ultra-low-latency spiking neural networks, ICLR 2022",
    neuron=lambda steps: neuron(),
)
