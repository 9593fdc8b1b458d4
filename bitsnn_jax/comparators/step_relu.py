"""StepReLU, a source that rounds down as its neurons do (Wang et al., IJCAI 2023).

    v(0) = 0;   v(t) = v(t-1) + I(t);   s(t) = H(v(t) - theta);   v(t) -= theta s(t)

Under constant input the neurons count floor(T z / theta), and the source was trained
with just that, see `numerics.rival_activations.StepReLU`: at T = levels of the source
each layer on its own is exact.

The source is after the authors' public code, which has no conversion. The neurons are
reconstructed from the abstract, which names IF neurons, a membrane potential encoding
and a leak that is added afterwards. Of the encoding it does not say what it is, and of
the leak not how large; both are left out.
"""

from bitsnn_jax.comparators.method import Method
from bitsnn_jax.comparators.qcfs import empty, neuron

METHOD = Method(
    name="step_relu",
    title="StepReLU",
    source="Reconstructed after Wang et al., A new ANN-SNN conversion method with high "
    "accuracy, low latency and good robustness, IJCAI 2023",
    neuron=lambda steps: neuron(empty),
    trained_with="step_relu",
)
