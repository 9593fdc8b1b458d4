"""PASCAL: a rate code made exact by spikes that are taken back.

Ramesh and Srinivasan, PASCAL: precise and efficient ANN-SNN conversion using spike
accumulation and adaptive layerwise activation, TMLR 2025. With L = T levels everywhere,
in the convention that a spike is worth theta and biases are whole (theirs: theta / L,
and biases divided by L), a layer goes through

    1. T steps      v += I(t); spike if v >= theta: v -= theta, c += 1   v(0) = theta/2
    2. T - 1 steps  spike if v >= theta: v -= theta, c += 1
                    anti-spike if v < 0: v += theta, c -= 1
    3. T steps      s(t) = H(c - t),   t = 1..T: c ones and then silence

T - 1 corrections are enough. A neuron that ends phase 1 with v < 0 was silent at the
last step, so c <= T - 1; one that ends with v >= theta fired at it, so c >= 1 and what
it may still send is T - 1. Hence c is the QCFS code with T levels (when clipped; below
0 it is silence). Phase 3 is phase 1 of the next layer, so a layer takes 2 T - 1 steps.
The spikes and anti-spikes of the first two phases stay inside the neuron, so those
counted here are the ones of the third. Ours is the number of levels: the paper searches
one for each layer, and trains with it.

The first layer, whose input is the image, has no corrections to make; it is charged as
the others are.

The authors' code fires at -8e-5 below the threshold, to hide round-off; this does not.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from bitsnn_jax.comparators.bit_serial import over_time
from bitsnn_jax.comparators.layer import Layer, Sent, TrainNeuron
from bitsnn_jax.comparators.method import Method
from bitsnn_jax.comparators.qcfs import integrate_and_fire, send


def accumulate(layer: Layer, currents: Array) -> tuple[Array, Array]:
    """Accumulate, phase 1: (v, c)."""

    def step(state, current):
        v, count = state
        v, spikes = integrate_and_fire(layer, v, current)
        return (v, count + spikes), None

    start = layer.full(layer.theta / 2), jnp.zeros(layer.site.shape, jnp.int32)
    return lax.scan(step, start, currents)[0]


def correct(layer: Layer, v: Array, count: Array, *, steps: int) -> Array:
    """Correct, phase 2: c after spikes and anti-spikes."""

    def step(state, _):
        v, count = state
        sign = (v >= layer.theta).astype(jnp.int32) - (v < 0)
        return (v - layer.theta * sign, count + sign), None

    return lax.scan(step, (v, count), length=steps - 1)[0][1]


def neuron(steps: int) -> TrainNeuron:
    """Build neurons that count, correct their count, and then send it."""

    def fire(layer: Layer, currents: Array) -> Sent:
        count = correct(layer, *accumulate(layer, currents), steps=steps)
        return send(layer, count >= over_time(range(1, steps + 1), count))

    return TrainNeuron(fire, window=lambda steps: 2 * steps - 1, by_sum=True)


METHOD = Method(
    name="pascal",
    title="PASCAL",
    source="Ramesh and Srinivasan, PASCAL: precise and efficient ANN-SNN conversion "
    "using spike accumulation and adaptive layerwise activation, TMLR 2025",
    neuron=neuron,
    codes="counts",
)
