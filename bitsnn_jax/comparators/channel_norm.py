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

from bitsnn_jax.comparators.method import Method
from bitsnn_jax.comparators.observe import by_largest
from bitsnn_jax.comparators.qcfs import empty, neuron

METHOD = Method(
    name="channel_norm",
    title="channel-wise normalisation",
    source="Reconstructed after Kim et al., Spiking-YOLO: spiking neural network for "
    "energy-efficient object detection, AAAI 2020",
    neuron=lambda steps: neuron(empty),
    trained_with="relu",
    prepare=by_largest("channel"),
    seeds=True,
)
