"""A network of the zoo, run through time: its input repeated, its outputs averaged."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bitsnn_jax.direct.method import Method, Seen
from bitsnn_jax.direct.neurons import Fired
from bitsnn_jax.direct.spiking import SharedDropout, Spiking, by_step

_BY_ROWS = (nn.Conv, nn.Dense)  # layers that treat rows by themselves
# The layers that a network would be made of -> those that it is made of.
Replace = Callable[[dict[str, Any]], dict[str, Any]]


class ThroughTime(nn.Module):
    """A spiking network that is trained as one: T steps of a network of the zoo.

        o_t = f(x; s_1 .. s_t);   output = sum_t o_t / T, or their sum

    Every step is shown the same input, and a convolution or dense layer that takes it
    is computed once. Outputs have one row for each example, as those of any network. In
    training, what losses look at is sown as ("direct", "seen"), a `Seen`. Parameters
    have the names that they have in the network itself.

    Attributes:
      network: makes the network, see `models.build_model`.
      method: neurons, norm, heads, readout.
      steps: T.
      unroll, remat: see `Neuron`.
    """

    network: Callable[[Replace], nn.Module]
    method: Method
    steps: int
    unroll: bool = False
    remat: bool = False

    @nn.compact
    def __call__(self, x: Any, *, train: bool, progress: Any = 1.0) -> Any:
        """Compute the outputs of inputs [n, ...], one row for each.

        Args:
          x: array, or a pytree of them.
          train: batch statistics, dropout, and `Seen`.
          progress: share of the training that is done, 0 to 1; may be traced.
        """
        # JAX would sort a plain dict by its keys.
        layers: dict[str, Fired] = OrderedDict()
        norms: list[Any] = []  # the network's own
        network = self.network(partial(self._layers, progress, layers, norms))
        nn.share_scope(self, network)
        rows = jax.tree.map(self._repeated, x)

        def once(call, args, kwargs, context):
            # What takes the T copies first is computed for one of them.
            if isinstance(context.module, _BY_ROWS) and args and args[0] is rows:
                return self._repeated(call(x))
            return call(*args, **kwargs)

        with nn.intercept_methods(once):
            outputs = by_step(network(rows, train=train), self.steps)
        if train or self.is_initializing():
            heads = self._heads(norms, layers, outputs, train=train)
            if not self.is_initializing():
                self.sow("direct", "seen", Seen(outputs, layers, heads, progress))
        total = jnp.mean if self.method.readout == "mean" else jnp.sum
        return jax.tree.map(lambda o: total(o, axis=0), outputs)

    def _layers(
        self, progress: Any, layers: dict, norms: list, own: dict[str, Any]
    ) -> dict:
        neuron = self.method.neuron(progress)
        act = partial(
            Spiking,
            neuron,
            self.steps,
            unroll=self.unroll,
            remat=self.remat,
            record=layers.__setitem__,
        )
        norm = own["norm"]
        norms.append(norm)
        if norm is not None:
            norm = self.method.norm(norm, self.steps)
        if norm is not None and self.method.frozen_norms:
            norm = partial(_frozen, norm)
        dropout = partial(SharedDropout, steps=self.steps)
        replaced = {"act": act, "norm": norm, "dropout": dropout}
        if self.method.block is not None:
            replaced["block"] = self.method.block
        return own | replaced

    def _heads(
        self, norms: list, layers: dict, outputs: Any, *, train: bool
    ) -> Mapping[str, Any]:
        if self.method.heads is None:
            return {}
        (norm,) = norms
        heads = self.method.heads(norm=norm, name="heads")
        return heads(layers, outputs=outputs, train=train)

    def _repeated(self, x: jax.Array) -> jax.Array:
        return jnp.tile(x, (self.steps, *(1,) * (x.ndim - 1)))


def _frozen(norm, *, use_running_average, **options):
    """Make a norm that uses the statistics there are, also in training."""
    del use_running_average
    return norm(use_running_average=True, **options)
