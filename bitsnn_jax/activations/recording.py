"""A traced program as a list of operations, which are then done with changes.

A walk sees only what is behind it. Whether an operation is an activation also depends
on what comes after it, so the program is recorded first, with calls entered and loops
written out, and done afterwards.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn

from bitsnn_jax.numerics.qcfs import qcfs
from bitsnn_jax.tracing.channel_axis import channel_axis
from bitsnn_jax.tracing.equations import apply_equation, named
from bitsnn_jax.tracing.program import ApplyFn, read, trace
from bitsnn_jax.tracing.reading import Reading
from bitsnn_jax.tracing.sites import Site
from bitsnn_jax.tracing.values import Analog, Constant, Value


@dataclasses.dataclass(eq=False)
class Node:
    """A value that depends on the input; which of its axes has the channels."""

    shape: tuple[int, ...]
    dtype: Any
    channels: int | None = None

    @property
    def is_floating(self) -> bool:
        """Whether it has real numbers."""
        return jnp.issubdtype(self.dtype, jnp.floating)


@dataclasses.dataclass(eq=False)
class Operation:
    """An operation of the program on values that depend on the input.

    Attributes:
      eqn: it; None for a QCFS.
      values: its operands: arrays in a `Constant`, a `Node` in an `Analog`.
      scope: the modules that it stands in.
      results: what it makes.
      site: of a QCFS.
      code: the QCFS, of an array.
    """

    eqn: Any
    values: Sequence[Value]
    scope: tuple[str, ...]
    results: list[Node]
    site: Site | None = None
    code: Callable[[Any], Any] | None = None

    @property
    def name(self) -> str:
        """The name of its primitive."""
        return "qcfs" if self.site else self.eqn.primitive.name

    @property
    def operands(self) -> list[Node]:
        """Those of its operands that depend on the input, each once."""
        nodes = [v.value for v in self.values if isinstance(v, Analog)]
        return list(dict.fromkeys(nodes))

    def done(self, arrays: Callable[[Value], Any]) -> list[Any]:
        """Do it, on what `arrays` has for each operand."""
        given = [arrays(v) for v in self.values]
        if self.code is not None:
            return [self.code(*given)]
        with named(self.scope):
            return apply_equation(self.eqn, given)


@dataclasses.dataclass
class Recorded:
    """A program: its operations in order, its inputs and its results."""

    operations: list[Operation]
    inputs: list[Node]
    results: list[Value]
    shapes: Any

    def finished(self, results: Sequence[Any]) -> Any:
        """Give the results the structure that the program returns."""
        return jax.tree.unflatten(jax.tree.structure(self.shapes), results)


def record(
    apply_fn: ApplyFn,
    variables: Any,
    x: Any,
    holds: Callable[[JaxprEqn, Sequence[Value]], bool],
) -> Recorded:
    """Record `apply_fn(variables, x)`.

    What is made of variables alone is computed; of the input, only shapes matter.

    Args:
      apply_fn, variables, x: the program and its arguments.
      holds: whether an operation has something inside it that one wants to see.
    """
    program, shapes = trace(apply_fn, variables, x)
    inputs = [Node(v.aval.shape, v.aval.dtype) for v in _inputs(program, x)]
    reading = Recording(holds)
    values = map(Analog, inputs)
    results = read(reading, program, jax.tree.leaves(variables), values)
    return Recorded(reading.operations, inputs, list(results), shapes)


def _inputs(program, x):
    count = len(jax.tree.leaves(x))
    return program.jaxpr.invars[len(program.jaxpr.invars) - count :]


class Recording(Reading):
    """Records what is done with the input, and computes the rest."""

    activation_name = "ReLU"

    def __init__(self, holds):
        super().__init__()
        self._holds = holds
        self.operations: list[Operation] = []

    def holds(self, eqn: JaxprEqn, values: Sequence[Any]) -> bool:
        return super().holds(eqn, values) or self._holds(eqn, values)

    def timeless(self, eqn, values, scope):
        if all(isinstance(v, Constant) for v in values):
            with named(scope):
                return self.plain(eqn, values)
        nodes = [Node(v.aval.shape, v.aval.dtype) for v in eqn.outvars]
        nodes[0].channels = channel_axis(eqn, values)
        self.operations.append(Operation(eqn, values, scope, nodes))
        return [Analog(node, node.channels) for node in nodes]

    def neuron(self, site, z, theta):
        """Keep a QCFS that the network has already."""

        def code(z):
            with named(("network", site.path)):
                return qcfs(z, theta.value, levels=site.levels)

        if isinstance(z, Constant):
            return Constant(code(z.value))
        node = dataclasses.replace(z.value)
        self.operations.append(Operation(None, [z], (), [node], site, code))
        return Analog(node, node.channels)
