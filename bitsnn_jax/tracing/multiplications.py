"""Multiply-accumulates of a network, and which of them spikes drive."""

import math
from typing import Any, NamedTuple

import jax
from jax.extend.core import JaxprEqn

from bitsnn_jax.tracing.linearity import PRODUCTS
from bitsnn_jax.tracing.program import ApplyFn, read, trace
from bitsnn_jax.tracing.real_valued import Passed, Trail
from bitsnn_jax.tracing.values import Analog, Constant


class Multiplications(NamedTuple):
    """How many multiply-accumulates a network does for one example.

    Attributes:
      driven: those that are additions of a weight or a held value for each spike.
      total: all in convolutions and products, the first layers and decoded ones too.
    """

    driven: int
    total: int

    @property
    def share(self) -> float:
        """Return driven / total; 0 if there are none."""
        return self.driven / self.total if self.total else 0.0


def multiplications(apply_fn: ApplyFn, variables: Any, example: Any) -> Multiplications:
    """Count multiply-accumulates, and those that spikes drive.

    Args:
      apply_fn: pure, (variables, x) -> output, with QCFS.
      variables: pytree of arrays.
      example: an input of batch 1, or `jax.ShapeDtypeStruct`s of one.

    >>> import jax.numpy as jnp
    >>> from bitsnn_jax import qcfs
    >>> net = lambda w, x: jnp.tanh(qcfs(x @ w, 1.0) @ w) @ w
    >>> multiplications(net, jnp.eye(2), jnp.ones((1, 2)))
    Multiplications(driven=4, total=12)
    """
    program, _ = trace(apply_fn, variables, example)
    reading = _Counted(nonspiking="decode")
    nothing = [Analog(Trail()) for _ in jax.tree.leaves(example)]
    read(reading, program, [Constant(()) for _ in jax.tree.leaves(variables)], nothing)
    return Multiplications(reading.driven, reading.total)


class _Counted(Passed):
    def __init__(self, **options):
        super().__init__(**options)
        self.driven = self.total = 0

    def timeless(self, eqn, values, scope):
        if any(isinstance(v, Analog) for v in values):
            self.total += _multiplications(eqn)
        return super().timeless(eqn, values, scope)

    def linear(self, eqn, values, operands, path):
        count = _multiplications(eqn)
        self.total += count
        if not values[operands[0]].value.passed:
            self.driven += count
        return super().linear(eqn, values, operands, path)

    def product(self, eqn, values, streamed, path):
        count = _multiplications(eqn)
        self.total += count
        self.driven += count
        return super().product(eqn, values, streamed, path)


def _multiplications(eqn: JaxprEqn) -> int:
    if eqn.primitive.name not in PRODUCTS:
        return 0
    left, right = map(_shape, eqn.invars[:2])
    outputs = math.prod(_shape(eqn.outvars[0]))
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return outputs * math.prod(left[axis] for axis in contracted)
    channels = right[eqn.params["dimension_numbers"].rhs_spec[0]]
    return outputs * math.prod(right) // channels


def _shape(atom: Any) -> tuple[int, ...]:
    return atom.aval.shape
