"""A bias that is shifted by half a step (Deng and Gu, ICLR 2021).

    v(0) = 0;   v(t) = v(t-1) + I(t) + theta / (2T);   s(t) = H(v(t) - theta);
    v(t) -= theta s(t)

Under constant input the neurons count floor(T z / theta), half a spike too few on the
average. The shift gives that half back, spread over T steps, so that the count is
rounded to the nearest. OPI gives it at once, before the first step, and so makes each
spike earlier by up to T/2 steps.

The paper trains its source with a ReLU that is clipped at a threshold, which it takes
from the largest activation; here the clip is trained, as for OPI. The neurons are those
of SNNC, which are given the same half step, without what SNNC calibrates. Other
shifts, which the paper derives for activations of a known distribution, are left out.
"""

from bitsnn_jax.comparators.method import Method
from bitsnn_jax.comparators.snnc import neuron

METHOD = Method(
    name="shifted_bias",
    title="shifted bias",
    source="Deng and Gu, Optimal conversion of conventional artificial neural networks "
    "to spiking neural networks, ICLR 2021",
    neuron=neuron,
    trained_with="clipped_relu",
    for_one=True,
)
