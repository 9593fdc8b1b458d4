"""SlipReLU, between the clipped ReLU and its steps (Jiang et al., ICML 2023).

    v(0) = theta / 2
    v(t) = v(t-1) + I(t);   s(t) = H(v(t) - theta);   v(t) -= theta s(t),   H(0) = 1

The neurons are those of QCFS and OPI, as in the authors' public code; what differs is
the activation of the source, half of each, see `numerics.rival_activations.SlipReLU`.
As T grows the network tends to that with clipped ReLU, and not to its source, whose
steps stay as many as they are.

The paper also shifts both parts; the shifts here are the defaults of that code, none of
the clipped ReLU and half a step of the steps.
"""

import dataclasses

from bitsnn_jax.comparators import qcfs

METHOD = dataclasses.replace(
    qcfs.METHOD,
    name="slip_relu",
    title="SlipReLU",
    source="Jiang et al., A unified optimization framework of ANN-SNN conversion: "
    "towards optimal mapping from activation values to firing rates, ICML 2023",
    trained_with="slip_relu",
)
