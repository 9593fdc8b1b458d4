"""What the layers of a network are fed when its activations are replaced.

For methods that calibrate: they look at the activations of the source network, which
may be a ReLU network whose program has QCFS sites in the places of its ReLUs.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from bitsnn_jax.comparators.layer import Layer
from bitsnn_jax.comparators.method import Network
from bitsnn_jax.tracing.program import (
    Analog,
    ApplyFn,
    Reading,
    read,
    trace,
)

ActivationFn = Callable[[Layer, Array], Array]


def relu(layer: Layer, z: Array) -> Array:
    """Apply max(z, 0)."""
    return jnp.maximum(z, 0)


def clipped_relu(layer: Layer, z: Array) -> Array:
    """Apply min(max(z, 0), theta)."""
    return jnp.clip(z, 0, layer.theta)


def replaced(
    apply_fn: ApplyFn,
    activation: ActivationFn,
    *,
    found=None,
    precision: Any = lax.Precision.HIGHEST,
) -> Callable[[Any, Any], tuple[Any, OrderedDict[str, Array]]]:
    """Run a program with other activations, and return what each of them is fed.

    Args:
      apply_fn: pure, (variables, x) -> output; its activations are `qcfs`.
      activation: (layer, z) -> what the layer makes of its pre-activations z.
      found: as in `simulate`; for `layer.found`.
      precision: of convolutions and products that ask for none themselves.

    Returns:
      (variables, x) -> (output, path -> z).

    Gradient: that of the activation, with respect to variables, x, and `found`.
    """

    def run(variables, x):
        program, shapes = trace(apply_fn, variables, x)
        reading = _Replaced(activation, found or {}, precision)
        inputs = (jax.tree.leaves(variables), jax.tree.leaves(x))
        outputs = [each.value for each in read(reading, program, *inputs)]
        return jax.tree.unflatten(jax.tree.structure(shapes), outputs), reading.seen

    return run


_AXES = {
    "layer": lambda ndim: tuple(range(ndim)),
    "channel": lambda ndim: tuple(range(ndim - 1)),
    "neuron": lambda ndim: (0,),
}


def by_largest(
    what: str, *, share: float = 1.0
) -> Callable[[Network, Iterable[Any], int], Network]:
    """Make a `prepare` whose thresholds are the largest activations of a ReLU network.

    Args:
      what: has a threshold of its own: a "layer", "channel" or "neuron".
      share: of the largest activation, that a threshold is.

    Returns:
      (network, batches, T) -> network, with {path: {"theta": [], [1, ..., 1, C] or
      [1, ...]}}, whatever T is, and 0 where nothing was positive. ValueError without
      batches.
    """

    def prepare(network, batches, steps):
        run = replaced(network.apply_fn, relu)

        @jax.jit
        def largest(variables, x):
            return {
                path: jnp.maximum(z, 0).max(
                    _AXES[what](z.ndim), keepdims=what != "layer"
                )
                for path, z in run(variables, x)[1].items()
            }

        found = None
        for x in batches:
            now = largest(network.variables, x)
            found = now if found is None else jax.tree.map(jnp.maximum, found, now)
        if found is None:
            raise ValueError("expected batches of images to calibrate with, got none")
        found = jax.device_get(found)
        thetas = {path: {"theta": share * peak} for path, peak in found.items()}
        return network._replace(found=thetas)

    return prepare


class _Replaced(Reading):
    def __init__(self, activation, found, precision):
        super().__init__()
        self.activation = activation
        self.found = found
        self.precision = precision
        self.seen: OrderedDict[str, Array] = OrderedDict()

    def neuron(self, site, z, theta):
        layer = Layer.of(site, theta.value, self.found)
        self.seen[site.path] = z.value
        return Analog(self.activation(layer, z.value).astype(z.value.dtype))
