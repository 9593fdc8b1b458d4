"""The parts of a method: layers, what neurons send, and two kinds of neurons.

The convention of all methods: the value of a spike train is its mean over time. A
synapse multiplies what is *sent*, biases are added at each step, whole, and so is the
image. A code that weighs its steps (bits, phases, times) sends each spike at the weight
that makes the mean right: with T steps a spike worth `a` is sent as T a.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from bitsnn_jax.numerics.qcfs import aligned
from bitsnn_jax.tracing.sites import Site


class Layer(NamedTuple):
    """One layer of neurons.

    Attributes:
      site: its path, its levels, and the shape of its neurons, batch included.
      theta: threshold, [] or with as many axes as the neurons: the trained one, or the
        one that the method has found, as "theta".
      found: what `prepare` returned for this layer, by name, such as thresholds from
        calibration images; empty for most methods.
    """

    site: Site
    theta: Array
    found: Mapping[str, Any]

    @classmethod
    def of(cls, site: Site, theta: Array, found: Mapping[str, Any]) -> "Layer":
        """Describe a layer by a trained theta and what was found of each path."""
        here = found.get(site.path, {})
        threshold = jnp.asarray(here.get("theta", theta), theta.dtype)
        return cls(site, aligned(threshold, site.shape), here)

    def full(self, value: Any) -> Array:
        """Fill an array of the neurons' shape."""
        return jnp.broadcast_to(jnp.asarray(value, self.theta.dtype), self.site.shape)


class Sent(NamedTuple):
    """What neurons send.

    Attributes:
      value: what synapses multiply, in the units of theta; the mean over time is the
        activation.
      spikes: how many spikes: 0 or 1, or 2 where a neuron may send twice in one step;
        negative spikes count.
    """

    value: Array
    spikes: Array


class StepNeuron(NamedTuple):
    """Neurons that all layers run at each step: what comes in goes out at once.

    Attributes:
      start: layer -> state, a pytree of arrays.
      step: (layer, state, current, t) -> (state, Sent); t is 0, 1, ... and traced.
      warm_up: steps before the output is read; charged to the latency.
    """

    start: Callable[[Layer], Any]
    step: Callable[[Layer, Any, Array, Any], tuple[Any, Sent]]
    warm_up: int = 0

    @property
    def on_the_way(self) -> bool:
        """The output can be read at every step on the way to T."""
        return True

    def length(self, steps: int) -> int:
        """Return how many steps' spikes are those of a run of T."""
        return steps

    def window(self, steps: int) -> int:
        """Return how many steps a layer takes."""
        return self.warm_up + steps

    def until_output(self, steps: int, depth: int) -> int:
        """Return the steps until the output of a network of any depth is there."""
        return self.window(steps)


class SumNeuron(StepNeuron):
    """Neurons that all layers run at each step, and that are told sums over time.

    Synapses, and whatever else stands between two layers, see the sum of all that was
    sent before and add their bias once. So `step` is given the sum so far of its
    currents, the value of `Sent` is the sum of what was sent, and the output of the
    network is read as it is, not as a mean.
    """

    __slots__ = ()


class TrainNeuron(NamedTuple):
    """Neurons that see their whole input train first: layer by layer.

    Attributes:
      fire: (layer, currents [T, ...]) -> Sent with [T, ...] in both.
      window: T -> steps that a layer takes.
      maximum: (largest, train) -> train: a maximum over places of spikes of one
        threshold, given that of one step; by default at each step, as rate coded
        networks do it, which is no maximum of rates.
      length: T -> steps of the trains between layers, where that is more than T; the
        output is the mean of the first T.
      wait: T -> steps after which the next layer can begin; all of them if not given.
      by_sum: fire looks at the sum of the currents only, so that synapses may be
        applied once to the mean of a train, and not at each step. It is given the sum
        alone then, as currents of one step [1, ...], and still sends [T, ...].
      on_the_way: a longer train begins with a shorter one, whose steps are at least
        `length`: the output can be read at every step on the way to T.
    """

    fire: Callable[[Layer, Array], Sent]
    window: Callable[[int], int] = lambda steps: steps
    maximum: Callable[[Callable[[Array], Array], Array], Array] = lax.map
    length: Callable[[int], int] = lambda steps: steps
    by_sum: bool = False
    wait: Callable[[int], int] | None = None
    on_the_way: bool = False

    def until_output(self, steps: int, depth: int) -> int:
        """Return the steps until the output of `depth` layers is there."""
        window = self.window(steps)
        return (depth - 1) * (self.wait or self.window)(steps) + window


Neuron = StepNeuron | TrainNeuron
