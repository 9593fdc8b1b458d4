"""PLIF: LIF neurons whose leak is trained, one for each layer.

    u <- u + (x - u) sigma(w),   sigma(w) = 1 / tau,   tau = 2 at the start

with threshold 1, a hard reset that passes no gradient on, and a loss of rates:

    L = mean over classes of (mean_t o_t - one-hot label)^2

Fang et al., Incorporating learnable membrane time constant to enhance learning of
spiking neural networks, ICCV 2021, and their public code. Their networks end in neurons
that vote, so that outputs are rates: `models.plif_net`. Any other network of the zoo
can be trained as well, whose outputs then need not be within 0..1.
"""

from bitsnn_jax.direct.method import Method
from bitsnn_jax.direct.neurons import IntegrateAndFire, parametric_leak
from bitsnn_jax.direct.surrogates import SURROGATES

NEURON = IntegrateAndFire(
    parametric_leak, SURROGATES["arctan"], detached=True, trained={"w": 0.0}
)

METHOD = Method(
    name="plif",
    title="PLIF",
    source="Fang et al., Incorporating learnable membrane time constant, ICCV 2021",
    neuron=lambda progress: NEURON,
    squared_error=True,
)
