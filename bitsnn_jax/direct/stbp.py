"""STBP, the plain baseline: LIF neurons trained by backpropagation through time."""

from bitsnn_jax.direct.method import Method
from bitsnn_jax.direct.neurons import IntegrateAndFire, decay
from bitsnn_jax.direct.surrogates import SURROGATES

NEURON = IntegrateAndFire(decay(0.5), SURROGATES["rectangle"])

METHOD = Method(
    name="stbp",
    title="STBP",
    source="Wu et al., Spatio-temporal backpropagation, Front. Neurosci. 2018",
    neuron=lambda progress: NEURON,
)
