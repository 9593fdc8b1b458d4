"""Parallel inference: all steps of a layer from the mean of its input.

Hao et al., Faster and stronger: when ANN-SNN conversion meets parallel spiking
calculation, ICML 2025. With x the mean current of the T steps,

    s(t) = H(T x / t + theta / (2 t) - theta),   t = 1..T,   H(0) = 1

or, times t, a comparison of the same charge with a threshold for each step:

    s(t) = H(sum_t I(t) + theta / 2 - t theta)

A spike is worth theta. The count is the QCFS code with T levels, at any input, and the
spikes come first in the window. In the paper they come last, step t asking for a count
of T - t + 1, which a sum over the window does not see. A layer needs its whole input
before its first spike, so it takes T steps when the spikes come one after the other, as
charged here; the paper computes them at once, on hardware that can.

Its calibration, which shifts each channel where T is below the levels of the source, is
an option there and left out here.
"""

from jaxtyping import Array

from bitsnn_jax.comparators.bit_serial import over_time
from bitsnn_jax.comparators.layer import Layer, Sent, TrainNeuron
from bitsnn_jax.comparators.method import Method
from bitsnn_jax.comparators.qcfs import send
from bitsnn_jax.numerics.neurons import integrate


def neuron(steps: int) -> TrainNeuron:
    """Build neurons that compare one charge with T thresholds."""

    def fire(layer: Layer, currents: Array) -> Sent:
        charge = integrate(currents, layer.full(layer.theta / 2))
        thresholds = layer.theta * over_time(range(1, steps + 1), charge)
        return send(layer, charge >= thresholds)

    return TrainNeuron(fire, by_sum=True)


METHOD = Method(
    name="parallel",
    title="Parallel inference",
    source="Hao et al., Faster and stronger: when ANN-SNN conversion meets parallel "
    "spiking calculation, ICML 2025",
    neuron=neuron,
    codes="counts",
)
