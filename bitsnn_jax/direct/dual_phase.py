"""Dual-Phase: a quantised network, put into spikes and tuned there.

An adaptation of the paper and of the public code, Windere/snn-cvt-dual-phase. Phase I
trains a network that is quantised to T levels, with noise. Here it is a run with QCFS
and model.levels=T, without the noise, or one with clipped ReLU. Phase II finds an
initial charge v_0 for each layer and then tunes weights and v_0, layer by layer on
1024 images, until each layer sends what it sent before. Here `start` finds v_0, and
training tunes all layers together, through time, on the loss of the run. With
loss.teacher set to the run of phase I, and loss.distillation=1, that loss is the
distance from its outputs: phase II at the last layer. Norms are frozen, for the authors
have folded them into the weights.
"""

from dataclasses import dataclass
from types import MappingProxyType

from bitsnn_jax.direct.method import Method
from bitsnn_jax.direct.neurons import (
    Fired,
    IntegrateAndFire,
    Scalars,
    Train,
    integrate,
    relative,
)
from bitsnn_jax.direct.starting import (
    Start,
    activations,
    in_order,
    mean_numbers,
    thresholds_kept,
    with_numbers,
)
from bitsnn_jax.direct.surrogates import SURROGATES


@dataclass(frozen=True)
class CalibratedIF(IntegrateAndFire):
    """IF neurons that begin with a charge, v_0, and hand on spikes of height theta."""

    def __call__(
        self,
        currents: Train,
        scalars: Scalars,
        *,
        unroll: bool = False,
        remat: bool = False,
    ) -> Fired:
        # Without a leak, what is there before the first step might as well come in it.
        charged = currents.at[0].add(scalars["v_init"].astype(currents.dtype))
        fired = super().__call__(charged, scalars, unroll=unroll, remat=remat)
        return fired._replace(values=fired.spikes * fired.theta)


NEURON = CalibratedIF(
    integrate,
    SURROGATES["rectangle"],
    reset="soft",
    drive=relative,
    trained=MappingProxyType({"theta": 8.0, "v_init": 4.0}),
)


def start(begin: Start) -> dict:
    """Take thresholds over, and find v_0, layer by layer.

        v_0 = theta / 2 + T (mean a - mean_t s theta)

    a is what the activation of the other network sends, s theta what the neurons do,
    fed by neurons that have their v_0 already; both means are over training images and
    neurons. One v_0 a layer, while the authors have one a neuron.
    """
    variables = thresholds_kept(begin)
    model = begin.network(begin.steps)

    def found(inputs):
        wanted = activations(begin, inputs)

        def choose(path, neuron, currents, numbers):
            half = numbers["theta"] / 2
            sent = neuron(currents, {**numbers, "v_init": half}).values
            return {"v_init": half + begin.steps * (wanted[path].mean() - sent.mean())}

        return in_order(model, variables, inputs, choose, train=False)

    return with_numbers(variables, mean_numbers(map(found, begin.batches())))


METHOD = Method(
    name="dual_phase",
    title="Dual-Phase",
    source="Wang et al., Towards lossless ANN-SNN conversion under ultra-low latency "
    "with dual-phase optimization, 2022",
    neuron=lambda progress: NEURON,
    frozen_norms=True,
    start=start,
    starts_from=("qcfs", "clipped_relu"),
    needs_start=True,
)
