"""What a network computes outside of its spikes, in rows of numbers."""

import math
from typing import Any, NamedTuple

import jax

from bitsnn_jax.tracing.program import ApplyFn, read, trace
from bitsnn_jax.tracing.real_valued import Passed, Trail
from bitsnn_jax.tracing.values import Analog, Constant


class Rows(NamedTuple):
    """An operation on real numbers, and how many of them it takes for one example.

    Attributes:
      operation: name of the primitive, such as softmax.
      path: of the module that it stands in.
      rows: of numbers that belong together, along the last axis.
      length: of each.
    """

    operation: str
    path: str
    rows: int
    length: int


def rows_outside(apply_fn: ApplyFn, variables: Any, example: Any) -> list[Rows]:
    """List the operations that are neither affine nor neurons, each time they are done.

    Those of `convert(..., nonspiking="decode").report.nonspiking`, which names each
    kind of operation of a module once.

    Args:
      apply_fn: pure, (variables, x) -> output, with QCFS.
      variables: pytree of arrays.
      example: an input of batch 1, or `jax.ShapeDtypeStruct`s of one.

    >>> import jax.numpy as jnp
    >>> from bitsnn_jax import qcfs
    >>> net = lambda w, x: jnp.cumprod(qcfs(x @ w, 1.0) @ w, axis=-1)
    >>> rows_outside(net, jnp.eye(2), jnp.ones((1, 3, 2)))
    [Rows(operation='cumprod', path='', rows=3, length=2)]
    """
    program, _ = trace(apply_fn, variables, example)
    reading = _Outside(nonspiking="decode")
    nothing = [Analog(Trail()) for _ in jax.tree.leaves(example)]
    read(reading, program, [Constant(()) for _ in jax.tree.leaves(variables)], nothing)
    return reading.rows


class _Outside(Passed):
    def __init__(self, **options):
        super().__init__(**options)
        self.rows: list[Rows] = []

    def outside(self, eqn, path):
        super().outside(eqn, path)
        *outer, length = eqn.invars[0].aval.shape or (1,)
        self.rows.append(Rows(eqn.primitive.name, path, math.prod(outer), length))
