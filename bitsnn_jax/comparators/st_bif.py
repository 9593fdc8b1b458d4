"""The ST-BIF neuron of SpikeZIP-TF (You et al., ICML 2024): exact in the end.

A bipolar integrate-and-fire neuron with a spike tracer n, the sum of its spikes. With
delta = theta / L the step of the quantised network,

    v(0) = delta / 2,   n(0) = 0
    v(t) = v(t-1) + I(t)
    s(t) = 1 if v(t) >= delta and n < L,   -1 if v(t) < 0 and n > 0,   else 0
    v(t) -= delta s(t);   n += s(t)

Whatever stands between two layers is done on sums, and what flows is the change. With
X(t) all that was sent up to step t, and X(0) such that nothing flows before,

    weights, bias once   I(t) = W (X(t) - X(t-1)) + b [t = 1]
    product of trains    I(t) = Q(t) K(t)^T - Q(t-1) K(t-1)^T
    softmax, layer norm  I(t) = f(X(t)) - f(X(t-1))

The input enters whole at the first step. All layers run at each step. So at step t the
current has brought Z(t), what the quantised network computes from X(t). Then

    v(t) >= delta   if and only if   k > n,   v(t) < 0   if and only if   k < n,

for the code k of QCFS of Z(t): the tracer moves by one towards it. Hence the law: a
network that is silent for one step has the codes of the quantised network, all of them,
and stays silent. A layer is right at most L steps after those before it, so a network
of depth D is after D L steps. That is the computation here, which has no rounding of
accumulated differences.

What it costs beside the bit-serial network: T is tens of steps; spikes have a sign and
are taken back; softmax, layer norm and the functions in front of codes are computed at
each step, on real numbers, and their changes are sent on as real numbers; each spike of
either train of a product adds what the other has sent so far.

Reconstructed from the abstract and the authors' public code. There one neuron has codes
of both signs. Here the pair of `SignedQCFS` has them, ON and OFF, each with a tracer
from 0 to L. It sends the same number of spikes, and changes sign sooner, because both
tracers move at once. Their code has 16 or 32 levels, runs T = 32 to 64, and starts from
L of its own choice; here L is that of the trained network, whatever T is.
"""

import jax.numpy as jnp

from bitsnn_jax.comparators.layer import Sent, SumNeuron
from bitsnn_jax.comparators.method import Method
from bitsnn_jax.numerics.qcfs import codes, step_size


def neuron() -> SumNeuron:
    """Build neurons that move their tracer by one towards the code."""

    def start(layer):
        return jnp.zeros(layer.site.shape, jnp.int32)

    def step(layer, tracer, total, t):
        levels = layer.site.levels
        code = codes(total, layer.theta.astype(total.dtype), levels=levels)
        sign = jnp.sign(code - tracer)
        tracer = tracer + sign
        delta = step_size(layer.theta, levels)
        return tracer, Sent(delta * tracer, sign != 0)

    return SumNeuron(start, step)


METHOD = Method(
    name="st_bif",
    title="SpikeZIP-TF (ST-BIF)",
    source="You et al., SpikeZIP-TF: conversion is all you need for transformer-based "
    "SNN, ICML 2024",
    neuron=lambda steps: neuron(),
)
