"""TEBN: batch norm with one trained weight for each step.

The weights are those of `norms.temporal_effective`. A network without norms, or with a
single one as `small`, has little or nothing of it. The authors' code normalises
identity shortcuts too; here they stay as they are. Theirs is trained with SGD 0.02,
momentum 0.9, weight decay 5e-4, cosine, 200 epochs, batches of 64.
"""

from bitsnn_jax.direct.method import Method
from bitsnn_jax.direct.neurons import IntegrateAndFire, decay
from bitsnn_jax.direct.norms import temporal_effective
from bitsnn_jax.direct.surrogates import SURROGATES

NEURON = IntegrateAndFire(decay(0.25), SURROGATES["triangle"])

METHOD = Method(
    name="tebn",
    title="TEBN",
    source="Duan et al., Temporal effective batch normalization, NeurIPS 2022",
    neuron=lambda progress: NEURON,
    norm=temporal_effective,
)
