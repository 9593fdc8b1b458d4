"""DIET-SNN: from a network with ReLU, leak and threshold of each layer trained.

Equations of the paper and of the public code, nitin-rathi/DIET-SNN. Differs from that
code in what our networks are: they have norms and biases, which the authors leave out.
Differs too in that a neuron fires at its threshold, not only above it. In the version
of the code that was read (13fe14b), a layer also fires one step late, and the first
sends its ReLU in place of spikes; neither is in the paper, nor here.
"""

from itertools import islice
from types import MappingProxyType

import jax.numpy as jnp

from bitsnn_jax.direct.method import Method, of_sum
from bitsnn_jax.direct.neurons import (
    IntegrateAndFire,
    Membrane,
    Scalars,
    relative,
)
from bitsnn_jax.direct.starting import Start, in_order, mean_numbers, with_numbers
from bitsnn_jax.direct.surrogates import SURROGATES

PERCENTILE, STEPS, BATCHES = 99.7, 20, 2
SCALE = 0.2  # of the thresholds that are found, for few steps


def trained_leak(scalars: Scalars, u: Membrane, x: Membrane) -> Membrane:
    """Charge a LIF neuron whose leak is trained: leak u + x.

    The optimiser keeps it at 1 or below, as it keeps theta positive.
    """
    return scalars["leak"].astype(x.dtype) * u + x


NEURON = IntegrateAndFire(
    trained_leak,
    SURROGATES["linear"],
    reset="soft",
    detached=True,
    drive=relative,
    trained=MappingProxyType({"theta": 0.4, "leak": 1.0}),
)


def start(begin: Start) -> dict:
    """Find thresholds, layer by layer.

        theta = 0.2 max_t percentile(x_t, 99.7)

    where x_t is what a layer is fed at step t of 20, with leak 1 and the layers before
    it at their thresholds, not yet times 0.2. From the first 128 images of training;
    the authors take 100 steps of 512.
    """

    def choose(path, neuron, currents, numbers):
        by_step = currents.reshape(len(currents), -1)
        found = jnp.percentile(by_step, PERCENTILE, axis=1).max()
        return {"theta": jnp.maximum(found, 1e-2)}

    model = begin.network(STEPS)
    found = mean_numbers(
        in_order(model, begin.variables, inputs, choose, train=True)
        for inputs in islice(begin.batches(), BATCHES)
    )
    scaled = {path: {"theta": SCALE * n["theta"]} for path, n in found.items()}
    return with_numbers(begin.variables, scaled)


METHOD = Method(
    name="diet_snn",
    title="DIET-SNN",
    source="Rathi and Roy, DIET-SNN: direct input encoding with leakage and threshold "
    "optimization in deep spiking neural networks, 2020",
    neuron=lambda progress: NEURON,
    loss=of_sum,
    readout="sum",
    start=start,
    starts_from=("relu",),
    needs_start=True,
)
