"""COS, calibration of offset spikes (Hao et al., ICLR 2023), also known as BOS.

Layer by layer, in the units of theta. A neuron goes through the first rho steps of its
input train from v(0) = 1/2 and sends nothing:

    v(t) = v(t-1) + I(t);   s(t) = H(v(t) - 1);   v(t) -= s(t),   H(0) = 1

It keeps the least potential p that it fired at, before the reset, the largest potential
r at the steps at which it did not fire, and its count n. What is left at the end tells
whether it has fired too much or too little, and where to start from instead:

    v(rho) < 0 and n > 0:   v(0) = 1/2 - max(1, p - 0.999)
    v(rho) >= 1:            v(0) = 1/2 + max(1, 1.001 - r)
    else:                   v(0) = 1/2

The shifts are the least, of one spike and more, that keep the spike at p from firing or
make the step at r fire. From there the neuron goes through its input train again, all
of it, and sends its spikes. It takes rho + T steps, and has to keep its input train.
rho is 4 on CIFAR and 8 on ImageNet in the paper, as L is in its sources: a source of
more levels asks for more steps than the 4 taken here. The paper can repeat the first
pass; its code does it once, as here.

The next layer can begin when rho steps have been sent, since output t needs the first
rho inputs and those up to t: T steps after the last layer has begun, all is there.

The trains between layers must have rho steps at least. With T below rho all layers send
rho steps, as in the public code, whose trains are long and read out early: the output
is the mean of the first T, the rest of the spikes are counted at the last, and a layer
takes 2 rho steps.

Where the paper is silent: a neuron that has fired at all rho steps and is still above
threshold has no r. The largest of nothing is minus infinity, and the neuron fires for
ever; in the public code it starts 1001 thresholds up, which is the same.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from bitsnn_jax.comparators.layer import Sent, TrainNeuron
from bitsnn_jax.comparators.method import Method


def step(v: Array, x: Array) -> tuple[Array, Array, Array]:
    """Step once: (v after reset, spikes, v before it), in units of theta."""
    before = v + x
    spikes = before >= 1
    return jnp.where(spikes, before - 1, before), spikes, before


def fire(x: Array, v: Array) -> tuple[Array, Array]:
    """Run x [T, ...], in units of theta: (spikes [T, ...], the last potential)."""

    def now(v, x):
        v, spikes, _ = step(v, x)
        return v, spikes

    v, spikes = lax.scan(now, v, x)
    return spikes, v


def calibrated_start(x: Array) -> Array:
    """Compute v(0) for the second pass from x [rho, ...], in units of theta.

    >>> early, even, late = [1.7, -1.5, -1.0], [0.4, 0.4, 0.4], [-1.1, 0.2, 2.8]
    >>> calibrated_start(jnp.array([early, even, late]).T)
    Array([-0.701,  0.5  ,  1.901], dtype=float32)
    """
    half = jnp.full(x.shape[1:], 0.5, x.dtype)
    v, fired = half, jnp.zeros(half.shape, bool)
    p, r = half + jnp.inf, half - jnp.inf
    # Unrolled: one pass over the neurons, with nothing of the steps in memory.
    for now in x:
        v, spikes, before = step(v, now)
        p = jnp.where(spikes, jnp.minimum(p, before), p)
        r = jnp.where(spikes, r, jnp.maximum(r, before))
        fired |= spikes
    lower = half - jnp.maximum(1, p - 0.999)
    higher = half + jnp.maximum(1, 1.001 - r)
    return jnp.where((v < 0) & fired, lower, jnp.where(v >= 1, higher, half))


def neuron(rho: int = 4) -> TrainNeuron:
    """Build IF neurons that start where their first `rho` steps say."""
    if rho < 1:
        raise ValueError(f"rho must be at least 1, got {rho}")

    def sent(layer, currents):
        x = currents / layer.theta
        spikes, _ = fire(x, calibrated_start(x[:rho]))
        return Sent(jnp.where(spikes, layer.theta, 0 * layer.theta), spikes)

    def length(steps):
        return max(steps, rho)

    return TrainNeuron(
        sent,
        window=lambda steps: rho + length(steps),
        length=length,
        wait=lambda steps: rho,
        on_the_way=True,
    )


METHOD = Method(
    name="bos",
    title="COS (offset spikes)",
    source="Hao et al., Bridging the gap between ANNs and SNNs by calibrating offset "
    "spikes, ICLR 2023",
    neuron=lambda steps: neuron(),
)
