"""TCL, trainable clipping layers (Ho and Chang, DAC 2021).

    a = clip(z, 0, theta) in training, theta trained with the weights;
    v(0) = 0;   v(t) = v(t-1) + I(t);   s(t) = H(v(t) - theta);   v(t) -= theta s(t)

Thresholds need no percentile of activations then: they are the trained clips. The
source is that of OPI, whose neurons start half charged; these start empty, and so round
down. The paper trains thetas with a penalty on their squares; here they are trained as
OPI's source is.
"""

from bitsnn_jax.comparators.method import Method
from bitsnn_jax.comparators.qcfs import empty, neuron

METHOD = Method(
    name="tcl",
    title="TCL",
    source="Ho and Chang, TCL: an ANN-to-SNN conversion with trainable clipping "
    "layers, DAC 2021",
    neuron=lambda steps: neuron(empty),
    trained_with="clipped_relu",
)
