"""What a spiking network of integers does, counted operation by operation."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax.integers.graph import (
    NUMBERS,
    ROWS,
    Conv,
    Dense,
    Held,
    Lookup,
    Product,
    Scale,
    Shift,
    Term,
    apply,
)
from bitsnn_jax.integers.maxima import largest_codes
from bitsnn_jax.integers.network import IntegerNetwork, IntegerNode
from bitsnn_jax.integers.tables import sides
from bitsnn_jax.numerics.codings import coding_of
from bitsnn_jax.runtime.columns import table

# Kinds of node whose values have no time: they enter the nodes they feed once.
TIMELESS = ("input", *NUMBERS)


class RoutineOperations(NamedTuple):
    """What a routine does, in products and additions of integers of up to 31 bits.

    Shifts, comparisons and subtractions count as additions, masks and casts as nothing.
    A quotient is found bit by bit, in 16 shifts, comparisons and subtractions.

    Attributes:
      products, additions: for each entry.
      row_products, row_additions: for each row.
    """

    products: int
    additions: int
    row_products: int = 0
    row_additions: int = 0


# Of `routines.softmax` and `routines.normalise`.
ROUTINES = {
    "softmax": RoutineOperations(6, 112),
    "normalised": RoutineOperations(4, 64, 20, 219),
}


@dataclasses.dataclass(frozen=True)
class NodeOperations:
    """Counts of one node, summed over the examples. All are Python integers.

    A *path* leads from an entry of a source to an entry of this node: through one
    weight (of value zero or not; padding has none), or through the multiplier of an
    identity. Sums over places before a weight send each value on by itself.

    Attributes:
      name, kind: as in `IntegerNode`.
      entries: of the node, for one example.
      spikes: emitted at each step, t = 1 first; () without spikes.
      synaptic_operations: additions of a weight into this node caused by spikes: the
        paths of all spikes. In a product, a weight is a number of the other node.
      multiply_accumulates: paths from the image and from sums, once per example,
        whatever the values.
      lookups: additions of weights of rows that integers of the input name: paths
        without a product.
      bias_additions: T per entry, one for each part of the bias.
      shifts: T - 1 per entry of a node fed by spikes, for the current of each step but
        the last; one more per entry of a term that ends in a shift, each time the term
        is added.
      compares: T per neuron, with its thresholds; 2 T with a table of both sides.
      resets: subtractions of a threshold; as many as spikes, none with a table.
      routine_products, routine_additions: of a softmax or a normalised node, see
        `ROUTINES`. What it keeps on the way stays in registers.
      paths: from codes, one for each connection: the products of an ANN.
      nonzero_paths: those from codes other than 0: what remains if zeros are skipped.
      nonzero: neurons whose code is not 0.
      code_multiply_accumulates: products with codes. 0 in a spiking network;
        `energy.skipping_ann` and others have them.
      reuse: operations in a row that one fetch of a weight or membrane serves.
    """

    name: str
    kind: str
    entries: int
    spikes: tuple[int, ...] = ()
    synaptic_operations: int = 0
    multiply_accumulates: int = 0
    lookups: int = 0
    bias_additions: int = 0
    shifts: int = 0
    compares: int = 0
    resets: int = 0
    routine_products: int = 0
    routine_additions: int = 0
    paths: int = 0
    nonzero_paths: int = 0
    nonzero: int = 0
    code_multiply_accumulates: int = 0
    reuse: int = 1

    @property
    def accumulations(self) -> int:
        """Whatever goes through a weight into the accumulator."""
        return (
            self.synaptic_operations
            + self.multiply_accumulates
            + self.code_multiply_accumulates
            + self.lookups
        )

    @property
    def weight_reads(self) -> int:
        """One per accumulation, unless a weight stays for several."""
        return -(-self.accumulations // self.reuse)

    @property
    def membrane_reads(self) -> int:
        """One per accumulation, bias addition and compare."""
        return self.weight_reads + self.bias_additions + self.compares

    @property
    def membrane_writes(self) -> int:
        """One per accumulation, bias addition and reset."""
        return self.weight_reads + self.bias_additions + self.resets

    def __add__(self, other: "NodeOperations") -> "NodeOperations":
        """Add counts; name, kind, entries and reuse are those of the first."""
        spikes = self.spikes or other.spikes
        if self.spikes and other.spikes:
            spikes = tuple(map(sum, zip(self.spikes, other.spikes, strict=True)))
        sums = {f: getattr(self, f) + getattr(other, f) for f in _SUMMED}
        return dataclasses.replace(self, spikes=spikes, **sums)


_SUMMED = tuple(
    field.name
    for field in dataclasses.fields(NodeOperations)
    if field.name not in ("name", "kind", "entries", "spikes", "reuse")
)
# The columns of the table, and what `energy` prices.
COUNTS = (
    "synaptic_operations multiply_accumulates code_multiply_accumulates lookups "
    "bias_additions shifts compares resets routine_products routine_additions "
    "weight_reads membrane_reads membrane_writes"
).split()


@dataclasses.dataclass(frozen=True)
class Operations:
    """Counts of a network, by node. Counts of two batches can be added.

    Attributes:
      nodes: in the order of the network, input and maxima included (mostly zeros).
      examples: how many were counted.
      steps: T.
    """

    nodes: tuple[NodeOperations, ...]
    examples: int
    steps: int

    def __getitem__(self, name: str) -> NodeOperations:
        return next(node for node in self.nodes if node.name == name)

    def __add__(self, other: "Operations") -> "Operations":
        mine, theirs = (
            [(o.steps, node.name, node.entries, node.reuse) for node in o.nodes]
            for o in (self, other)
        )
        if mine != theirs:
            raise ValueError(
                f"counts of two networks do not add up: T = {self.steps} and "
                f"{len(mine)} nodes, T = {other.steps} and {len(theirs)} nodes"
            )
        nodes = tuple(a + b for a, b in zip(self.nodes, other.nodes, strict=True))
        return Operations(nodes, self.examples + other.examples, self.steps)

    def total(self, name: str) -> int:
        """Sum a count over the nodes, by its name."""
        return sum(getattr(node, name) for node in self.nodes)

    @property
    def neurons(self) -> int:
        """Of one example."""
        return sum(node.entries for node in self.nodes if node.kind == "neurons")

    @property
    def spikes_per_neuron(self) -> float:
        """Over all steps: spikes of neurons / neurons. Maxima are not counted."""
        spikes = sum(sum(n.spikes) for n in self.nodes if n.kind == "neurons")
        return spikes / max(self.neurons * self.examples, 1)

    @property
    def nonzero_fraction(self) -> float:
        """Neurons with a code other than 0: no fewer than spikes / T, at most all."""
        return self.total("nonzero") / max(self.neurons * self.examples, 1)

    def __str__(self) -> str:
        columns = [c for c in COUNTS if self.total(c)]
        heads = [c.replace("_", " ") for c in columns]
        rows: list[Sequence[str]] = [("layer", "kind", "spikes", *heads)]
        for node in self.nodes:
            counts = [sum(node.spikes), *(getattr(node, c) for c in columns)]
            rows.append((node.name, node.kind, *(f"{n:,}" for n in counts)))
        totals = [sum(sum(n.spikes) for n in self.nodes), *map(self.total, columns)]
        rows.append(("total", "", *(f"{n:,}" for n in totals)))
        return table(rows, names=2)


Paths = Mapping[str, tuple[np.ndarray, ...]]


def term_paths(network: IntegerNetwork) -> Paths:
    """Count, for each node and term, the entries that each source entry reaches.

    The number of paths is the gradient of the sum of a term whose weights are all 1.
    This respects borders, strides, dilations and groups.

    Args:
      network: of `fixed_point`.

    Returns:
      name -> for each term int64 of the shape of the source. None for maxima, which
      compare and add nothing.
    """
    with jax.enable_x64(True):  # float64 has every integer up to 2**53
        return {
            node.name: tuple(
                _fan_out(term, network[term.source].shape) for term in node.terms
            )
            for node in network.nodes
            if node.kind != "maximum"
        }


def count(
    network: IntegerNetwork,
    codes: Mapping[str, Any],
    *,
    examples: int,
    paths: Paths | None = None,
    coding: str = "bits",
) -> Operations:
    """Count the operations of the spiking network from the codes of its neurons.

    Nothing is simulated: a code's bits are its spikes, so for each term and step

        synaptic operations = sum over entries of spikes * paths,

    which are the additions of `execution.stepped`, had it run event by event. The
    counts are those of the layer graph. A term that is there twice, because two layers
    are fed the same sum, counts twice; hardware that keeps the sum does less.
    Comparisons of a maximum and the traffic of spikes are not counted. Of signed digits
    each that is not 0 is a spike, and a step compares with two thresholds.

    Args:
      network: of `fixed_point`.
      codes: name -> [examples, ...] integers, as `execution.Result.codes`.
      examples: how many; 0 is allowed.
      paths: of `term_paths(network)`, to count many batches; made here if missing.
      coding: as in `spiking`.

    Returns:
      Operations. Exact.

    Raises:
      ValueError: codes missing, of another shape, or not in 0..2**T - 1; with the name.

    >>> import numpy as np
    >>> from bitsnn_jax.integers.network import IntegerNetwork, IntegerNode
    >>> from bitsnn_jax.integers.graph import Dense, Term
    >>> to = lambda source: (Term(source, (), Dense(np.ones((2, 2), np.int8)), ()),)
    >>> network = IntegerNetwork((IntegerNode("input", "input", (1, 2)),
    ...     IntegerNode("a", "neurons", (1, 2), to("input")),
    ...     IntegerNode("output", "output", (1, 2), to("a"))), 4, 8, 255)
    >>> operations = count(network, {"a": np.array([[5, 8]])}, examples=1)
    >>> operations["a"].spikes, operations["output"].synaptic_operations
    ((1, 1, 0, 1), 6)
    """
    paths = term_paths(network) if paths is None else paths
    sends = coding_of(coding)
    times = sends.times(network.steps)
    activity: dict[str, _Activity] = {}
    sent: dict[str, np.ndarray] = {}
    nodes = []
    for node in network.nodes:
        if node.kind == "neurons":
            sent[node.name] = _checked(node, codes, network.steps, examples)
        elif node.kind == "maximum":
            sent[node.name] = _maximum(node, sent)
        if node.name in sent:
            activity[node.name] = _activity(sent[node.name], sends, times)
        nodes.append(_counts(node, network, paths, activity, examples, sends))
    return Operations(tuple(nodes), examples, times)


class _Activity(NamedTuple):
    """Of a layer that spikes, summed over examples; [*shape] each."""

    planes: list[np.ndarray]  # spikes of each step
    nonzero: np.ndarray


def _activity(codes, sends, times) -> _Activity:
    spikes = np.asarray(sends.spikes(codes))
    planes = [
        ((spikes >> (times - 1 - t)) & 1).sum(0, dtype=np.int64) for t in range(times)
    ]
    return _Activity(planes, np.count_nonzero(codes, axis=0).astype(np.int64))


def _counts(
    node: IntegerNode, network, paths, activity, examples, sends
) -> NodeOperations:
    entries, steps = int(np.prod(node.shape)), sends.times(network.steps)
    counts = dict.fromkeys(_SUMMED, 0)
    own = activity.get(node.name)
    spikes = tuple(int(plane.sum()) for plane in own.planes) if own else ()
    if node.kind == "neurons":
        counts["nonzero"] = int(own.nonzero.sum())
        thresholds = sides(node) * (1 - sends.least)
        counts["compares"] = thresholds * steps * entries * examples
        counts["resets"] = 0 if node.has_table else sum(spikes)
    if node.kind in ("input", "maximum"):
        return NodeOperations(node.name, node.kind, entries, spikes, **counts)
    counts["bias_additions"] = steps * entries * examples
    if node.kind in ROWS:
        routine, rows = ROUTINES[node.kind], entries // node.shape[-1]
        for name, each, of_row in (
            ("routine_products", routine.products, routine.row_products),
            ("routine_additions", routine.additions, routine.row_additions),
        ):
            counts[name] = (each * entries + of_row * rows) * examples
    for term, reached in zip(node.terms, paths[node.name], strict=True):
        shifted = isinstance(term.after[-1] if term.after else None, Shift)
        dense = int(reached.sum()) * examples
        if network[term.source].kind in TIMELESS:
            named = isinstance(term.weight, Lookup)
            counts["lookups" if named else "multiply_accumulates"] += dense
            counts["shifts"] += shifted * entries * examples
            continue
        source, flat = activity[term.source], reached.reshape(-1)
        counts["synaptic_operations"] += sum(
            int(plane.reshape(-1) @ flat) for plane in source.planes
        )
        counts["paths"] += dense
        counts["nonzero_paths"] += int(source.nonzero.reshape(-1) @ flat)
        counts["shifts"] += shifted * steps * entries * examples
    if any(network[term.source].kind not in TIMELESS for term in node.terms):
        counts["shifts"] += (steps - 1) * entries * examples
    return NodeOperations(node.name, node.kind, entries, spikes, **counts)


def _fan_out(term: Term, shape: tuple[int, ...]) -> np.ndarray:
    reach = partial(_reached, term)
    source = jax.ShapeDtypeStruct(shape, jnp.float64)
    target = jax.eval_shape(reach, source)
    [reached] = jax.linear_transpose(reach, source)(jnp.ones(target.shape, jnp.float64))
    return np.asarray(reached).astype(np.int64)


def fan_in(term: Term, shape: tuple[int, ...]) -> np.ndarray:
    """Count, for each entry of a node, the paths that a term brings to it.

    Args:
      term: of the node, which is no maximum.
      shape: of the term's source.

    Returns:
      int64, of the shape of the node.
    """
    with jax.enable_x64(True):
        return np.asarray(_reached(term, jnp.ones(shape))).astype(np.int64)


def _reached(term: Term, x: jax.Array) -> jax.Array:
    """Apply the term with ones for weights."""
    for op in (*term.before, term.weight, *term.after):
        if not isinstance(op, Shift):  # no path, and it would count as 2**amount paths
            x = _with_ones(op, x)
    return x


def _with_ones(op, x):
    """Apply the operation with ones for weights, which need no products."""
    if isinstance(op, Scale):
        return x
    if isinstance(op, Dense):
        total = jnp.sum(x, -1, keepdims=True)
        return jnp.broadcast_to(total, (*x.shape[:-1], op.kernel.shape[-1]))
    if isinstance(op, Held):
        return apply(Product(np.ones(op.shape)), x)
    if isinstance(op, Lookup):
        return jnp.broadcast_to(x[..., None], (*x.shape, op.kernel.shape[-1]))
    if isinstance(op, Conv):
        # Sum the channels of a group, spread the sum over space, send it everywhere.
        *window, inputs, outputs = op.kernel.shape
        x = x.reshape(*x.shape[:-1], op.groups, inputs).sum(-1)
        kernel = np.ones((*window, 1, op.groups))
        return jnp.repeat(
            apply(op._replace(kernel=kernel), x), outputs // op.groups, -1
        )
    return apply(op, x)


def _maximum(node, sent) -> np.ndarray:
    codes = {term.source: jnp.asarray(sent[term.source]) for term in node.terms}
    largest = jax.vmap(lambda one: largest_codes(node, one))
    return np.asarray(largest(jax.tree.map(lambda x: x[:, None], codes)))[:, 0]


def _checked(node, codes, steps, examples) -> np.ndarray:
    if node.name not in codes:
        raise ValueError(
            f"no codes of {node.name}: got those of {', '.join(codes) or 'none'}"
        )
    array, shape = np.asarray(codes[node.name]), (examples, *node.shape[1:])
    if array.shape != shape:
        raise ValueError(f"{node.name}: expected codes {shape}, got {array.shape}")
    if array.dtype.kind not in "iu":
        raise ValueError(f"{node.name}: codes are integers, got {array.dtype}")
    if array.size and not 0 <= array.min() <= array.max() < 2**steps:
        raise ValueError(
            f"{node.name}: codes must be 0 to {2**steps - 1} at T = {steps}, got "
            f"{array.min()} to {array.max()}"
        )
    # Signed and wide enough for shifts and maxima of codes of any type.
    return array.astype(np.int32)
