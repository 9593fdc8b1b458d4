"""A recorded program, done with something else in the place of some of its regions."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax

from bitsnn_jax.activations.recording import Node, Operation, Recorded
from bitsnn_jax.activations.regions import Region
from bitsnn_jax.tracing.values import Analog, Constant, Value

# What takes the place of a region: (region, its source) -> its y.
Code = Callable[[Region, Any], Any]


class Schedule:
    """What is done of a program, in order: operations, and regions as a whole.

    A region comes when its value is first needed outside of it.
    """

    def __init__(self, recorded: Recorded, regions: Iterable[Region]):
        self.recorded = recorded
        self.regions = {region.end: region for region in regions}
        self.steps: list[Operation | Region] = []
        live, come = self._live(), set()

        def come_to(node: Node) -> None:
            region = self.regions.get(node)
            if region is not None and node not in come:
                come.add(node)
                come_to(region.source)
                self.steps.append(region)

        for op in recorded.operations:
            if op in live:
                for node in op.operands:
                    come_to(node)
                self.steps.append(op)
        for node in _nodes(recorded.results):
            come_to(node)

    def _live(self) -> set[Operation]:
        """Find the operations that results or regions need."""
        needed, live = set(_nodes(self.recorded.results)), set()
        for op in reversed(self.recorded.operations):
            if needed.isdisjoint(op.results):
                continue
            region = self.regions.get(op.results[0])
            if region is None:
                live.add(op)
                needed |= set(op.operands)
            else:
                needed.add(region.source)
        return live

    @property
    def ordered(self) -> list[Region]:
        """The regions, as they come."""
        return [step for step in self.steps if isinstance(step, Region)]

    def run(self, x: Any, code: Code) -> Any:
        """Do the program on an input, with `code` in the place of each region."""
        recorded = self.recorded
        known = dict(zip(recorded.inputs, jax.tree.leaves(x), strict=True))
        last = {
            node: i for i, step in enumerate(self.steps) for node in _operands(step)
        }
        kept = set(_nodes(recorded.results))

        def array(value: Value) -> Any:
            return value.value if isinstance(value, Constant) else known[value.value]

        for i, step in enumerate(self.steps):
            if isinstance(step, Region):
                known[step.end] = code(step, known[step.source])
            else:
                known |= zip(step.results, step.done(array), strict=True)
            for node in _operands(step):
                if last[node] == i and node not in kept:
                    del known[node]  # outside of jit, memory does not grow with depth
        return recorded.finished([array(value) for value in recorded.results])


def _operands(step: Operation | Region) -> list[Node]:
    return [step.source] if isinstance(step, Region) else step.operands


def _nodes(values: Sequence[Value]) -> list[Node]:
    return [v.value for v in values if isinstance(v, Analog)]
