"""Dspike: a surrogate that one number shapes, b, fixed here.

The paper chooses b anew before each epoch: of b - d, b and b + d it takes the one whose
gradient of the first layer has the largest cosine with a finite difference, which costs
a pass for every weight of that layer. It published no code, and its authors' later code
keeps b = 3, as this file does. Theirs are also the neurons: u <- u / 4 + x, fired at
1/2, with a hard reset.

The paper, from memory: SGD 0.1, momentum 0.9, weight decay 5e-4, cosine, 300 epochs.
"""

from bitsnn_jax.direct.method import Method
from bitsnn_jax.direct.neurons import IntegrateAndFire, decay
from bitsnn_jax.direct.surrogates import SURROGATES

# Several methods of this group have these neurons.
NEURON = IntegrateAndFire(decay(0.25), SURROGATES["dspike"], theta=0.5)

METHOD = Method(
    name="dspike",
    title="Dspike",
    source="Li et al., Differentiable spike, NeurIPS 2021; b fixed",
    neuron=lambda progress: NEURON,
)
