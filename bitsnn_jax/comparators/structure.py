"""How deep a network is in neurons, and what it multiplies before the first."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax.tracing.equations import apply_equation
from bitsnn_jax.tracing.linearity import PRODUCTS
from bitsnn_jax.tracing.program import ApplyFn, read, trace
from bitsnn_jax.tracing.reading import Reading
from bitsnn_jax.tracing.values import Analog, Current


class Structure(NamedTuple):
    """The size of a network, for one example.

    Attributes:
      neurons: how many.
      depth: layers of neurons on the longest path from the input to the output.
      multiply_accumulates: in products of analog values with weights, padding left out.
    """

    neurons: int
    depth: int
    multiply_accumulates: int


def structure(apply_fn: ApplyFn, variables: Any, example: Any) -> Structure:
    """Describe the structure of a program whose activations are `qcfs`.

    Args:
      apply_fn: pure, (variables, x) -> output.
      variables: pytree of arrays, or their shapes.
      example: an input of batch 1, or its shape.

    >>> from bitsnn_jax import qcfs
    >>> net = lambda v, x: qcfs(qcfs(x @ v, 1.0) @ v, 1.0) @ v
    >>> structure(net, jnp.eye(3), jnp.zeros((1, 3)))
    Structure(neurons=6, depth=2, multiply_accumulates=9)
    """
    program, _ = trace(apply_fn, variables, example)
    reading = _Depths()
    depths: list[int] = []

    def walk(variables, example):
        leaves = (jax.tree.leaves(variables), jax.tree.leaves(example))
        results = read(reading, program, *leaves)
        depths[:] = [v.value for v in results if isinstance(v, Current)]

    jax.eval_shape(walk, variables, example)
    neurons = sum(math.prod(site.shape) for site in reading.sites)
    return Structure(neurons, max(depths, default=0), reading.products)


class _Depths(Reading):
    """A current is the number of layers of neurons that it has passed."""

    def __init__(self):
        super().__init__()
        self.products = 0

    def neuron(self, site, z, theta):
        before = z.value if isinstance(z, Current) else 0
        return Current(before + 1)

    def plain(self, eqn, values):
        is_product = eqn.primitive.name in PRODUCTS
        if is_product and any(isinstance(v, Analog) for v in values):
            self.products += _pairs(eqn)
        return super().plain(eqn, values)

    def linear(self, eqn, values, operands, path):
        depth = max(v.value for v in values if isinstance(v, Current))
        return [Current(depth) for _ in eqn.outvars]

    def maximum(self, eqn, spikes, sizes):
        return Current(spikes.value)


def _pairs(eqn) -> int:
    """Count pairs of an input entry and an output entry with a weight between."""
    ones = [np.ones(v.aval.shape, np.float32) for v in eqn.invars]
    float32 = {"preferred_element_type": jnp.dtype("float32")}
    eqn = eqn.replace(params=eqn.params | float32)
    with jax.core.eval_context():
        [counted] = apply_equation(eqn, ones)
        return round(float(counted.sum(dtype=float)))
