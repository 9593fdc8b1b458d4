"""The activation that runs neurons through time, and layers that must know T."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from bitsnn_jax.direct.neurons import Fired, Neuron

SPIKES = "spikes"  # what a layer hands on, for policies of rematerialisation


class Spiking(nn.Module):
    """A layer of neurons in the place of an activation: [T n, ...] in and out.

    Rows are of the first step, then of the second, and so on: nothing else in a network
    needs to know of time. Spikes [T, n, ...] are sown as ("activations", "spikes").
    Computes in float32 at least and returns the type of the input.

    Attributes:
      neuron: what it does in T steps; owns `neuron.trained`, as parameters.
      steps: T.
      unroll, remat: see `Neuron`.
      record: called with its path and what the neurons did, while it is traced.

    >>> from bitsnn_jax.direct.neurons import IntegrateAndFire
    >>> act = Spiking(IntegrateAndFire(), steps=2)
    >>> act.apply({}, jnp.array([[0.6], [2.0], [0.6], [0.3]])).ravel()
    Array([0., 1., 1., 0.], dtype=float32)
    """

    neuron: Neuron
    steps: int
    unroll: bool = False
    remat: bool = False
    record: Callable[[str, Fired], None] | None = None

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        scalars = {
            name: self.param(name, nn.initializers.constant(start), ())
            for name, start in self.neuron.trained.items()
        }
        wide = jnp.promote_types(z.dtype, jnp.float32)
        currents = by_step(z.astype(wide), self.steps)
        scalars = {name: value.astype(wide) for name, value in scalars.items()}
        fired = self.neuron(currents, scalars, unroll=self.unroll, remat=self.remat)
        if not self.is_initializing():
            self.sow("activations", "spikes", fired.spikes)
        if self.record is not None:
            self.record("/".join(self.path), fired)
        values = checkpoint_name(fired.values.astype(z.dtype), SPIKES)
        return values.reshape(z.shape)


class SharedDropout(nn.Module):
    """Dropout with one mask for all T steps of an example: rows are [T n, ...].

    Attributes:
      rate: share that is dropped.
      steps: T.
    """

    rate: float
    steps: int

    @nn.compact
    def __call__(self, x: jax.Array, *, deterministic: bool) -> jax.Array:
        dropout = nn.Dropout(self.rate, broadcast_dims=(0,))
        kept = dropout(by_step(x, self.steps), deterministic=deterministic)
        return kept.reshape(x.shape)


def by_step(x: Any, steps: int) -> Any:
    """Unfold rows [T n, ...] into [T, n, ...]."""
    return jax.tree.map(lambda y: y.reshape(steps, -1, *y.shape[1:]), x)
