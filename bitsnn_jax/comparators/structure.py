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
from bitsnn_jax.tracing.values import Analog, Constant, Current


class Structure(NamedTuple):
    """The size of a network, for one example.

    Attributes:
      neurons: how many.
      depth: layers of neurons on the longest path from the input to the output.
      multiply_accumulates: in products of analog values with weights, padding left out.
      functions: of values that neurons have sent, which no neuron computes: softmax,
        layer norm.
      products: of two trains.
    """

    neurons: int
    depth: int
    multiply_accumulates: int
    functions: int = 0
    products: int = 0


def structure(
    apply_fn: ApplyFn, variables: Any, example: Any, *, nonspiking: str = "error"
) -> Structure:
    """Describe the structure of a program whose activations are `qcfs`.

    Args:
      apply_fn: pure, (variables, x) -> output.
      variables: pytree of arrays, or their shapes.
      example: an input of batch 1, or its shape.
      nonspiking: as in `simulate`.

    >>> from bitsnn_jax import qcfs
    >>> net = lambda v, x: qcfs(qcfs(x @ v, 1.0) @ v, 1.0) @ v
    >>> structure(net, jnp.eye(3), jnp.zeros((1, 3)))[:3]
    (6, 2, 9)
    """
    program, _ = trace(apply_fn, variables, example)
    reading = _Depths(nonspiking=nonspiking)
    depths: list[int] = []

    def walk(variables):
        inputs = [Analog(0) for _ in jax.tree.leaves(example)]
        results = read(reading, program, jax.tree.leaves(variables), inputs)
        depths[:] = [v.value for v in results if not isinstance(v, Constant)]

    jax.eval_shape(walk, variables)
    return Structure(
        neurons=sum(math.prod(site.shape) for site in reading.sites),
        depth=max(depths, default=0),
        multiply_accumulates=reading.multiplied,
        functions=len(reading.nonspiking),
        products=reading.products,
    )


class _Depths(Reading):
    """A value with or without time is the number of layers of neurons behind it."""

    def __init__(self, **options):
        super().__init__(**options)
        self.multiplied = self.products = 0

    def neuron(self, site, z, theta):
        return Current(z.value + 1)

    def plain(self, eqn, values):
        if all(isinstance(v, Constant) for v in values):
            return super().plain(eqn, values)
        if eqn.primitive.name in PRODUCTS:
            self.multiplied += _pairs(eqn)
        return [Analog(_deepest(values)) for _ in eqn.outvars]

    def linear(self, eqn, values, operands, path):
        return [Current(_deepest(values)) for _ in eqn.outvars]

    def product(self, eqn, values, streamed, path):
        self.products += 1
        return self.linear(eqn, values, [streamed], path)

    def maximum(self, eqn, spikes, sizes):
        return Current(spikes.value)

    def decode(self, current, path):
        return Analog(current.value)


def _deepest(values) -> int:
    return max(v.value for v in values if not isinstance(v, Constant))


def _pairs(eqn) -> int:
    """Count pairs of an input entry and an output entry with a weight between."""
    ones = [np.ones(v.aval.shape, np.float32) for v in eqn.invars]
    float32 = {"preferred_element_type": jnp.dtype("float32")}
    eqn = eqn.replace(params=eqn.params | float32)
    with jax.core.eval_context():
        [counted] = apply_equation(eqn, ones)
        return round(float(counted.sum(dtype=float)))
