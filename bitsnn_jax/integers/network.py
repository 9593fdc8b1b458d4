"""A network in integers, as data: what `fixed_point` makes and all others read."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax.integers import routines
from bitsnn_jax.integers.graph import (
    ROWS,
    SIGNED,
    Graph,
    Lookup,
    Product,
    Term,
    apply_term,
)
from bitsnn_jax.runtime.columns import table

NO_TABLE = np.zeros((0,), np.int32)


class IntegerNode(NamedTuple):
    """A node whose numbers are integers. With z = sum of terms + bias, its value is

        "neurons"  code = clip(floor((z + half) / 2**fraction), 0, 2**T - 1), which the
                   neuron finds bit by bit with the thresholds 2**(fraction + T - t);
                   with a table, the number of k with rise[k-1] <= z < fall[k-1]
        "maximum"  the largest of its terms
        "sum"      floor((z + half) / 2**fraction), in 16 bits: z, rounded
        "softmax", "normalised"
                   what `routines` make of each row, the last axis, of such a sum, of
                   any width, and `routine`
        others     z

    Attributes:
      name, kind, shape, terms: as in `graph.Node`; kernels are int8, multipliers int16.
      bias: int32, broadcasts to `shape`.
      fraction: int32, broadcasts to `shape`; 0 where nothing is divided. Beside a table
        it only says what z = 1 stands for.
      unit: what a value of 1 stands for in the float network, e.g. delta.
      bound: the largest |sum of terms + bias + half| that any input can cause, in any
        order of addition.
      rise, fall: a table, int32 [2**T - 1, *what broadcasts to shape], see `tables`.
        Empty without one.
      routine: what a routine is told of the units of the rounded z, beside it: shift
        and factor of `routines.softmax_units`, or mantissa and exponent of
        `routines.epsilon_units`. `unit` is that of its result.
      row_unit: what 1 stands for in the rounded z of rows; only needed to compare with
        the float network.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    terms: tuple[Term, ...] = ()
    bias: np.ndarray = np.zeros((), np.int32)
    fraction: np.ndarray = np.zeros((), np.int32)
    unit: np.ndarray = np.ones(())
    bound: int = 0
    rise: np.ndarray = NO_TABLE
    fall: np.ndarray = NO_TABLE
    routine: tuple[int, int] = (0, 0)
    row_unit: float = 1.0

    @property
    def has_table(self) -> bool:
        """Whether a function stands in front of its code."""
        return self.rise.size > 0

    @property
    def half(self) -> np.ndarray:
        """The half step that makes the floor of Eq. (2) round; 0 at fraction 0.

        A table holds the rounding.
        """
        if self.has_table:
            return np.zeros((), np.int32)
        return np.left_shift(1, self.fraction) >> 1

    @property
    def sum_unit(self) -> np.ndarray:
        """What z = 1 stands for in the float network, e.g. delta / 2**fraction."""
        unit = self.row_unit if self.kind in ROWS else self.unit
        return unit / 2.0**self.fraction


@dataclasses.dataclass(frozen=True)
class IntegerNetwork(Graph):
    """What `fixed_point` makes. `execution.one_shot` and `execution.stepped` run it.

    Attributes:
      nodes: as in `Graph`.
      steps: T.
      bits: of a weight, sign included.
      white: highest integer of the input, such as that of a pixel.
      tops: highest integer of each place of the input, int64, broadcasts to its shape.
        Where that is `white` everywhere, a scalar.
    """

    nodes: tuple[IntegerNode, ...]
    steps: int
    bits: int
    white: int
    tops: np.ndarray | None = None

    @property
    def largest_weight(self) -> int:
        """The largest |weight| of a kernel: -2**(bits - 1) is left out."""
        return 2 ** (self.bits - 1) - 1

    def top(self, name: str) -> int:
        """Return the largest |value| of a node."""
        node = self[name]
        if node.kind == "maximum":
            return max(self.top(term.source) for term in node.terms)
        if node.kind == "sum":
            return (node.bound >> int(node.fraction)) + 1
        if node.kind == "softmax":
            return 1 << routines.PROBABILITY_BITS
        if node.kind == "normalised":
            return routines.largest_normalised(node.shape[-1])
        return {"input": self.white, "neurons": 2**self.steps - 1}[node.kind]

    def full(self, name: str) -> np.ndarray:
        """Return the largest |value| of each entry of a node, int64."""
        node, tops = self[name], self.tops
        top = tops if node.kind == "input" and tops is not None else self.top(name)
        return np.broadcast_to(np.asarray(top, np.int64), node.shape)

    def low(self, name: str) -> int:
        """Return the least value of a node, or a smaller number."""
        return -self.top(name) if self[name].kind in SIGNED else 0

    def __str__(self) -> str:
        rows = [("layer", "kind", "fed by", "fraction", "bound", "bits")]
        for node in self.nodes:
            low, high = node.fraction.min(), node.fraction.max()
            sources = ", ".join(" x ".join(term.sources) for term in node.terms)
            bits = str(node.bound.bit_length() + 1) if node.terms else ""
            spread = f"{low}" if low == high else f"{low}..{high}"
            rows.append(
                (node.name, node.kind, sources, spread, f"{node.bound:,}", bits)
            )
        return table(rows, names=3)


def largest_sums(node: IntegerNode, network: IntegerNetwork) -> np.ndarray:
    """Return the largest sum of |terms| and |bias| of each entry, borders seen: int64.

    Its shape broadcasts to that of the node.
    """
    with jax.enable_x64(True):
        total = np.abs(np.broadcast_to(node.bias, node.shape).astype(np.float64))
        for term in node.terms:
            full = {
                name: jnp.asarray(network.full(name), float) for name in term.sources
            }
            term = term.given(full)
            if isinstance(term.weight, Lookup):  # any row, and not the last one
                largest = np.abs(term.numbers.astype(np.float64)).max(0, keepdims=True)
                term = term._replace(weight=Lookup(largest))
            elif not isinstance(term.weight, Product):
                term = term.with_numbers(np.abs(term.numbers.astype(np.float64)))
            total = total + np.asarray(apply_term(term, full[term.source]))
    return total.astype(np.int64)


def largest_sum(node: IntegerNode, network: IntegerNetwork) -> int:
    """Return the largest of all entries."""
    return int(largest_sums(node, network).max(initial=0))
