"""Pointwise regions of a recorded program: where its activations are.

A *region* is a largest part of a program in which each entry of the result depends on
one entry of one value z, and which is not affine: y = f(z). In whatever library a
network is written, and in however many operations, this is what an activation is.

Each value that an element-by-element operation makes has a latest other value that it
is a function of, its `origin`: the operand, or where the ways back from all operands
meet. Following origins from a value that is used elsewhere leads back through the whole
region; it ends in front of its first operation that is not affine.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

from bitsnn_jax.activations.recording import Node, Operation, Recorded
from bitsnn_jax.tracing.equations import OPAQUE_CALLS, body, parts
from bitsnn_jax.tracing.linearity import MOVES, linear_operands
from bitsnn_jax.tracing.literals import number
from bitsnn_jax.tracing.pointwise import ELEMENTWISE
from bitsnn_jax.tracing.values import Analog, Constant, Value

_SAME = ("broadcast_in_dim", "convert_element_type", "copy")
_INPUT = object()  # where numbers stand, the value that is not known
Bounds = tuple[float, float | None]
_INFINITE = 1e30  # a bound beyond it bounds nothing


@dataclasses.dataclass(eq=False)
class Region:
    """y = f(z).

    Attributes:
      start: z.
      end: y.
      operations: f, in order.
      pooling: maxima over places, and moves, that make z of a value that goes nowhere
        else.
    """

    start: Node
    end: Node
    operations: tuple[Operation, ...]
    pooling: tuple[Operation, ...] = ()

    @property
    def scope(self) -> tuple[str, ...]:
        """The modules that its last operation stands in."""
        return self.operations[-1].scope

    @property
    def bent(self) -> tuple[Operation, ...]:
        """Its operations that are not affine."""
        return tuple(op for op in self.operations if not is_affine(op))

    @property
    def constants(self) -> list[Constant]:
        """What its operations are given besides z and one another."""
        values = [v for op in self.operations for v in op.values]
        return [v for v in values if isinstance(v, Constant)]

    @property
    def source(self) -> Node:
        """What is pooled; z itself if nothing is."""
        return self.pooling[0].operands[0] if self.pooling else self.start

    def pooled(self, source: Any) -> Any:
        """Do its pooling."""
        for op in self.pooling:
            [source] = op.done(
                lambda v, x=source: x if isinstance(v, Analog) else v.value
            )
        return source

    def __call__(
        self, z: Any, constant: Callable[[Constant], Any] = lambda c: c.value
    ) -> Any:
        """Compute f(z), with other arrays for its constants if given."""
        made = {self.start: z}

        def array(value: Value) -> Any:
            known = isinstance(value, Constant)
            return constant(value) if known else made[value.value]

        for op in self.operations:
            made |= zip(op.results, op.done(array), strict=True)
        return made[self.end]


class Regions:
    """All regions of a recorded program, in its order.

    Attributes:
      found: the regions.
      users: the operations that each value goes into.
      makers: the operation that each value comes from.
    """

    def __init__(self, recorded: Recorded):
        self.recorded = recorded
        self.users: dict[Node, list[Operation]] = {}
        self.makers: dict[Node, Operation] = {}
        self.origins: dict[Node, Node] = {}
        self._depths: dict[Node, int] = {}
        self._is_bent: dict[Node, bool] = {}
        for op in recorded.operations:
            for node in op.operands:
                self.users.setdefault(node, []).append(op)
            self.makers |= dict.fromkeys(op.results, op)
            self._follow(op)
        ends = self._ends()
        made = [node for op in recorded.operations for node in op.results]
        self.found = [self._region(end, ends) for end in made if end in ends]

    @property
    def outputs(self) -> list[Node]:
        """What the program returns, of the input."""
        values = self.recorded.results
        return [v.value for v in values if isinstance(v, Analog)]

    def extended(self, region: Region, before: int, behind: int) -> Region | None:
        """Take in as many scales and offsets in front of and behind a region.

        None if there are not as many.
        """
        start, end, first, last = region.start, region.end, [], []
        for _ in range(before):
            op = self.makers.get(start)
            if op is None or not _scales(op):
                return None
            [start] = op.operands
            first.insert(0, op)
        for _ in range(behind):
            users = self.users.get(end, [])
            if len(users) != 1 or not _scales(users[0]) or end in self.outputs:
                return None
            last.append(users[0])
            [end] = users[0].results
        operations = (*first, *region.operations, *last)
        return dataclasses.replace(region, start=start, end=end, operations=operations)

    def behind_pooling(self, region: Region) -> Region:
        """Take in the maxima over places that stand directly in front of a region."""
        pooling, node, users = [], region.start, set(region.operations)
        while (op := self.makers.get(node)) is not None:
            if not (is_maximum_over_places(op) or pooling_moves(op)):
                break
            if node in self.outputs or not users.issuperset(self.users[node]):
                break
            pooling.insert(0, op)
            [node] = op.operands
            users = {op}
        while pooling and not is_maximum_over_places(pooling[0]):
            pooling.pop(0)
        return dataclasses.replace(region, pooling=tuple(pooling))

    def _follow(self, op: Operation) -> None:
        """Find the origin of what an operation makes."""
        if not is_elementwise(op):
            return
        [result] = op.results
        first, *rest = op.operands
        origin: Node | None = first
        for other in rest:
            origin = origin and self._meeting(origin, other)
        if origin is None:
            return
        inside = self._between(op, origin)
        bent = [inner for inner in inside if not is_affine(inner)]
        if rest and is_affine(op) and bent and all(map(clips_at_zero, bent)):
            return  # a sum of ReLUs: each is an activation of its own
        self.origins[result] = origin
        self._depths[result] = self._depths.get(origin, 0) + 1
        self._is_bent[result] = bool(bent)

    def _meeting(self, a: Node, b: Node) -> Node | None:
        """Find the latest value that both are functions of."""
        while a is not b:
            if self._depths.get(a, 0) < self._depths.get(b, 0):
                a, b = b, a
            if a not in self.origins:
                return None
            a = self.origins[a]
        return a

    def _between(self, last: Operation, origin: Node) -> list[Operation]:
        """List the operations from a value to the last of them, in order."""
        inside: dict[Operation, None] = {}

        def visit(op):
            for node in op.operands:
                if node is not origin and self.makers[node] not in inside:
                    visit(self.makers[node])
            inside[op] = None

        visit(last)
        return list(inside)

    def _ends(self) -> set[Node]:
        """Find the values behind which a code belongs."""
        ends: set[Node] = set()
        uses = [
            node
            for op in self.recorded.operations
            if not any(node in self.origins for node in op.results)
            for node in op.operands
        ]
        for used in [*uses, *self.outputs]:
            node: Node | None = used
            while node is not None and not self._is_bent.get(node):
                node = self.origins.get(node)
            if node is None:
                continue
            ends |= {node, *self._inner_ends(node)}
        return ends

    def _inner_ends(self, end: Node) -> list[Node]:
        """Find the ReLUs on the way to a ReLU, with affine operations between."""
        found, node = [], end
        while (origin := self.origins.get(node)) is not None:
            inside = self._between(self.makers[node], origin)
            if any(not (is_affine(op) or clips_at_zero(op)) for op in inside):
                return []  # all together are another function
            if is_affine(self.makers[node]) and self._is_bent.get(origin):
                found.append(origin)
            node = origin
        return found

    def _region(self, end: Node, ends: set[Node]) -> Region:
        start, node = end, end
        while (origin := self.origins.get(node)) is not None:
            if self._is_bent[node]:
                start = origin
            node = origin
            if node in ends:
                break
        return Region(start, end, tuple(self._between(self.makers[end], start)))


def is_maximum_over_places(op: Operation) -> bool:
    """Tell whether an operation pools, and takes the largest."""
    if op.site or len(op.operands) != 1 or len(op.results) != 1:
        return False
    if op.name in ("reduce_max", "reduce_window_max"):
        return True
    if op.name != "reduce_window":
        return False
    [reducer] = parts(op.eqn)
    return [eqn.primitive.name for eqn in reducer.jaxpr.eqns] == ["max"]


def pooling_moves(op: Operation) -> bool:
    """Tell whether an operation only moves one value."""
    single = len(op.operands) == 1 and len(op.results) == 1 and not op.site
    return single and op.name in MOVES and op.results[0].is_floating


def _scales(op: Operation) -> bool:
    single = is_elementwise(op) and len(op.operands) == 1 and is_affine(op)
    return single and op.name in ("add", "div", "mul", "neg", "sub")


def is_elementwise(op: Operation) -> bool:
    """Tell whether each entry of its result depends on that entry of its operands."""
    if op.site or len(op.results) != 1:
        return False
    shape = op.results[0].shape
    if any(node.shape != shape for node in op.operands):
        return False
    return op.name in ELEMENTWISE or is_elementwise_call(op.eqn)


def is_elementwise_call(eqn: JaxprEqn) -> bool:
    """Tell the same of a function with a gradient of its own."""
    program = body(eqn)
    if eqn.primitive.name not in OPAQUE_CALLS or program is None:
        return False
    shapes = {v.aval.shape for v in program.jaxpr.invars} | {()}
    outputs = {v.aval.shape for v in program.jaxpr.outvars}
    return len(outputs) == 1 and shapes <= outputs | {()} and _is_elementwise(program)


def _is_elementwise(program) -> bool:
    for eqn in program.jaxpr.eqns:
        name = eqn.primitive.name
        inner = body(eqn)
        if inner is not None:
            if not _is_elementwise(inner):
                return False
        elif name == "broadcast_in_dim":
            if eqn.invars[0].aval.shape:
                return False
        elif name not in ELEMENTWISE:
            return False
    return True


def is_affine(op: Operation) -> bool:
    """Tell whether an operation is affine in what depends on the input."""
    if op.site:
        return False
    if (bounds := clip_bounds(op)) and bounds[1] is not None:
        return bounds[0] <= -_INFINITE and bounds[1] >= _INFINITE
    depends = [isinstance(v, Analog) for v in op.values]
    return linear_operands(op.eqn, depends) is not None


def clips_at_zero(op: Operation) -> bool:
    """Tell whether an operation is max(z, 0), a cap above 0, or both."""
    if (bounds := clip_bounds(op)) is None:
        return False
    low, high = bounds
    return (low == 0 or low <= -_INFINITE) and (high is None or high > 0)


def clip_bounds(op: Operation) -> Bounds | None:
    """Find the numbers that a maximum or minimum clips at.

    The upper one is None if it is no number that the program says: it was trained.
    """
    if op.site or len(op.operands) != 1 or len(op.results) != 1:
        return None
    numbers = [_INPUT if isinstance(v, Analog) else number(v) for v in op.values]
    return _bounds(op.eqn, numbers)


def region_bounds(region: Region) -> Bounds | None:
    """Find the same of a region; None if it does anything else."""
    found: Bounds | None = (-np.inf, np.inf)
    for op in region.operations:
        bounds = clip_bounds(op)
        if bounds is None or found is None:
            return None
        found = folded(found, bounds)
    return found


def folded(first: Bounds, then: Bounds) -> Bounds | None:
    """Put two clips behind one another; at most one cap may be trained."""
    low = min(max(first[0], then[0]), np.inf if then[1] is None else then[1])
    if first[1] is None or then[1] is None:
        known = then[1] if first[1] is None else first[1]
        return (low, None) if known is not None and known >= _INFINITE else None
    return low, min(max(first[1], then[0]), then[1])


def _bounds(eqn: JaxprEqn, numbers: Sequence[Any]) -> Bounds | None:
    name, inner = eqn.primitive.name, body(eqn)
    if inner is not None:
        return _bounds_of_call(inner, numbers)
    if name == "clamp" and numbers[1] is _INPUT:
        low, _, high = numbers
    elif name in ("max", "min") and len(numbers) == 2:
        [bound] = [n for n in numbers if n is not _INPUT] or [None]
        low, high = (bound, np.inf) if name == "max" else (-np.inf, bound)
    else:
        return None
    if low is None or low is _INPUT or high is _INPUT:
        return None
    return float(low), None if high is None else float(high)


def _bounds_of_call(program: ClosedJaxpr, numbers: Sequence[Any]) -> Bounds | None:
    """Find those of a function that does nothing but clip, such as `jax.nn.relu6`."""
    jaxpr, found = program.jaxpr, None
    known = dict(zip(jaxpr.invars, numbers, strict=True))
    for eqn in jaxpr.eqns:
        given = [v.val if isinstance(v, Literal) else known.get(v) for v in eqn.invars]
        [result] = eqn.outvars
        if _INPUT not in given:
            known[result] = given[0] if eqn.primitive.name in _SAME else None
            continue
        bounds = _bounds(eqn, given)
        found = bounds if found is None or bounds is None else folded(found, bounds)
        if found is None:
            return None
        # Only the last value goes on.
        known = {v: None if n is _INPUT else n for v, n in known.items()}
        known[result] = _INPUT
    return found if jaxpr.outvars and known.get(jaxpr.outvars[0]) is _INPUT else None
