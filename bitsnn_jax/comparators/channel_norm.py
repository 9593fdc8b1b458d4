"""Channel-wise normalisation, for ReLU networks (Kim et al., AAAI 2020).

    theta_c = the largest activation of channel c over the training images
    v(0) = 0;   v(t) = v(t-1) + I(t);   s(t) = H(v(t) - theta_c);   v(t) -= theta_c s(t)

With one threshold a layer, the neurons of channels with small activations hardly fire.
Spiking-YOLO, whose name the method goes by, scales the weights of each channel instead,
which is the same. Its second part, a neuron for leaky ReLUs whose negative spikes have
a threshold of their own, has no place here: no activation is negative.

Reconstructed from the abstract. The largest activations are those of the calibration
images; a channel that was silent for all of them sends nothing.
"""

from collections.abc import Iterable
from typing import Any

from bitsnn_jax.comparators.layer import StepNeuron
from bitsnn_jax.comparators.method import Method, Network
from bitsnn_jax.comparators.observe import largest_activations
from bitsnn_jax.comparators.qcfs import integrate_and_fire, send
from bitsnn_jax.comparators.simulation import Found


def neuron() -> StepNeuron:
    """Build the IF neuron that starts empty, with thresholds that were found."""

    def step(layer, v, current, t):
        v, spikes = integrate_and_fire(layer, v, current)
        return v, send(layer, spikes & (layer.theta > 0))

    return StepNeuron(lambda layer: layer.full(0), step)


def prepare(network: Network, batches: Iterable[Any], steps: int) -> Found:
    """Find {path: {"theta": [1, ..., 1, C]}}, whatever T is.

    Raises:
      ValueError: there are no batches.
    """
    peaks = largest_activations(network, batches, by="channel")
    return {path: {"theta": theta} for path, theta in peaks.items()}


METHOD = Method(
    name="channel_norm",
    title="channel-wise normalisation",
    source="Reconstructed after Kim et al., Spiking-YOLO: spiking neural network for "
    "energy-efficient object detection, AAAI 2020",
    neuron=lambda steps: neuron(),
    trained_with="relu",
    prepare=prepare,
    seeds=True,
)
