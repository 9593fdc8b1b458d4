"""One layer of a network in integers as a circuit: its sizes and its memories.

The circuit is made of two modules, `verilog_neurons.sv` and `verilog_synapses.sv`.
`design` finds their parameters and the contents of their memories from the layer;
`verilog_text` writes the module that connects them.
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from bitsnn_jax.exports.verilog_routes import Routes, VerilogError, routes
from bitsnn_jax.integers.graph import Lookup, Term
from bitsnn_jax.integers.network import IntegerNetwork, IntegerNode


class Input(NamedTuple):
    """A term, and how its source is sent: bits of codes or numbers, one a step.

    Attributes:
      source: name of the node.
      routes: to the layer.
      planes: steps that it takes: T for spikes, as many as a number has bits.
      is_signed: numbers in two's complement, whose first bit counts negative.
    """

    source: str
    routes: Routes
    planes: int
    is_signed: bool

    @property
    def weight_bits(self) -> int:
        """Bits of a weight, sign included."""
        return _signed_bits(self.routes.rows)


@dataclasses.dataclass(frozen=True)
class Design:
    """The circuit of one layer.

    Attributes:
      node: the layer.
      inputs: its terms.
      steps: of spikes that it fires; 1 where it sends numbers.
      biases: [positions, or 1, lanes], half a threshold included.
      fractions: of each lane.
      width: bits of a membrane, sign included: what `node.bound` and the largest
        threshold need together.
    """

    node: IntegerNode
    inputs: tuple[Input, ...]
    steps: int
    biases: np.ndarray
    fractions: np.ndarray
    width: int

    @property
    def lanes(self) -> int:
        """Neurons that work side by side: the channels."""
        return len(self.fractions)

    @property
    def positions(self) -> int:
        """Places that the lanes go through one after the other."""
        return math.prod(self.node.shape) // self.lanes

    @property
    def has_spikes(self) -> bool:
        """Whether it sends spikes, and not numbers."""
        return self.node.kind == "neurons"

    @property
    def planes(self) -> int:
        """Steps in which it collects: those of its longest input."""
        return max(given.planes for given in self.inputs)

    @property
    def weight_bits(self) -> int:
        """Bits of what is added to a membrane in a cycle, sign included."""
        return max(given.weight_bits + given.routes.shift for given in self.inputs)

    @property
    def out_bits(self) -> int:
        """Bits of a lane that go out in a step."""
        return 1 if self.has_spikes else self.width

    def memories(self) -> dict[str, str]:
        """Return the contents of the files that `$readmemh` reads, by name."""
        files = {"bias.hex": hex_words(self.biases, self.width)}
        for k, given in enumerate(self.inputs):
            last, used, row, source = given.routes.lines.T
            # One word: last, used, row, source.
            words = source + (row << _address_bits(given.routes.sources))
            above = _address_bits(given.routes.sources) + _address_bits(
                len(given.routes.rows)
            )
            words += (used << above) + (last << (above + 1))
            files[f"walk_{k}.hex"] = hex_words(words[:, None], above + 2)
            files[f"rows_{k}.hex"] = hex_words(given.routes.rows, given.weight_bits)
        return files


def design(network: IntegerNetwork, node: IntegerNode) -> Design:
    """Make the circuit of a layer.

    Args:
      network: of `fixed_point`.
      node: a layer of it.

    Raises:
      VerilogError: a layer that does not fit, in one line with its name.
    """
    try:
        return _design(network, node)
    except VerilogError as error:
        raise VerilogError(f"{node.name}: {error}") from None


def _design(network: IntegerNetwork, node: IntegerNode) -> Design:
    if node.kind not in ("neurons", "sum", "output"):
        raise VerilogError(f"a node of kind {node.kind} has no circuit")
    if node.has_table:
        raise VerilogError("neurons with a table of thresholds have no circuit")
    if not node.terms:
        raise VerilogError("no term feeds it")
    if any(isinstance(term.weight, Lookup) for term in node.terms):
        raise VerilogError("rows of a table, named by the input, have no circuit")
    lanes = node.shape[-1] if len(node.shape) > 1 else 1
    fractions = np.broadcast_to(node.fraction, node.shape).reshape(-1, lanes)
    if (fractions != fractions[0]).any():
        raise VerilogError("thresholds that differ between positions")
    half = 0 if node.kind == "output" else node.half
    biases = np.broadcast_to(node.bias.astype(np.int64) + half, node.shape)
    biases = biases.reshape(-1, lanes)
    steps = network.steps if node.kind == "neurons" else 1
    # Where a threshold is subtracted, the membrane falls to -(bound + threshold).
    threshold = 2 ** (int(fractions.max()) + steps - 1)
    inputs = tuple(_input(network, node, term) for term in node.terms)
    made = Design(
        node,
        inputs,
        steps,
        biases if (biases != biases[0]).any() else biases[:1],
        fractions[0],
        (node.bound + threshold).bit_length() + 1,
    )
    # Weights that only padding would meet do not count in the bound.
    return dataclasses.replace(made, width=max(made.width, made.weight_bits))


def _input(network: IntegerNetwork, node: IntegerNode, term: Term) -> Input:
    source = network[term.source]
    top = network.top(term.source)
    is_signed = network.low(term.source) < 0
    planes = top.bit_length() + is_signed
    if source.kind in ("neurons", "maximum"):
        planes = network.steps
    return Input(term.source, routes(term, source.shape, node.shape), planes, is_signed)


def hex_words(values: np.ndarray, bits: int) -> str:
    """Write a line in hexadecimal for each row; its first entry is the lowest bits.

    >>> hex_words(np.array([[1, -1], [2, 0]]), 4)
    'f1\\n02\\n'
    """
    values = np.asarray(values, np.int64)
    places = np.arange(bits)
    planes = (values[..., None] >> np.minimum(places, 63)) & 1
    flat = planes.reshape(len(values), -1).astype(np.uint8)
    rows = np.packbits(flat, axis=-1, bitorder="little")[:, ::-1]
    digits = -(-flat.shape[1] // 4)
    return "".join(f"{row.tobytes().hex()[-digits:]}\n" for row in rows)


def _signed_bits(values: np.ndarray) -> int:
    """Find how many bits hold all values, sign included."""
    return int(np.abs(values.astype(np.int64)).max(initial=0)).bit_length() + 1


def _address_bits(count: int) -> int:
    return max(1, (count - 1).bit_length())
