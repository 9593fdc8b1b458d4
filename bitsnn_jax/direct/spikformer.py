"""Spikformer: attention between spikes, and residual sums of spikes.

Neurons are LIF with a time constant of 2, threshold 1 and a hard reset that passes no
gradient on:

    u <- u + (x - u) / 2

Zhou et al., Spikformer: when spiking neural network meets transformer, ICLR 2023, and
their public code; its networks are `models.spikformer`. The surrogate is the default of
the library that they use, the derivative of sigma(4 z).
"""

from bitsnn_jax.direct.method import Method
from bitsnn_jax.direct.neurons import IntegrateAndFire, leak
from bitsnn_jax.direct.surrogates import SURROGATES

NEURON = IntegrateAndFire(leak(2.0), SURROGATES["sigmoid"], detached=True)

METHOD = Method(
    name="spikformer",
    title="Spikformer",
    source="Zhou et al., Spikformer: when spiking neural network meets transformer, "
    "ICLR 2023",
    neuron=lambda progress: NEURON,
    models=("spikformer_small",),
)
