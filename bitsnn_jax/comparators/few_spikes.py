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

`SWISH` and `SIGMOID` are the tables that its authors fitted (fs_weights.py of
https://github.com/christophstoeckl/FS-neurons), K = 16 and 12: root mean square errors
of 0.059 and 0.012, with 4.2 and 2.7 spikes on average, for x spread evenly.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

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
from bitsnn_jax.numerics.neurons import integrate


class Table(NamedTuple):
    """What `fs_neuron` takes, one entry for each of K steps."""

    theta: tuple[float, ...]
    h: tuple[float, ...]
    d: tuple[float, ...]


# x sigmoid(x), for -8 < x < 12: at most 0.30 off. Above, it is useless.
SWISH = Table(
    theta=(
        *(0.05946945, 1.6541206, 1.3066754, 1.3267198, 1.1000695, 1.2308974),
        *(1.1188028, 0.9472501, 0.5447531, 1.0236325, 0.11921431, -0.12855051),
        *(-0.44731247, -2.1383545, 1.0, -4.109145),
    ),
    h=(
        *(0.7844085, 1.7550646, 1.4212719, 1.9244663, 1.4400164, 1.9249276),
        *(1.6100428, 1.29061, 0.83985287, 3.0827985, 0.43503317, 0.5155389),
        *(0.3269445, 7.618048, -14.419675, 0.0),
    ),
    d=(
        *(0.40088242, 1.8856316, 1.4915457, 1.947229, 1.4717816, 1.9147849),
        *(1.6389303, 1.2934641, 0.8703124, 0.68460804, 0.44262582, 0.32832766),
        *(0.13907616, -0.26217145, 0.23736191, -0.14830568),
    ),
)
# 1 / (1 + exp(-x)), for -10 < x < 10: at most 0.06 off.
SIGMOID = Table(
    theta=(
        *(-0.00824843, -0.9319625, 1.0080122, -1.2074932, -1.7885877, -2.7065408),
        *(-3.2715735, 0.07132628, -3.719372, -0.543918, -3.7693157, -5.5447803),
    ),
    h=(
        *(1.6558512, 1.0989026, 10.7739, 1.3579437, 1.0146959, 0.8972655),
        *(2.1207616, 1.6949341, 3.6397197, -2.1483946, 5.1177883, 0.0),
    ),
    d=(
        *(0.37689912, 0.21977554, 0.40271342, 0.17005783, 0.09584032, 0.06293014),
        *(0.04360681, -0.0443096, 0.01999909, 0.07107325, 0.01502249, 0.01021793),
    ),
)


def few_spikes(charge: Array, thresholds: Array, resets: Array) -> Array:
    """Fire the spikes [K, ...] of a charge [...] under tables [K, ...]."""

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
    """Build the few-spike neuron of three tables, for instance `fs_neuron(*SWISH)`.

    Args:
      theta: thresholds, one for each of K steps.
      h: what a spike takes from the membrane.
      d: what a spike is worth.
      unit: layer -> what the tables are multiplied by; 1 if not given.
      maximum: as in `TrainNeuron`, if the tables allow one.

    Raises:
      ValueError: the tables differ in length, or are empty.

    >>> from bitsnn_jax.tracing.sites import Site
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
        charge = integrate(currents, jnp.zeros(layer.site.shape, currents.dtype))
        scale = unit(layer) * steps
        tables = [scale * over_time(table, charge) for table in (theta, h, d)]
        return send_weighted(few_spikes(charge, *tables[:2]), tables[2])

    return TrainNeuron(fire, maximum=maximum, by_sum=maximum is not _no_maximum)


def neuron(steps: int) -> TrainNeuron:
    """Build the neurons for ReLU, clipped below the layer's threshold."""
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
