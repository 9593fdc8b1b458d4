"""The nodes that `bitsnn_jax` adds to NIR, and how it writes arrays and names.

NIR's neurons have one threshold, are reset when they fire, and integrate and fire at
the same time. The neuron of Eq. (9) and (10) does neither, so it has its own node type,
`BitSerialIF`, with its schedule of thresholds written out. A `nir.IF` with a remark in
its metadata would run everywhere, wrongly, since readers ignore metadata. An unknown
type makes `nir.read`, and tools built on it, fail with an error instead.

At step t, edges from neurons and maxima carry `spike[t]` = 2**(T - t) for a spike and 0
for none. Edges from the input and from a `BitSerialRound` carry their integers once,
with the first step. Edges that meet are added. Between these nodes, NIR's own nodes
apply step by step, all on integers: `Conv1d`, `Conv2d`, `Linear`, `Scale`, `SumPool2d`,
`Flatten`. Where NIR has no node there is a `BitSerialGather` or a `BitSerialPool`.

Arrays are channels first and have no batch axis, as in NIR: [channels, *space] or [n],
where the layer graph has [1, *space, channels] or [1, n].

Needs the package `nir`: the extra `nir`.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import nir
import numpy as np

from bitsnn_jax.runtime.reading import ReadingError

FORMAT = "bitsnn_jax bit-serial"
VERSION = 1


class NIRError(ReadingError):
    """A network without a NIR form, or a file or graph that is none of ours."""


class _Same(nir.NIRNode):
    """A node with a bias, whose input and output have the shape of the bias."""

    bias: np.ndarray

    def __post_init__(self):
        set_types(self, self.bias.shape, self.bias.shape)


@dataclass(eq=False)
class BitSerialIF(_Same):
    """Neurons that collect for T steps and then fire for T, Eq. (9) and (10).

        u(1)   = sum_t current(t) + bias + v_init
        s(t)   = H(u(t) - v_threshold[t]),   H(0) = 1
        u(t+1) = u(t) - s(t) v_threshold[t]

    and sends spike[t] s(t). v_threshold[t] = 2**(fraction + T - t) halves at each step;
    v_init is half of the last.
    """

    v_threshold: np.ndarray  # [T, *shape]
    v_init: np.ndarray  # [*shape]
    bias: np.ndarray  # [*shape], once, not at each step
    spike: np.ndarray  # [T], 2**(T - t)
    unit: np.ndarray  # [*shape], what 1 is worth in the float network


@dataclass(eq=False)
class BitSerialTable(_Same):
    """Neurons that collect for T steps and then fire for T, by a table of thresholds.

        u    = sum_t current(t) + bias
        s(t) = rise[c - 1] <= u < fall[c - 1],   c = sum_(r<t) spike[r] s(r) + spike[t]

    and sends spike[t] s(t). 2**fraction units of u are worth one of `unit`.
    """

    rise: np.ndarray  # [2**T - 1, *shape]
    fall: np.ndarray  # [2**T - 1, *shape]
    bias: np.ndarray  # [*shape], once, not at each step
    spike: np.ndarray  # [T], 2**(T - t)
    fraction: np.ndarray  # [*shape]
    unit: np.ndarray  # [*shape], what 1 is worth in the float network


@dataclass(eq=False)
class BitSerialProduct(nir.NIRNode):
    """x [groups * K, rows], or without rows, times the numbers of another node.

    That node, `held`, has no edge to this one, for edges bring what comes step by step.
    Its sum over time is complete when the first spike of x comes. With y this sum,
    flattened, the kernel [groups, K, N] is y[index], and 0 where the index is -1. x is
    multiplied with it at each step, to [groups * N, rows].
    """

    held: str
    index: np.ndarray

    def __post_init__(self):
        set_types(self, None, None)


@dataclass(eq=False)
class BitSerialRound(_Same):
    """floor((sum_t current(t) + bias + v_init) / 2**shift), sent on once."""

    shift: np.ndarray
    v_init: np.ndarray
    bias: np.ndarray
    unit: np.ndarray


@dataclass(eq=False)
class BitSerialReadout(_Same):
    """sum_t current(t) + bias; times `unit`, the logits."""

    bias: np.ndarray
    unit: np.ndarray


@dataclass(eq=False)
class BitSerialMax(nir.NIRNode):
    """The largest that an edge brings, sent on as spikes: its binary digits.

    Edges are not added here. They bring maxima of codes, so take these of the sums over
    time.
    """

    shape: np.ndarray
    unit: np.ndarray

    def __post_init__(self):
        set_types(self, self.shape, self.shape)


@dataclass(eq=False)
class BitSerialGather(nir.NIRNode):
    """y[i] = x.flatten()[index[i]], and 0 where the index is -1."""

    index: np.ndarray

    def __post_init__(self):
        set_types(self, None, self.index.shape)


@dataclass(eq=False)
class BitSerialPool(nir.NIRNode):
    """The "sum" or "max" over windows. One entry for each axis, channels first.

    Padding is 0 in a sum and never the maximum.
    """

    kind: str
    window: np.ndarray
    strides: np.ndarray
    padding: np.ndarray  # [axes, 2]

    def __post_init__(self):
        set_types(self, None, None)


OWN = {
    node.__name__: node
    for node in (
        BitSerialIF,
        BitSerialTable,
        BitSerialProduct,
        BitSerialRound,
        BitSerialReadout,
        BitSerialMax,
        BitSerialGather,
        BitSerialPool,
    )
}
# The nodes of the integer network, by kind. The nodes of a term lie between them.
KINDS = {
    nir.Input: "input",
    BitSerialIF: "neurons",
    BitSerialTable: "neurons",
    BitSerialRound: "sum",
    BitSerialReadout: "output",
    BitSerialMax: "maximum",
}


def set_types(node: Any, inputs, outputs) -> None:
    """Set what shapes come in and go out; None where the node alone cannot tell."""
    # Any, because nir's annotations forbid the None that its own nodes use here.
    node.input_type = {"input": None if inputs is None else np.array(inputs)}
    node.output_type = {"output": None if outputs is None else np.array(outputs)}


def channels_first(x: np.ndarray) -> np.ndarray:
    """Move channels to the front as in NIR; a first axis longer than 1 is no batch."""
    if x.ndim < 2:
        return x.reshape(-1)
    return np.moveaxis(x[0] if x.shape[0] == 1 else x, -1, 0)


def channels_last(x: np.ndarray) -> np.ndarray:
    """Move the channels of an array of NIR to the back: [1, *space, channels]."""
    return np.moveaxis(x, 0, -1)[None]


def nir_places(shape: tuple[int, ...]) -> np.ndarray:
    """Find for each place of the array in NIR its place in the array here."""
    return channels_first(np.arange(math.prod(shape)).reshape(shape)).reshape(-1)


def nir_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape in NIR of an array of this shape here."""
    return channels_first(np.empty(shape, np.bool_)).shape


def quoted(name: str) -> str:
    """Quote the name of a layer for a node of NIR.

    >>> quoted("block_0/neuron:1")
    'block_0%2Fneuron%3A1'
    """
    # A slash would make nested groups in HDF5; colons end our own names.
    for character in "%/:":
        name = name.replace(character, f"%{ord(character):02X}")
    return name


def unquoted(name: str) -> str:
    """Undo `quoted`."""
    for character in ":/%":
        name = name.replace(f"%{ord(character):02X}", character)
    return name


def thresholds(fraction: np.ndarray, spike: np.ndarray) -> np.ndarray:
    """Compute `BitSerialIF.v_threshold`: spike[t] 2**fraction, [T, *shape]."""
    return np.stack([w << fraction.astype(np.int64) for w in spike])


def ints(entries: Iterable) -> tuple[int, ...]:
    """Turn a row of an array into Python's integers."""
    return tuple(int(entry) for entry in entries)
