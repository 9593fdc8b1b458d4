"""What the regions of a program are for: which of them are no activations."""

from jax.extend.core import JaxprEqn

from bitsnn_jax.activations.recording import Node, Operation
from bitsnn_jax.activations.regions import Region, Regions, clip_bounds
from bitsnn_jax.tracing.equations import parts
from bitsnn_jax.tracing.linearity import MOVES, PRODUCTS
from bitsnn_jax.tracing.values import Analog, Constant

# Operands that must not be negative, or not be zero.
_DELICATE = {"div": (1,), "log": (0,), "rsqrt": (0,), "sqrt": (0,)}
# What may lie between a guard and its use: adding a small number, reshaping.
_ON_THE_WAY = frozenset(
    "add broadcast_in_dim convert_element_type expand_dims max reshape squeeze "
    "transpose".split()
)
# Moves, scales and compares values, or chooses among them, and adds none up.
_APART = MOVES | frozenset(
    "add argmax argmin concatenate convert_element_type div eq ge gt le lt mul ne neg "
    "pad select_n sort stack sub top_k".split()
)
# What an output is squashed to, as opposed to what features go through.
_RANGES = frozenset(
    "clip exp hard_sigmoid hard_tanh log_sigmoid sigmoid soft_sign softplus "
    "squareplus tanh".split()
)


class Roles:
    """Where weights are in a program, and what is part of a normalisation.

    Weights are convolutions, products of matrices, and tables that integers look up.
    """

    def __init__(self, regions: Regions):
        operations = regions.recorded.operations
        self._users = regions.users
        self._outputs = set(regions.outputs)
        self._weights = {op for op in operations if _has_weights(op)}
        self._fed: set[Node] = set()  # by weights
        for op in operations:
            if op in self._weights or not self._fed.isdisjoint(op.operands):
                self._fed.update(op.results)
        # From the last value to the first: what becomes of it.
        self._feeds: set[Node] = set()  # weights
        self._divides: set[Node] = set()  # is used in divisors and roots only
        self._guards: set[Node] = set()  # is a divisor or a root's operand, as it is
        self._apart: set[Node] = set()  # is not added to other values
        made = [node for op in reversed(operations) for node in op.results]
        for node in [*made, *regions.recorded.inputs]:
            self._look_ahead(node)

    def _look_ahead(self, node: Node) -> None:
        uses = self._users.get(node, [])
        if any(op in self._weights or self._any(self._feeds, op) for op in uses):
            self._feeds.add(node)
        if uses and node not in self._outputs:
            if all(_is_delicate(op, node) or self._all_divide(op) for op in uses):
                self._divides.add(node)
        if any(
            _is_delicate(op, node)
            or (op.name in _ON_THE_WAY and self._any(self._guards, op))
            for op in uses
        ):
            self._guards.add(node)
        if all(
            op.name in _APART and len(op.operands) == 1 or op.name == "concatenate"
            for op in uses
        ) and all(self._apart.issuperset(op.results) for op in uses):
            self._apart.add(node)

    def _any(self, nodes: set[Node], op: Operation) -> bool:
        return not nodes.isdisjoint(op.results)

    def _all_divide(self, op: Operation) -> bool:
        return op not in self._weights and self._divides.issuperset(op.results)

    def no_activation(self, region: Region) -> str | None:
        """Say why a region can be no activation, whatever its function is called."""
        end, names = region.end, {op.name for op in region.bent}
        if not end.is_floating:
            return "decides, and is no real number"
        if end in self._divides:
            return "part of a normalisation"
        if end in self._guards and all(clip_bounds(op) for op in region.bent):
            return "keeps a divisor or the operand of a root positive"
        if names <= {"exp", "exp2"}:
            if any(self._all_divide(op) for op in self._users.get(end, [])):
                return "part of a softmax"
        if names & {"ceil", "floor", "rem", "round"} and end not in self._feeds:
            return "rounds, and no weights come behind it"
        return None

    def needs_none(self, region: Region, function: str | None) -> str | None:
        """Say why an activation needs no code.

        Args:
          region: the activation.
          function: what it was recognised as, None for nothing.
        """
        family = (function or "").partition("(")[0].partition(",")[0]
        if family == "identity":
            return "changes no number that is finite"
        fed, feeds = region.start in self._fed, region.end in self._feeds
        if function is None and (singular := _singular(region)):
            return f"part of a normalisation, by its {' and '.join(singular)}"
        if self.is_of_input(region) and family not in ("relu", "relu6", "clip"):
            return "of the input: no weights come before it"
        if fed and not feeds and family in _RANGES:
            if family != "clip" or region.end in self._apart:
                return "of the output: no weights come behind it"
        return None

    def is_fed(self, region: Region) -> bool:
        """Tell whether weights come before it."""
        return region.start in self._fed

    def is_of_input(self, region: Region) -> bool:
        """Tell whether it stands between the input and the first weights."""
        return region.start not in self._fed and region.end in self._feeds


def _is_delicate(op: Operation, node: Node) -> bool:
    places = () if op.site else _DELICATE.get(op.name, ())
    return any(
        isinstance(v, Analog) and v.value is node
        for v in (op.values[i] for i in places)
    )


def _singular(region: Region) -> list[str]:
    """Name its operations that must not be given zero."""
    found = {
        op.name
        for op in region.bent
        for i in _DELICATE.get(op.name, ())
        if isinstance(op.values[i], Analog)
    }
    return sorted(found)


def _has_weights(op: Operation) -> bool:
    if op.site:
        return False
    if op.name in ("gather", "dynamic_slice", "lookup"):
        return isinstance(op.values[0], Constant)
    return op.name in PRODUCTS or _has_products(op.eqn)


def _has_products(eqn: JaxprEqn) -> bool:
    return any(
        inner.primitive.name in PRODUCTS or _has_products(inner)
        for part in parts(eqn)
        for inner in part.jaxpr.eqns
    )
