"""Spike-driven transformer V2: spikes in front of every layer, real residual sums.

Yao et al., Spike-driven transformer V2: meta spiking neural network architecture, ICLR
2024, and their public code; its networks are `models.sdt_v2`, its neurons those of
`spikformer`. Differs from the paper, which trains with T = 1 first and then for a few
epochs with T = 4, from a teacher: `start_from` and `loss.teacher` can do both.
"""

from bitsnn_jax.direct.method import Method
from bitsnn_jax.direct.spikformer import NEURON

METHOD = Method(
    name="sdt_v2",
    title="Spike-driven transformer V2",
    source="Yao et al., Spike-driven transformer V2, ICLR 2024",
    neuron=lambda progress: NEURON,
    models=("sdt_v2_small",),
)
