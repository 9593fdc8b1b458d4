"""OPI, optimised potential initialisation (Bu et al., AAAI 2022).

    v(0) = theta / 2
    v(t) = v(t-1) + I(t);   s(t) = H(v(t) - theta);   v(t) -= theta s(t),   H(0) = 1

The neurons are those of the QCFS network; what differs is where they come from: a
network trained with a ReLU that is clipped at a trained theta. It knows no steps while
it is trained, so that theta / 2 is the best start only on average, for activations
that lie anywhere between two multiples of theta / T. On a QCFS network the two methods
are one.
"""

import dataclasses

from bitsnn_jax.comparators import qcfs

METHOD = dataclasses.replace(
    qcfs.METHOD,
    name="opi",
    title="OPI",
    source="Bu et al., Optimized potential initialization for low-latency spiking "
    "neural networks, AAAI 2022",
    trained_with="clipped_relu",
)
