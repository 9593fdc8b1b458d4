"""Few-spike neurons: tables of thresholds, resets and weights.

Stoeckl and Maass, Optimized spiking neurons can classify images with high accuracy
through temporal coding with two spikes, Nature Machine Intelligence 2021. A neuron that
has collected x sends K = T steps of

    s(t) = H(v(t) - theta(t)),   v(t+1) = v(t) - h(t) s(t),   v(1) = x,   H(0) = 1
    y    = sum_t d(t) s(t)

Any function can be fitted by the three tables. The one of ReLU needs no fit:

    theta(t) = h(t) = d(t) = alpha 2**-t

which is Eq. (10) of the bit-serial network with delta = alpha 2**-T, but for the half
step: y is x rounded down to the grid and clipped to alpha (1 - 2**-T). Ours is that
alpha is the trained threshold of each layer (the paper has one for the whole network),
and that a neuron at its threshold fires, where the authors' code has it silent.

A spike sends T d(t), since the mean over T steps is y. A layer fires while the next one
integrates, so each takes T steps.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from bitsnn_jax.comparators.bit_serial import (
    can,
    largest_code,
    over_time,
    send_weighted,
)
from bitsnn_jax.comparators.layer import Layer, Sent, TrainNeuron
from bitsnn_jax.comparators.method import Method
from bitsnn_jax.neurons import integrate


def few_spikes(charge: Array, thresholds: Array, resets: Array) -> Array:
    """Spikes [K, ...] of a charge [...] under tables [K, ...]."""

    def step(v, now):
        threshold, reset = now
        spikes = v >= threshold
        return jnp.where(spikes, v - reset, v), spikes

    return lax.scan(step, charge, (thresholds, resets))[1]


def _no_maximum(largest, train):
    raise ValueError(
        "a maximum over few-spike trains needs trains that can be compared, and those "
        "of a table cannot in general: give `maximum`, or use average pooling"
    )


def fs_neuron(
    theta: Sequence[float],
    h: Sequence[float],
    d: Sequence[float],
    *,
    unit: Callable[[Layer], Array] = lambda layer: jnp.ones((), layer.theta.dtype),
    maximum: Callable[[Callable[[Array], Array], Array], Array] = _no_maximum,
) -> TrainNeuron:
    """The few-spike neuron of three tables.

    Args:
      theta: thresholds, one for each of K steps.
      h: what a spike takes from the membrane.
      d: what a spike is worth.
      unit: layer -> what the tables are multiplied by; 1 if not given.
      maximum: as in `TrainNeuron`, if the tables allow one.

    Raises:
      ValueError: the tables differ in length, are empty, or, when called, have not as
        many entries as there are steps.

    >>> from bitsnn_jax.program import Site
    >>> neuron = fs_neuron([2, 1], [2, 1], [4, 1])  # 0, 1, 2, 3 to 0, 1, 4, 5
    >>> layer = Layer(Site("", 3, (4,), ()), jnp.array(3.0), {})
    >>> currents = jnp.broadcast_to(jnp.arange(4.0), (2, 4))
    >>> neuron.fire(layer, currents).value.mean(0)
    Array([0., 1., 4., 5.], dtype=float32)
    """
    steps = len(theta)
    if not steps or not steps == len(h) == len(d):
        raise ValueError(
            "theta, h and d must be of one length, at least 1, got "
            f"{steps}, {len(h)} and {len(d)}"
        )

    def fire(layer: Layer, currents: Array) -> Sent:
        if currents.shape[0] != steps:
            raise ValueError(
                f"tables of {steps} entries take {steps} steps, got {len(currents)}"
            )
        charge = integrate(currents, jnp.zeros(layer.site.shape, currents.dtype))
        scale = unit(layer) * steps
        tables = [scale * over_time(table, charge) for table in (theta, h, d)]
        return send_weighted(few_spikes(charge, *tables[:2]), tables[2])

    return TrainNeuron(fire, maximum=maximum, by_sum=maximum is not _no_maximum)


def neuron(steps: int) -> TrainNeuron:
    """That of ReLU, clipped below the layer's threshold."""
    table = [2.0**-t for t in range(1, steps + 1)]
    return fs_neuron(
        table, table, table, unit=lambda layer: layer.theta, maximum=largest_code
    )


METHOD = Method(
    name="few_spikes",
    title="Few-spike neurons",
    source="Stoeckl and Maass, Optimized spiking neurons can classify images with high "
    "accuracy through temporal coding with two spikes, Nature Machine Intelligence "
    "2021",
    neuron=neuron,
    can=can,
)
