"""Neurons of a method without a network, and rules for one neuron in loops."""

import jax.numpy as jnp
import numpy as np

from bitsnn_jax.comparators.layer import Layer
from bitsnn_jax.tracing.sites import Site

NEURONS, THETA = 2000, 2.0


def uneven(steps, seed=0):
    """Currents of either sign in 64ths: their sums are exact, and so are ties."""
    rng = np.random.default_rng(seed)
    level = rng.normal(0.5, 1, NEURONS)
    return np.round(64 * (level + rng.normal(0, 2, (steps, NEURONS)))) / 64


def layer(theta=THETA, **found):
    site = Site("neuron", 15, (NEURONS,), (1,))
    return Layer(site, jnp.full((1,), theta), found)


def stepped(neuron, currents, layer):
    """(value, spikes, last state) of neurons at all steps, the warm-up included."""
    state, values, spikes = neuron.start(layer), [], []
    for t, current in enumerate(currents):
        state, sent = neuron.step(layer, state, jnp.asarray(current), jnp.asarray(t))
        values.append(sent.value)
        spikes.append(sent.spikes)
    return np.stack(values), np.stack(spikes).astype(int), state


def each(rule, *inputs):
    """A rule for one neuron, for all of them: train [T], ... -> what it sends [T]."""
    by_neuron = zip(*(np.transpose(a) for a in inputs), strict=True)
    return np.stack([rule(*args) for args in by_neuron], 1)


def fired(train, v, theta):
    """Spikes of an IF neuron, and the potential after each step."""
    spikes, left = [], []
    for x in train:
        v += x
        spikes.append(int(v >= theta))
        v -= theta * spikes[-1]
        left.append(v)
    return spikes, left
