"""Where the error of a spiking layer comes from: clipping, quantisation, unevenness.

Of a layer of neurons with threshold theta and levels L, let

    Z = mean over time of the current that its membranes take, biases whole
    relu = max(Z, 0);   clip = min(relu, theta)
    quantised = (theta / L) min(floor(Z L / theta + 1/2), L), and 0 below 0
    snn = mean over time of what it sends

All are of the spiking network itself: what the layers before have done wrong is in Z
already, and the errors are those that this layer adds. They telescope,

    snn - relu = (clip - relu) + (quantised - clip) + (snn - quantised)
     total     =  clipping     +  quantisation      +  unevenness

for each neuron, with signs. Clipping is never positive; quantisation is at most half a
step, theta / (2 L); unevenness is a whole number of steps, and 0 if a neuron's count
depends on its charge alone.

The names are those of Bu et al. (ICLR 2022) and of Datta et al. (When SNN meets ANN,
TMLR 2025, Section 4), who take the errors against the ANN. Here they are against what
an ideal neuron makes of the same input: no layer answers for those before it.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from bitsnn_jax.comparators.ablation import Cell, neuron, taken
from bitsnn_jax.comparators.layer import Neuron, Sent, StepNeuron, TrainNeuron
from bitsnn_jax.comparators.simulation import Found, simulate
from bitsnn_jax.tracing.program import ApplyFn


class Errors(NamedTuple):
    """The errors of each neuron of a layer, with sign, in units of its theta.

    `total` is snn - relu, computed by itself: up to rounding it is the sum of the rest.
    """

    clipping: Array
    quantisation: Array
    unevenness: Array
    total: Array


def decomposed(
    apply_fn: ApplyFn, cell: Cell, *, steps: int, found: Found | None = None
) -> Callable[[Any, Any], tuple[Array, OrderedDict[str, Errors]]]:
    """Split the errors of a network of `ablation.CELLS` into their three causes.

    Layers run one after the other, which is the same for neurons that only look back.

    Args:
      apply_fn: pure, (variables, x) -> one array; its activations are `qcfs`.
      cell: `Cell()` is the rate network of QCFS, "all" the one of this paper.
      steps: T.
      found: of `ablation.first_and_biases`; not needed without left shift.

    Returns:
      (variables, x) -> (output, path -> Errors), to be wrapped in `jax.jit`.

    >>> from bitsnn_jax import qcfs
    >>> net = lambda v, x: qcfs(x, v["theta"])
    >>> of_rate = decomposed(net, Cell(), steps=4)
    >>> _, errors = of_rate({"theta": jnp.array(1.0)}, jnp.array([[0.625, 1.5]]))
    >>> [e.tolist() for e in errors["neuron"]]
    [[[0.0, -0.5]], [[0.125, 0.0]], [[0.0, 0.0]], [[0.125, -0.5]]]
    """

    def run(variables, x):
        errors: OrderedDict[str, Errors] = OrderedDict()
        inner = whole_train(neuron(cell, steps))

        def fire(layer, currents):
            sent = inner.fire(layer, currents)
            errors[layer.site.path] = _errors(cell, layer, currents, sent)
            return sent

        neurons = TrainNeuron(fire, maximum=inner.maximum)
        simulated = simulate(apply_fn, neurons, steps=steps, found=found)
        return simulated(variables, x).outputs[-1], errors

    return run


def _errors(cell, layer, currents, sent) -> Errors:
    """Measure in steps of the code, where what neurons send is whole and so exact."""
    steps = len(currents)
    levels = cell.levels(layer.site, steps)
    worth = jnp.array(cell.weights(steps), currents.dtype)
    snn = jnp.tensordot(worth, sent.spikes.astype(currents.dtype), 1)
    each = jax.vmap(lambda c, t: taken(cell, layer, c, t, steps=steps))
    z = each(currents, jnp.arange(steps)).mean(0) * (levels / layer.theta)
    relu = jnp.maximum(z, 0)
    clip = jnp.minimum(relu, levels)
    quantised = jnp.clip(jnp.floor(z + 0.5), 0, levels)
    parts = (clip - relu, quantised - clip, snn - quantised, snn - relu)
    return Errors(*(part / levels for part in parts))


def whole_train(neuron: Neuron) -> TrainNeuron:
    """Give neurons that look back all of their input beforehand."""
    if isinstance(neuron, TrainNeuron):
        return neuron
    return TrainNeuron(lambda layer, currents: _scanned(neuron, layer, currents))


def _scanned(neuron: StepNeuron, layer, currents) -> Sent:
    def step(state, now):
        t, current = now
        return neuron.step(layer, state, current, t)

    times = jnp.arange(len(currents))
    return lax.scan(step, neuron.start(layer), (times, currents))[1]


__all__ = ["Errors", "decomposed", "whole_train"]
