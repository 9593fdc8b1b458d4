"""The spiking network with time as a loop at run time: one `lax.scan` for each layer.

Between two layers of neurons lies a program that is linear in spikes. `Stepped` writes
it down T times. Here it is kept as a graph of operations until something needs its sum
over time: a layer of neurons, which integrates it, the output, or an operation that is
computed on decoded values. Then one scan runs over time. Its body unpacks the spikes of
one step from the codes of the layers that send them, applies the graph, and adds the
result to the membrane, which is the carry. A second scan fires. So neither program nor
temporaries grow with T.

No operation is applied twice to one step of its currents. Within a body each is done
once. A current that a later scan needs again, as that of a residual stream without
neurons on it, is added up in the scan that computes it first, and from there on brings
1/T of its sum at each step, which is the same sum (as an image that is carried past
neurons does). That costs an array of one step, and another order of additions: codes
are those of `Stepped` but for rounding, and to the last bit where no current is shared.
`look_ahead` finds these currents, in a walk through the program that computes nothing.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn

from bitsnn_jax.conversion.readings import Spikes, Stepped, decoded
from bitsnn_jax.numerics.neurons import collect
from bitsnn_jax.numerics.spikes import code_type
from bitsnn_jax.numerics.tables import fire_table
from bitsnn_jax.tracing.program import Analog, Current, read


@dataclasses.dataclass(eq=False)
class Operation:
    """A linear operation that waits to be done at each step.

    Attributes:
      number: in the order of the program.
      eqn: the operation.
      values: its operands, for each a `Current` or the array that it is at each step.
      sums: of its results over time, once they have been added up.
    """

    number: int
    eqn: JaxprEqn
    values: Sequence[Any]
    sums: list[Any] | None = None

    @property
    def before(self) -> list["Operation"]:
        currents = [v.value for v in self.values if isinstance(v, Current)]
        return [c.operation for c in currents if isinstance(c, Flow)]

    def settle(self, sums: list[Any]) -> None:
        """Keep the sums, and no longer what they were made of."""
        self.sums, self.values = sums, ()


class Flow(NamedTuple):
    """A current: one result of an operation."""

    operation: Operation
    index: int


class Rolled(Stepped):
    """The spiking network, rolled. A current is a `Flow`, or a layer's `Spikes`."""

    def __init__(self, **options):
        super().__init__(**options)
        self.options = options
        self.shared: frozenset[int] = frozenset()  # numbers of operations
        self.operations = 0

    def look_ahead(self, program, variables, x):
        ahead = _LookAhead(**self.options)
        jax.eval_shape(
            lambda *inputs: decoded(ahead, read(ahead, program, *inputs)), variables, x
        )
        self.shared = frozenset(ahead.again)

    def linear(self, eqn, values, operands, path):
        kept = [
            v if isinstance(v, Current) else self.held(v) if i in operands else v.value
            for i, v in enumerate(values)
        ]
        operation = Operation(self.operations, eqn, kept)
        self.operations += 1
        return [Current(Flow(operation, i)) for i in range(len(eqn.outvars))]

    def collect(self, current, start):
        waiting, done = _needed(current)
        if not waiting and done:  # the current itself is one that has been added up
            operation, index = current.value
            return start + operation.sums[index]
        means = {o: [s / self.times for s in o.sums or ()] for o in done}
        shared = [o for o in waiting if o.number in self.shared]

        def charge(place):
            now = dict(means)
            for operation in waiting:
                arrays = [self.at(v, place, now) for v in operation.values]
                now[operation] = self.bind(operation.eqn, arrays)
            return self.at(current, place, now), [now[o] for o in shared]

        start = start, [[0] * len(o.eqn.outvars) for o in shared]
        total, sums = collect(charge, start, steps=self.times)
        for operation, results in zip(shared, sums, strict=True):
            operation.settle(results)
        return total

    def fire(self, membrane, delta):
        return self.coding.fire(membrane, delta, steps=self.steps, unroll=False)

    def fire_table(self, membrane, table):
        dtype = code_type(max(self.steps, 16))  # as `fire`
        return fire_table(membrane, table, steps=self.steps, dtype=dtype, unroll=False)

    def at(self, value, place, now):
        """Look up what a value is at the step t = T - place."""
        if not isinstance(value, Current):
            return value
        if isinstance(value.value, Spikes):
            return value.value.charge(place, self.coding)
        operation, index = value.value
        return now[operation][index]

    def decode(self, current, path):
        return Analog(self.collect(current, 0))


class _LookAhead(Rolled):
    """Finds the operations that a second scan needs; computes nothing between neurons.

    Attributes:
      again: their numbers.
    """

    def __init__(self, **options):
        super().__init__(**options)
        self.again: set[int] = set()

    def look_ahead(self, program, variables, x):
        pass

    def collect(self, current, start):
        waiting, done = _needed(current)
        self.again |= {operation.number for operation in done}
        for operation in waiting:
            operation.settle([_zeros(v.aval) for v in operation.eqn.outvars])
        return start + _zeros(_aval(current))

    def fire(self, membrane, delta):
        return jnp.zeros(membrane.shape, code_type(self.steps))

    def fire_table(self, membrane, table):
        return jnp.zeros(membrane.shape, code_type(self.steps))

    def observe(self, site, membrane, code, delta):
        pass


def _needed(current: Current) -> tuple[list[Operation], list[Operation]]:
    """Find the operations behind a current, in order: not added up yet, added up."""
    seen: set[Operation] = set()
    left = [current.value.operation] if isinstance(current.value, Flow) else []
    while left:
        operation = left.pop()
        if operation not in seen:
            seen.add(operation)
            left += operation.before if operation.sums is None else []
    ordered = sorted(seen, key=lambda operation: operation.number)
    waiting = [o for o in ordered if o.sums is None]
    return waiting, [o for o in ordered if o.sums is not None]


def _aval(current):
    if isinstance(current.value, Spikes):
        codes, delta = current.value
        return jax.ShapeDtypeStruct(codes.shape, delta.dtype)
    operation, index = current.value
    return operation.eqn.outvars[index].aval


def _zeros(aval):
    return jnp.zeros(aval.shape, aval.dtype)
