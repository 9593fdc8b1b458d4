"""STBP-tdBN: batch norm over time, scaled to the threshold.

    y = gamma x' + beta,   x' of mean 0 and variance 1 over T, examples and pixels

where gamma starts at alpha V. alpha = 1, or 1 / sqrt 2 for each of the two norms whose
outputs a residual block adds, so that what neurons are fed with has the variance V^2
everywhere. (In the paper alpha V is a factor beside a gamma that starts at 1: the same
functions, in which a step of gamma is smaller.)

Zheng et al., Going deeper with directly-trained larger spiking neural networks, AAAI
2021. There is no code of the authors. Reconstructed: neurons that keep a quarter of
their membrane, V = 1/2, hard reset, and a rectangle of width 1 for the derivative.
"""

from functools import partial

import flax.linen as nn

from bitsnn_jax.direct.method import Method
from bitsnn_jax.direct.neurons import IntegrateAndFire, decay
from bitsnn_jax.direct.norms import Norm, threshold_dependent
from bitsnn_jax.direct.surrogates import SURROGATES
from bitsnn_jax.models.resnet import BasicBlock

THETA = 0.5
NEURON = IntegrateAndFire(decay(0.25), SURROGATES["rectangle"], theta=THETA)


def summand(norm: Norm) -> Norm:
    """Return the norm of two branches that are added: alpha = 1 / sqrt 2."""
    return partial(norm, scale_init=nn.initializers.constant(THETA / 2**0.5))


METHOD = Method(
    name="tdbn",
    title="STBP-tdBN",
    source="Reconstructed after Zheng et al., Going deeper with directly-trained "
    "larger spiking neural networks, AAAI 2021",
    neuron=lambda progress: NEURON,
    norm=partial(threshold_dependent, theta=THETA),
    block=partial(BasicBlock, summand=summand),
)
