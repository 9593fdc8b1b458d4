"""A second, independent reading of an exported network: spikes, walked one by one.

    python referee.py FOLDER [--limit N] [--accumulator BITS [--overflow wrap]]
                             [--coding signed_digits]

reads a folder of `bundle_writer.save` (see docs/format.md), runs its test vectors,
compares every spike and every output, and prints what each layer did. It needs NumPy
only, so this file can be copied to where the hardware is. It shares no code with the
rest of the package.

Every spike is an address: its place in the flattened layer that sent it, channels last.
An address takes three steps:

1. routes: a table maps the address to none, one or several addresses. This covers
   reshaping, moving, summing and pooling.
2. synapses: each address adds one row of weights for each place of the kernel that
   sees it. Nothing is multiplied. In a product of two nodes, the rows are the numbers
   of the other node. Where integers of the input name rows of a table, these are added.
3. routes again, from the sums of rows to the neurons.

The sum of step t is shifted left by T - t and added to the membranes. Then the neurons
compare and subtract, or compare with a table. The image and nodes of kind "sum",
"softmax" and "normalised" are numbers instead of spikes: they take the same three
steps, once, and multiply the rows. The last two come from a routine in integers, which
goes over each row of sums.

Operations are counted where they happen; see `Counts`.

With --accumulator, membranes are held in so many bits; see `hold`. Then it reports how
many codes and outputs are others than in the test vectors.

With --coding signed_digits, neurons send digits of -1, 0 and 1 in place of bits, the
same codes in T + 1 steps, by the non-adjacent form. A spike of -1 takes rows away.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FORMAT, VERSION = "bitsnn", 4
OVERFLOWS = ("saturate", "wrap")
CODINGS = ("bits", "signed_digits")
ROWS = ("softmax", "normalised")  # a routine makes their values, row by row
NUMBERS = ("input", "sum", *ROWS)  # values of these kinds of node have no time
KINDS = ("neurons", "maximum", *NUMBERS, "output")
ALWAYS, NEVER = -(2**31), 2**31 - 1  # in a table: at every sum, at none
# Limits on entries of an array on the way, and on pairs of an entry and its target, or
# of an entry and a place of a window. All nodes together may have this many, or four
# for each byte of the folder: test vectors alone have one for each.
MOST, MOST_STEPS, MOST_OF_SMALL = 2**23, 30, 2**22
# What a routine does: products and additions of integers for each entry, and the same
# two for each row. Shifts, comparisons and subtractions count as additions. A quotient
# is found bit by bit: 16 bits of a shift, a comparison and a subtraction.
ROUTINES = {"softmax": (6, 112, (0, 0)), "normalised": (4, 64, (20, 219))}
STORED = {"kernel": "i1", "factor": "i2", "index": "i4"}
STORED |= {"bias": "i4", "fraction": "i4", "unit": "f8", "rise": "i4", "fall": "i4"}
STORED |= {"tops": "i8"}
# Of safetensors, little endian.
DTYPES = {
    **{"I8": "<i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"},
    **{"U8": "<u1", "U16": "<u2", "U32": "<u4", "BOOL": "?"},
    **{"F32": "<f4", "F64": "<f8"},
}


class RefereeError(ValueError):
    """A folder that cannot be read, or that contradicts itself."""


# Routes: where addresses go.


class Routes(NamedTuple):
    """Address a goes on to targets[starts[a]:starts[a + 1]]. `shape` is of the targets.

    `origins` has, for each target, the address that goes there.
    """

    starts: np.ndarray
    targets: np.ndarray
    origins: np.ndarray
    shape: tuple[int, ...]


def follow(routes: Routes, addresses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (which, targets): addresses[which[i]] goes to targets[i]."""
    first = routes.starts[addresses]
    count = routes.starts[addresses + 1] - first
    check(count.sum() <= MOST, f"{count.sum():,} pairs, more than {MOST:,}")
    which = np.repeat(np.arange(len(addresses)), count)
    nth = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
    return which, routes.targets[first[which] + nth]


def table(origins, targets, sources: int, shape) -> Routes:
    order = np.argsort(origins, kind="stable")
    origins, targets = origins[order], targets[order]
    starts = np.searchsorted(origins, np.arange(sources + 1))
    return Routes(starts, targets, origins, tuple(shape))


def route(ops: list[dict], shape: tuple[int, ...]) -> Routes:
    """Combine several operations on an array of `shape` into one table."""
    size = math.prod(shape)
    origins = targets = np.arange(size)
    for op in ops:
        sources = math.prod(shape)
        begin, end, shape = pairs_of(op, shape)
        check_entries(shape)
        which, targets = follow(table(begin, end, sources, shape), targets)
        origins = origins[which]
    return table(origins, targets, size, shape)


def pairs_of(
    op: dict, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """Return (origins, targets, shape of the result) of one operation.

    A sum and a maximum have the same routes; they differ at the target.
    """
    every = np.arange(math.prod(shape))
    kind = op["op"]
    if kind == "Shift":  # of values, not of addresses: see `Term.shift`
        return every, every, shape
    if kind == "Reshape":
        check(math.prod(op["shape"]) == every.size, f"{shape} to {op['shape']}")
        return every, every, tuple(op["shape"])
    if kind == "Move":
        index = op["index"].reshape(-1)
        check(index.size > 0, "a move of nothing")
        check(-1 <= index.min() and index.max() < every.size, "an index beyond")
        targets = np.flatnonzero(index >= 0)
        return index[targets], targets, op["index"].shape
    if kind in ("Sum", "Max"):
        axes = op["axes"]
        check(len({*axes}) == len(axes) and {*axes} <= {*range(len(shape))}, "axes")
        kept = [1 if axis in op["axes"] else n for axis, n in enumerate(shape)]
        target = np.arange(math.prod(kept)).reshape(kept)
        result = tuple(n for axis, n in enumerate(shape) if axis not in op["axes"])
        return every, np.broadcast_to(target, shape).reshape(-1), result
    if kind in ("WindowSum", "WindowMax"):
        plain = (1,) * len(shape)
        where, result = landings(
            shape, op["window"], op["strides"], op["padding"], plain, plain
        )
        tap, origins = np.nonzero(where >= 0)
        return origins, where[tap, origins], result
    raise RefereeError(f"unknown operation {kind!r}")


def landings(
    shape: tuple[int, ...],
    window: tuple[int, ...],
    strides: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    lhs: tuple[int, ...],
    rhs: tuple[int, ...],
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Find which output sees an address through which place of the window ("tap").

    Along one axis, output o sees the input i through tap k where

        o * stride + k * rhs = i * lhs + padding_low

    Returns:
      int [taps, addresses]: the output, -1 for none; and the shape of the outputs.
    """
    check(math.prod(window) * math.prod(shape) <= MOST, f"a window {window}")
    check_entries(
        (n - 1) * a + 1 + low + high
        for n, a, (low, high) in zip(shape, lhs, padding, strict=True)
    )
    spans = [
        (n - 1) * a + low + high - (k - 1) * b
        for n, k, a, b, (low, high) in zip(
            shape, window, lhs, rhs, padding, strict=True
        )
    ]
    result = tuple(span // s + 1 for span, s in zip(spans, strides, strict=True))
    check_entries(result)
    inputs = np.indices(shape, sparse=True)
    where = []
    for tap in itertools.product(*map(range, window)):
        output, is_seen = 0, True
        for axis, k in enumerate(tap):
            along = inputs[axis] * lhs[axis] + padding[axis][0] - k * rhs[axis]
            o, rest = np.divmod(along, strides[axis])
            is_seen = is_seen & (rest == 0) & (o >= 0) & (o < result[axis])
            output = output * result[axis] + o
        landed = np.where(is_seen, output, -1)
        where.append(np.broadcast_to(landed, shape).reshape(-1))
    return np.array(where), result


# Synapses: what an address adds.


class Synapses(NamedTuple):
    """A weight, as rows to add.

    Address a is channel c = a mod channels of position p = a div channels. Through tap
    k it adds rows[k, c] to block landing[k, p] * groups + c div (channels / groups) of
    the result, unless landing[k, p] is -1. A block is as wide as a row.
    """

    rows: np.ndarray  # [taps, channels, width]
    landing: np.ndarray  # [taps, positions]
    groups: int
    shape: tuple[int, ...]  # of the result
    is_table: bool = False  # each address is a position, and its value the channel

    @property
    def blocks(self) -> int:
        return math.prod(self.shape) // self.rows.shape[-1]


def synapses_of(weight: dict, shape: tuple[int, ...]) -> Synapses:
    """Treat Scale, Dense and Conv as the same thing, with other addresses."""
    if weight["op"] == "Scale":  # each entry is a channel, with a row of one weight
        check_entries(shape)
        factor = np.broadcast_to(weight["factor"], shape).reshape(1, -1, 1)
        return Synapses(factor, np.zeros((1, 1), int), factor.size, shape)
    if weight["op"] == "Dense":  # one tap; position p lands on row p
        kernel = weight["kernel"]
        check(len(shape) == kernel.ndim == 2, f"Dense of {shape}")
        check(shape[1] == len(kernel), f"Dense of {shape} with {kernel.shape}")
        return Synapses(
            kernel[None], np.arange(shape[0])[None], 1, (shape[0], kernel.shape[1])
        )
    if weight["op"] == "Conv":
        *window, _, outputs = weight["kernel"].shape
        groups, inputs = weight["groups"], weight["kernel"].shape[-2]
        check(groups >= 1 and outputs % groups == 0, f"{groups} groups of {outputs}")
        check(groups * inputs == shape[-1], f"Conv of {shape}, {inputs} inputs a group")
        where, positions = landings(  # the first axis, the batch, has a window of 1
            shape[:-1],
            (1, *window),
            (1, *weight["strides"]),
            ((0, 0), *weight["padding"]),
            (1, *weight["lhs_dilation"]),
            (1, *weight["rhs_dilation"]),
        )
        # [taps, input of the group, group, output of the group] -> a row per channel
        rows = weight["kernel"].reshape(-1, inputs, groups, outputs // groups)
        rows = rows.swapaxes(1, 2).reshape(len(where), inputs * groups, -1)
        return Synapses(rows, where, groups, (*positions, outputs))
    if weight["op"] == "Held":  # position p lands on row p; the rows come with a run
        groups, inner, width = weight["shape"]
        check(len(shape) == 2 and shape[1] == groups * inner, f"Held of {shape}")
        check_entries(weight["shape"])
        rows = np.zeros((1, groups * inner, width), np.int64)
        every = np.arange(shape[0])[None]
        return Synapses(rows, every, groups, (shape[0], groups * width))
    if weight["op"] == "Lookup":  # position p lands on row p
        kernel, size = weight["kernel"], math.prod(shape)
        check(kernel.ndim == 2 and kernel.size, f"a table of shape {kernel.shape}")
        check_entries((*shape, kernel.shape[1]))
        every = np.arange(size)[None]
        return Synapses(kernel[None], every, 1, (*shape, kernel.shape[1]), True)
    raise RefereeError(f"unknown operation {weight['op']!r}")


def add_rows(synapses: Synapses, addresses, values, reach) -> tuple[np.ndarray, int]:
    """Add up the rows of all addresses.

    Args:
      synapses: of the term.
      addresses: in ascending order; one may occur several times.
      values: of the addresses; None for spikes, whose rows are added unscaled.
      reach: [blocks], the entries of the node that a row added to the block reaches.

    Returns:
      The sums, flat; and the number of weights added to entries of the node.
    """
    taps, channels, width = synapses.rows.shape
    position, channel = np.divmod(addresses, channels)
    if synapses.is_table:
        position, channel, values = addresses, np.clip(values, 0, channels - 1), None
    group = channel // (channels // synapses.groups)
    sums, additions = np.zeros((synapses.blocks, width), np.int64), 0
    for tap in range(taps):
        landed = synapses.landing[tap, position]
        seen = np.flatnonzero(landed >= 0)
        if not seen.size:
            continue
        block = landed[seen] * synapses.groups + group[seen]
        rows = synapses.rows[tap, channel[seen]]
        if values is not None:
            rows = rows * values[seen, None]
        # Addresses ascend, so rows for the same block are neighbours: add these.
        first = np.flatnonzero(np.diff(block, prepend=-1))
        sums[block[first]] += np.add.reduceat(rows, first, axis=0, dtype=np.int64)
        additions += int(reach[block].sum())
    return sums.reshape(-1), additions


# The network.


@dataclasses.dataclass
class Counts:
    """The operations of a node, summed over the examples it has seen.

    Attributes:
      spikes: sent at each step, by neurons and maxima.
      synaptic_operations: additions of a weight to a membrane that a spike causes, one
        for each way from the spike to an entry: weights of 0 count, padding does not.
      multiply_accumulates: the same for the image and for sums, whatever their values.
      lookups: additions of a weight of a row that an integer of the input names.
      bias_additions: of the T parts of the bias.
      shifts: of the sum of a step, by T - t, for t < T; of terms with a `Shift`.
      compares, resets: with a threshold, and subtractions of it. A maximum has none; a
        table has up to two thresholds, and nothing is subtracted. A signed digit takes
        two comparisons where a bit takes one.
      routine_products, routine_additions: of softmax and normalising; see `ROUTINES`.
      membrane_reads, membrane_writes: one each for an addition, a read for a compare,
        a write for a reset.
      largest: the largest |membrane| seen, in its own units. A maximum, not a count.
      overflows: sums that the accumulator did not hold.
    """

    spikes: list[int] = dataclasses.field(default_factory=list)
    synaptic_operations: int = 0
    multiply_accumulates: int = 0
    lookups: int = 0
    bias_additions: int = 0
    shifts: int = 0
    compares: int = 0
    resets: int = 0
    routine_products: int = 0
    routine_additions: int = 0
    membrane_reads: int = 0
    membrane_writes: int = 0
    largest: int = 0
    overflows: int = 0

    @property
    def weight_reads(self) -> int:
        return self.synaptic_operations + self.multiply_accumulates + self.lookups


class Term(NamedTuple):
    """What one node brings to another: routes, synapses, routes."""

    source: str
    has_time: bool
    before: Routes
    synapses: Synapses
    after: Routes
    reach: np.ndarray
    shift: int
    held: str = ""  # the node that is the kernel of a product, if there is one
    kernel: Routes | None = None  # where its numbers go


class Node(NamedTuple):
    name: str
    kind: str
    shape: tuple[int, ...]
    terms: tuple[Term, ...]
    bias: np.ndarray  # this and all below: one for each entry, flat
    fraction: np.ndarray
    unit: np.ndarray
    bound: int
    table: tuple[np.ndarray, ...]  # rise and fall, [levels, places]; or none
    places: np.ndarray  # of each entry in a row of them
    routine: tuple[int, int]  # what it is told of units; (0, 0) without one

    @property
    def size(self) -> int:
        return math.prod(self.shape)


class Network(NamedTuple):
    nodes: tuple[Node, ...]
    steps: int
    levels: int
    vectors: dict[str, np.ndarray]
    coding: str = "bits"

    @property
    def signed(self) -> bool:
        return self.coding == "signed_digits"

    @property
    def times(self) -> int:
        """Steps that it takes: one more than bits for signed digits."""
        return self.steps + self.signed


class Accumulator(NamedTuple):
    """A register of so many bits, with the sign, that saturates or wraps."""

    bits: int
    overflow: str = "saturate"


class Result(NamedTuple):
    """The result of one example.

    Attributes:
      spikes: name of each node of neurons and maxima -> bool [T, *shape], or int64 in
        -1, 0, 1 [T + 1, *shape].
      outputs: name -> int64 of the shape of the node.
    """

    spikes: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]


def read(folder) -> Network:
    """Read the network of a folder, with its test vectors; {} where there are none.

    Raises:
      RefereeError: another format or version, damaged files, numbers out of range, an
        unknown operation, or one that needs more memory than a reader grants.
    """
    folder = Path(folder)
    with damaged("network.json"):
        text = read_text((folder / "network.json").read_bytes())
        steps, bits, levels, sums, entries = (
            text[name] for name in ("steps", "bits", "levels", "files", "nodes")
        )
        whole(steps, 1, MOST_STEPS, "steps")
        whole(bits, 2, 8, "bits")
        whole(levels, 1, 2**31 - 1, "levels")
        check(isinstance(sums, dict), "files is no object")
        check(isinstance(entries, list) and entries != [], "no list of nodes")
    arrays, vectors = (
        read_safetensors(folder / name, sums.get(name)) if name in needed else {}
        for name, needed in (
            ("network.safetensors", ("network.safetensors",)),
            ("vectors.safetensors", sums),
        )
    )
    files = ("network.json", "network.safetensors", *sums)
    with damaged("network.json"):
        held = sum((folder / name).stat().st_size for name in {*files})
        left = max(MOST_OF_SMALL, 4 * held)
    nodes: dict[str, Node] = {}
    for i, entry in enumerate(entries):
        with damaged(f"network.json: node {i}"):
            name = entry["name"]
            fits = isinstance(name, str) and name.isprintable() and name not in nodes
            check(fits, f"the name {name!r:.80} is of no kind, or there twice")
        with damaged(name):
            left -= math.prod(entry["shape"])
            check(left >= 0, f"more entries than {held:,} bytes of files are read for")
            nodes[name] = _node(entry, arrays, nodes, bits, steps)
    with damaged("network.json: tops"):
        tops = np.array(levels)
        if "tops" in entries[0]:
            tops = _array(entries[0], "tops", arrays)
            check(
                0 <= tops.min() and tops.max() == levels, f"they are not 0 to {levels}"
            )
        tops = np.broadcast_to(tops, nodes[entries[0]["name"]].shape)
    with damaged("vectors.safetensors"):
        _check_vectors(vectors, nodes, steps, tops)
    return Network(tuple(nodes.values()), steps, levels, vectors)


def read_text(data: bytes) -> dict:
    """Read a JSON object.

    Its "checksum" is the SHA-256 of the text with zeros in that place.
    """
    text = json.loads(data)
    check(isinstance(text, dict), "no JSON object")
    check(
        (text.get("format"), text.get("version")) == (FORMAT, VERSION),
        f"expected format {FORMAT}, version {VERSION}, got {text.get('format')!r}, "
        f"version {text.get('version')!r}: export the network anew",
    )
    digits = text.get("checksum")
    check(isinstance(digits, str) and len(digits) == 64, "there is no checksum")
    empty = data.replace(digits.encode(), b"0" * 64)
    check(hashlib.sha256(empty).hexdigest() == digits, "damaged: another checksum")
    return text


def read_safetensors(path: Path, sha256: str | None) -> dict[str, np.ndarray]:
    """Read 8 bytes, a header's length; the header, JSON; the bytes of all arrays."""
    with damaged(path.name):
        data = path.read_bytes()
        found = hashlib.sha256(data).hexdigest()
        check(found == sha256, "damaged, its checksum is another")
        end = 8 + int.from_bytes(data[:8], "little")
        header, arrays = json.loads(data[8:end]), {}
        header.pop("__metadata__", None)
        for name, entry in header.items():
            first, last = entry["data_offsets"]
            whole(first, 0, len(data) - end, f"an offset of {name}")
            whole(last, first, len(data) - end, f"an offset of {name}")
            flat = np.frombuffer(data[end + first : end + last], DTYPES[entry["dtype"]])
            arrays[name] = flat.reshape(entry["shape"])
    return arrays


@contextlib.contextmanager
def damaged(where: str) -> Iterator[None]:
    """Turn whatever stumbles over a damaged file into one line that says where."""
    try:
        yield
    except RefereeError as error:
        raise RefereeError(f"{where}: {error}") from None
    except KeyError as error:
        raise RefereeError(f"{where}: there is no {error}") from None
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        raise RefereeError(f"{where}: {type(error).__name__}: {first:.200}") from None


def check(holds, text: str) -> None:
    if not holds:
        raise RefereeError(text)


def whole(value, low: int, high: int, what: str) -> int:
    check(type(value) is int, f"{what} must be a whole number, got {value!r:.40}")
    check(low <= value <= high, f"{what} must be {low} to {high}, got {value}")
    return value


def check_entries(shape) -> None:
    """Refuse arrays without an entry, or with more than anybody allocates."""
    entries = math.prod(shape := [*map(int, shape)])
    check(all(n >= 1 for n in shape), f"a shape of {shape}")
    check(entries <= MOST, f"{entries:,} entries, more than {MOST:,}")


def _node(entry: dict, arrays: dict, nodes: dict, bits: int, steps: int) -> Node:
    kind, shape = entry["kind"], tuple(entry["shape"])
    check(kind in KINDS, f"unknown kind {kind!r:.40}")
    check(
        (kind == "input") == (not nodes), "the first node, and no other, is the input"
    )
    check_entries(shape)
    check(shape[:1] == (1,), f"a shape of {shape}, whose first axis is not 1")
    sources = [nodes[term["source"]] for term in entry["terms"]]
    check(all(source.kind != "output" for source in sources), "fed by an output")
    terms = tuple(
        _term(term, arrays, nodes, source, bits, kind)
        for term, source in zip(entry["terms"], sources, strict=True)
    )
    for term in terms:
        if term.after.shape != shape:
            raise RefereeError(f"a term of shape {term.after.shape}, not {shape}")
    bias, fraction, unit = (
        np.broadcast_to(_array(entry, field, arrays), shape).reshape(-1)
        for field in ("bias", "fraction", "unit")
    )
    bias, fraction = bias.astype(np.int64), fraction.astype(np.int64)
    check(((fraction >= 0) & (fraction <= 30)).all(), "a fraction that is not 0 to 30")
    check((np.isfinite(unit) & (unit > 0)).all(), "a unit that is not above 0")
    if kind == "maximum":
        check(terms and not any(t.shift for t in terms), "a maximum of shifted codes")
        check(all(term.has_time for term in terms), "a maximum of numbers")
    if any(term.held for term in terms):
        check(kind == "sum" and len(terms) == 1, "a product in another sum")
        check(terms[0].has_time, "a product of numbers")
    check(not (terms and kind == "input"), "an input that is fed")
    bound = whole(entry["bound"], 0, 2**31 - 1, "bound")
    table, places = _table(entry, arrays, shape, 2**steps - 1)
    check(not table or kind == "neurons", "a table without neurons")
    numbers, routine = (bias, fraction, unit, bound), (0, 0)
    if kind in ROWS:
        routine = _routine(entry["routine"], kind, shape[-1])
    return Node(entry["name"], kind, shape, terms, *numbers, table, places, routine)


def _routine(units, kind: str, entries: int) -> tuple[int, int]:
    """Check what a routine is told, and how many entries its rows have."""
    first, second = units
    if kind == "softmax":
        whole(entries, 1, 512, "entries of a row")
        return whole(first, 0, 27, "a shift"), whole(second, 2**15, 2**31 - 1, "factor")
    whole(entries, 1, 1024, "entries of a row")
    whole(first, 2**30 * (first != 0), 2**31 - 1, "a mantissa")
    return first, whole(second, -92, 29, "an exponent")


def _table(entry: dict, arrays: dict, shape, levels: int):
    """Return the two sides of the table, one row for each code; () without one."""
    if not {"rise", "fall"} & entry.keys():
        return (), np.zeros(0, int)
    rise, fall = (
        _array(entry, field, arrays).astype(np.int64) for field in ("rise", "fall")
    )
    check(rise.shape == fall.shape and len(rise) == levels, f"a table of {rise.shape}")
    check((np.diff(rise, axis=0) >= 0).all(), "a code that begins below a lower one")
    check((np.diff(fall, axis=0) <= 0).all(), "a code that ends above a lower one")
    row = np.arange(math.prod(rise.shape[1:])).reshape(rise.shape[1:])
    places = np.broadcast_to(row, shape).reshape(-1)
    return (rise.reshape(levels, -1), fall.reshape(levels, -1)), places


def _term(entry: dict, arrays: dict, nodes, source: Node, bits: int, kind: str) -> Term:
    def loaded(op):
        fields = {"kernel", "factor", "index"} & op.keys()
        for field in {"window", "strides", "lhs_dilation", "rhs_dilation"} & op.keys():
            for n in op[field]:
                whole(n, 1, 2**31, field)
        for pair in op.get("padding", ()):
            for n in pair:
                whole(n, -MOST, MOST, "padding")
        for n in (*op.get("shape", ()), *op.get("axes", ())):
            whole(n, 0, 2**31, f"{op['op']} of")
        whole(op.get("amount", 0), 0, 30, "amount")
        whole(op.get("groups", 1), 1, 2**31, "groups")
        is_maximum = op["op"] in ("Max", "WindowMax")
        check(kind == "maximum" or not is_maximum, "a maximum in a sum")
        arrays_of = {f: _array(op, f, arrays, op["op"]) for f in fields}
        wide = {f: a.astype(np.int64) for f, a in arrays_of.items() if f != "kernel"}
        return {**op, **arrays_of, **wide}

    weight = loaded(entry["weight"])
    kernel = weight.get("kernel", np.zeros(1, np.int8))
    kernel = kernel if weight["op"] != "Lookup" else np.zeros(1, np.int8)
    largest = max(int(kernel.max(initial=0)), -int(kernel.min(initial=0)))
    check(largest < 2 ** (bits - 1), f"a weight of {largest} in {bits} bits")
    if weight["op"] == "Lookup":
        moves = all(op["op"] in ("Reshape", "Move") for op in entry["before"])
        check(
            moves and source.kind == "input", "rows that no integer of the input names"
        )
    before = route([loaded(op) for op in entry["before"]], source.shape)
    synapses = synapses_of(weight, before.shape)
    after = route([loaded(op) for op in entry["after"]], synapses.shape)
    reach = np.diff(after.starts).reshape(synapses.blocks, -1).sum(1)
    shift = sum(op["amount"] for op in entry["after"] if op["op"] == "Shift")
    whole(shift, 0, 30, "the sum of shifts")
    has_time = source.kind not in NUMBERS
    term = Term(source.name, has_time, before, synapses, after, reach, shift)
    if weight["op"] != "Held":
        return term
    other = nodes[weight["source"]]
    check(other.kind != "output", "fed by an output")
    kernel = route([loaded(op) for op in weight["before"]], other.shape)
    check(list(kernel.shape) == weight["shape"], f"a kernel of {kernel.shape}")
    return term._replace(held=other.name, kernel=kernel)


def _array(entry: dict, field: str, arrays: dict, op: str = "") -> np.ndarray:
    array = arrays[entry[field]]
    expected = np.dtype("i2" if op == "Lookup" else STORED[field])
    check(array.dtype == expected, f"{field} is {array.dtype}, not {expected}")
    return array


def _check_vectors(vectors: dict, nodes: dict[str, Node], steps: int, tops) -> None:
    """Check that each is of a node, [n, ...] of its shape, and in its range."""
    expected: dict[str, tuple[Node, int, int]] = {}
    for node in nodes.values():
        if node.kind == "input":
            expected["input"] = (node, 0, int(tops.max()))
        elif node.kind == "neurons":
            expected[f"codes/{node.name}"] = (node, 0, 2**steps - 1)
        elif node.kind == "output":
            expected[f"outputs/{node.name}"] = (node, -(2**31), 2**31 - 1)
    for name, array in vectors.items():
        node, low, high = expected[name]
        check(array.dtype.kind in "iu", f"{name} is {array.dtype}")
        check(array.ndim > 0, f"{name} has no axis of examples")
        check(len(array) == len(vectors["input"]), f"{name} has {len(array)} examples")
        size = math.prod(array.shape[1:])
        check(size == node.size, f"{name} has {size} entries, its layer {node.size}")
        inside = low <= array.min(initial=low) and array.max(initial=high) <= high
        check(inside, f"{name} must be {low} to {high}")
    if vectors:
        images = vectors["input"].reshape(-1, *tops.shape[1:])
        check((images <= tops).all(), "an input above what its place may have")


# Running it.


def run(
    network: Network,
    image: np.ndarray,
    counts: dict[str, Counts] | None = None,
    accumulator: Accumulator | None = None,
) -> Result:
    """Run one example, spike by spike.

    Args:
      network: of `read`.
      image: integers 0..levels, without a batch axis.
      counts: by name of node; this run is added. None to skip counting.
      accumulator: of each membrane. None for one that holds every sum.

    Raises:
      RefereeError: a membrane that exceeds the bound in the file.
    """
    counts = {} if counts is None else counts
    sent: dict[str, Any] = {}  # spikes [T, size], or numbers [size]
    outputs = {}
    for node in network.nodes:
        count = counts.setdefault(node.name, Counts())
        if node.kind == "input":
            sent[node.name] = np.asarray(image, np.int64).reshape(-1)
            continue
        if node.kind == "maximum":
            sent[node.name] = _maximum(node, sent, network)
        else:
            membrane = _integrate(node, sent, network, count, accumulator)
            if node.kind == "output":
                outputs[node.name] = membrane.reshape(node.shape)
            elif node.table:
                sent[node.name] = _look_up(node, membrane, network, count)
            else:
                u = hold(membrane + half(node.fraction), accumulator, count)
                if node.kind == "neurons":
                    sent[node.name] = _fire(node, u, network, count)
                elif node.kind == "sum":
                    sent[node.name] = u >> node.fraction
                else:
                    sent[node.name] = _by_rows(node, u >> node.fraction, count)
        if node.kind in ("neurons", "maximum"):
            fired = [int(np.count_nonzero(spikes)) for spikes in sent[node.name]]
            count.spikes = [
                a + b
                for a, b in zip(count.spikes or [0] * len(fired), fired, strict=True)
            ]
    spikes = {
        node.name: sent[node.name].reshape(-1, *node.shape)
        for node in network.nodes
        if node.kind in ("neurons", "maximum")
    }
    return Result(spikes, outputs)


def hold(
    total: np.ndarray, accumulator: Accumulator | None, count: Counts
) -> np.ndarray:
    """Return what is left of each sum in a register that may be too narrow.

    Each of these lines is one addition to the register u, which then is limited:

        u = all that the image and nodes of kind "sum" bring
        u += (all spikes of step t) << (T - t), and part t of the bias    for t = 1..T
        u += half

    A register that wraps gives the same if it is limited after every single weight.
    """
    if accumulator is None:
        return total
    count.largest = max(count.largest, int(np.abs(total).max(initial=0)))
    top = 1 << (accumulator.bits - 1)
    if accumulator.overflow == "saturate":
        held = np.clip(total, -top, top - 1)
    else:
        held = (total + top) % (2 * top) - top
    count.overflows += int(np.count_nonzero(held != total))
    return held


def half(fraction: np.ndarray) -> np.ndarray:
    """Return the half step that makes cutting off into rounding; 0 at fraction 0."""
    return (1 << fraction) >> 1


def bias_part(bias: np.ndarray, t: int, steps: int) -> np.ndarray:
    """Return the part of step t = 1..T: floor(bias / T), 1 more in the first steps."""
    low, rest = np.divmod(bias, steps)
    return low + (t <= rest)


def _integrate(
    node: Node, sent, network: Network, count: Counts, accumulator: Accumulator | None
) -> np.ndarray:
    """Integrate all steps: what all spikes, numbers and the bias bring."""
    times = network.times
    membrane = np.zeros(node.size, np.int64)
    terms = [_given(term, sent) for term in node.terms]
    for term in terms:
        if not term.has_time:  # enters once
            every = np.arange(sent[term.source].size)
            membrane += _bring(term, every, sent[term.source], count)
    membrane = hold(membrane, accumulator, count)
    timed = [term for term in terms if term.has_time]
    for t in range(1, times + 1):
        current = np.zeros(node.size, np.int64)
        for term in timed:
            spikes = sent[term.source][t - 1]
            addresses = np.flatnonzero(spikes)
            signs = spikes[addresses] if network.signed else None
            current += _bring(term, addresses, signs, count)
        if timed and t < times:
            current <<= times - t
            count.shifts += current.size
        membrane += current
        membrane += bias_part(node.bias, t, times)
        _read_and_write(count, node.size)
        count.bias_additions += node.size
        count.largest = max(count.largest, int(np.abs(membrane).max(initial=0)))
        membrane = hold(membrane, accumulator, count)
    most = _bound(node, network)
    if count.largest > most:
        raise RefereeError(
            f"{node.name}: a membrane of {count.largest:,}, above the bound {most:,} "
            "of the file"
        )
    return membrane


def _bound(node: Node, network: Network) -> int:
    """Return the largest |membrane|, by the file.

    The first digit of a code may be worth more than the code, up to the double.
    """
    return node.bound << network.signed


def _given(term: Term, sent) -> Term:
    """Put the numbers of the other node of a product into the rows."""
    if term.kernel is None:
        return term
    numbers, rows = sent[term.held], np.zeros(math.prod(term.kernel.shape), np.int64)
    numbers = pack(numbers) if numbers.ndim == 2 else numbers  # spikes, all sent
    np.add.at(rows, term.kernel.targets, numbers[term.kernel.origins])
    rows = rows.reshape(term.synapses.rows.shape)
    return term._replace(synapses=term.synapses._replace(rows=rows))


def _bring(term: Term, addresses, values, count: Counts) -> np.ndarray:
    """Return what the term brings to each entry of its node, for a step's addresses."""
    which, addresses = follow(term.before, addresses)
    order = np.argsort(addresses, kind="stable")
    if values is not None:
        values = values[which[order]]
    sums, additions = add_rows(term.synapses, addresses[order], values, term.reach)
    _read_and_write(count, additions)
    if term.synapses.is_table:
        count.lookups += additions
    elif term.has_time:
        count.synaptic_operations += additions
    else:
        count.multiply_accumulates += additions
    current = np.zeros(math.prod(term.after.shape), np.int64)
    np.add.at(current, term.after.targets, sums[term.after.origins])
    if term.shift:
        current <<= term.shift
        count.shifts += current.size
    return current


def _fire(node: Node, u, network: Network, count: Counts) -> np.ndarray:
    """Fire the code of floor(u / 2**fraction), [T, size].

    With c the value of what is sent so far, u - c 2**fraction is left in the membrane.
    """
    spikes = _send(lambda c: u >= c << node.fraction, u.size, network)
    _compare(u.size, network, count)
    fired = int(np.count_nonzero(spikes))
    count.resets += fired
    count.membrane_writes += fired
    return spikes


def _look_up(node: Node, u, network: Network, count: Counts) -> np.ndarray:
    """Fire the code whose window u is in: c or more where rise <= u < fall of row c.

    The first row of the file is that of c = 1.
    """
    rise, fall = node.table

    def reaches(c):
        row = np.clip(c - 1, 0, len(rise) - 1)
        return (rise[row, node.places] <= u) & (u < fall[row, node.places])

    looks = max(1, sum([(rise != ALWAYS).any(), (fall != NEVER).any()]))
    _compare(looks * u.size, network, count)
    return _send(reaches, u.size, network)


def _send(reaches: Callable, size: int, network: Network) -> np.ndarray:
    """Send codes of which is known which numbers they reach: [T, size].

    With c the value of what is sent so far, at the step of weight w = 2**(T - t), for
    bits and for digits,

        s = code >= c + w
        s = (code >= c + m + 1) - (code < c - m),   m = floor(2 w / 3)

    Args:
      reaches: c of each neuron, 1 to 2**T - 1 -> whether its code is c or more.
      size: how many neurons.
      network: its T, and what it sends.
    """
    sent, spikes, most = np.zeros(size, np.int64), [], 2**network.steps - 1

    def reached(c):
        return (c < 1) | (c <= most) & reaches(c)

    for place in reversed(range(network.times)):
        weight = 1 << place
        if network.signed:
            m = 2 * weight // 3
            spikes.append(reached(sent + m + 1) - 1 * ~reached(sent - m))
        else:
            spikes.append(reached(sent + weight))
        sent += weight * spikes[-1]
    return np.array(spikes)


def _compare(thresholds: int, network: Network, count: Counts) -> None:
    """Count the comparisons of all steps; a digit has a threshold on either side."""
    compared = (1 + network.signed) * thresholds * network.times
    count.compares += compared
    count.membrane_reads += compared


def _by_rows(node: Node, z, count: Counts) -> np.ndarray:
    """Apply the routine of the node to each row of its sums; all flat."""
    rows = z.reshape(-1, node.shape[-1])
    largest = int(np.abs(rows).max()) * (rows.shape[1] if node.kind != "softmax" else 1)
    check(largest < 2**29, f"{node.name}: a row of numbers that leaves 31 bits")
    made = (softmax if node.kind == "softmax" else normalise)(rows, *node.routine)
    products, additions, of_row = ROUTINES[node.kind]
    count.routine_products += products * rows.size + of_row[0] * len(rows)
    count.routine_additions += additions * rows.size + of_row[1] * len(rows)
    return made.reshape(-1)


def softmax(z: np.ndarray, shift: int, factor: int) -> np.ndarray:
    """Divide the exponential of each entry by their sum; 1 is 2**15.

    Args:
      z: int64 [rows, n].
      shift, factor: of the file. factor 2**(-28 - shift) is the base-2 logarithm that a
        unit of z stands for.
    """
    places = min(24, 30 - (z.shape[1] - 1).bit_length())
    distance = z.max(1, keepdims=True) - z
    distance = (distance + (1 << shift >> 1)) >> shift
    high, low = divmod(factor, 2**13)
    t = (distance * high + (distance * low >> 13) + 1) >> 1
    halvings, x = np.divmod(t, 2**14)
    y = np.full_like(x, 56862)
    for coefficient in (111418, 125517, 90840):
        y = coefficient - ((x * y + 2**15) >> 16)
    power = 2**places - ((x * y + (1 << (30 - places))) >> (31 - places))
    halvings = np.minimum(halvings, 30)
    power = (power + (1 << halvings >> 1)) >> halvings
    return (power * 2**16 // power.sum(1, keepdims=True) + 1) >> 1


def normalise(z: np.ndarray, mantissa: int, exponent: int) -> np.ndarray:
    """Give each row the mean 0 and the variance 1; 1 is 2**10.

    Args:
      z: int64 [rows, n].
      mantissa, exponent: of the file. mantissa 2**exponent is added to the sum of the
        squares of n times what each entry is above the mean.
    """
    n = z.shape[1]
    centred = n * z - z.sum(1, keepdims=True)
    least = math.isqrt(int(mantissa * 2.0**exponent)) + 1
    largest = np.maximum(np.abs(centred).max(1, keepdims=True), least)
    scale = 20 - _bit_length(largest)
    fine = _scaled(centred, scale)
    coarse = (fine + 16) >> 5
    square = (coarse**2).sum(1, keepdims=True)
    square += (coarse * (fine - 32 * coarse)).sum(1, keepdims=True) >> 4
    square += mantissa >> np.clip(10 - 2 * scale - exponent, 0, 31)
    halvings = np.maximum((_bit_length(square) - 29) // 2, 0)
    square >>= 2 * halvings
    root = np.array([[math.isqrt(int(s))] for s in square[:, 0]])
    root = 32 * root + 16 * (square - root**2) // np.maximum(root, 1)
    places = next(k for k in range(15, 0, -1) if n * 4**k <= 2**30)
    divisor = np.maximum(_scaled(root, halvings + places - 15), 1)
    factor = (math.isqrt(n * 4 ** (places + 1)) + 1) >> 1
    return (coarse * factor + divisor // 2) // divisor


def _bit_length(n: np.ndarray) -> np.ndarray:
    return np.frexp(n.astype(np.float64))[1].astype(np.int64)


def _scaled(n: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return n 2**places, rounded, upwards at ties."""
    left, right = np.maximum(places, 0), np.maximum(-places, 0)
    return ((n << left) + (1 << right >> 1)) >> right


def _maximum(node: Node, sent, network: Network) -> np.ndarray:
    """Fire the largest code, [T, size]. No code is below 0."""
    largest = np.zeros(node.size, np.int64)
    for term in node.terms:
        codes = pack(sent[term.source])
        np.maximum.at(largest, term.before.targets, codes[term.before.origins])
    return unpack(largest, network)


def unpack(codes: np.ndarray, network: Network) -> np.ndarray:
    """Unpack codes into spikes, [T, ...], the most significant first.

    An odd code ends in the digit that leaves a multiple of 4, so that the next is 0.
    """
    if not network.signed:
        places = range(network.steps - 1, -1, -1)
        return np.array([(codes >> place) & 1 == 1 for place in places])
    spikes = []
    for _ in range(network.times):
        spikes.append(np.where(codes % 2 == 1, 2 - codes % 4, 0))
        codes = (codes - spikes[-1]) // 2
    return np.array(spikes[::-1])


def pack(spikes: np.ndarray) -> np.ndarray:
    """Pack spikes [T, ...] into codes."""
    codes = np.zeros(spikes.shape[1:], np.int64)
    for spike in spikes:
        codes = (codes << 1) + spike
    return codes


def _read_and_write(count: Counts, times: int) -> None:
    count.membrane_reads += times
    count.membrane_writes += times


# The verdict.


def compare(
    network: Network, limit: int | None = None
) -> tuple[dict[str, Counts], int, str]:
    """Compare the test vectors of the folder with a run of them.

    Returns:
      counts by node; spikes compared and found equal; the first difference in words,
      "" where all agree.

    Raises:
      RefereeError: no test vectors, and what `run` raises.
    """
    expectations = expected_arrays(network)
    counts: dict[str, Counts] = {}
    agreed = 0
    for i, image in enumerate(network.vectors["input"][:limit]):
        result = run(network, image, counts)
        for node, arrays in expectations:
            expected = arrays[i]
            if node.kind == "neurons":
                mine = result.spikes[node.name]
                theirs = unpack(expected.astype(np.int64), network)
            else:
                mine, theirs = result.outputs[node.name], expected
            theirs = theirs.reshape(mine.shape)
            if (mine != theirs).any():
                place = tuple(int(n) for n in np.argwhere(mine != theirs)[0])
                words = f"expected {int(theirs[place])}, got {int(mine[place])}"
                if node.kind == "neurons":
                    step, *place = place
                    words = f"step {step + 1}: {words}"
                words = f"{node.name}, example {i}, entry {(*place,)[1:]}, {words}"
                return counts, agreed, words
            agreed += int(np.count_nonzero(mine)) if node.kind == "neurons" else 0
    return counts, agreed, ""


def expected_arrays(network: Network) -> list[tuple[Node, np.ndarray]]:
    """Return the test vectors of each node that has some.

    Raises:
      RefereeError: vectors that are missing.
    """
    names = {"neurons": "codes/", "output": "outputs/"}
    compared = {names[n.kind] + n.name: n for n in network.nodes if n.kind in names}
    for name in ("input", *compared):
        if name not in network.vectors:
            raise RefereeError(f"vectors.safetensors: no {name!r} to compare with")
    return [(node, network.vectors[name]) for name, node in compared.items()]


class Limited(NamedTuple):
    """What an accumulator makes of the test vectors.

    Attributes:
      counts: by name of node.
      differing: codes, or outputs, of each node that are others.
      compared: how many there are.
      decisions: places of the largest outputs that are others.
    """

    counts: dict[str, Counts]
    differing: dict[str, int]
    compared: dict[str, int]
    decisions: int


def limited(
    network: Network, accumulator: Accumulator, limit: int | None = None
) -> Limited:
    """Run the test vectors with an accumulator and count what becomes another.

    Raises:
      RefereeError: no test vectors, and what `run` raises.
    """
    expectations = expected_arrays(network)
    found = Limited({}, {}, {}, 0)
    for i, image in enumerate(network.vectors["input"][:limit]):
        result = run(network, image, found.counts, accumulator)
        for node, arrays in expectations:
            if node.kind == "neurons":
                mine = pack(result.spikes[node.name])
            else:
                mine = result.outputs[node.name]
            mine, theirs = mine.reshape(-1), arrays[i].reshape(-1)
            for count, more in (
                (found.differing, int((mine != theirs).sum())),
                (found.compared, mine.size),
            ):
                count[node.name] = count.get(node.name, 0) + more
            if node.kind == "output" and mine.argmax() != theirs.argmax():
                found = found._replace(decisions=found.decisions + 1)
    return found


def limited_report(network: Network, found: Limited) -> str:
    """Make a table with a row for each node that has a membrane."""
    rows: list[list[str]] = [
        [*"layer kind entries largest overflows differing".split()]
    ]
    for node in network.nodes:
        if node.kind in ("input", "maximum"):
            continue
        count, differing = found.counts[node.name], ""
        if node.name in found.differing:
            differing = f"{found.differing[node.name]:,}"
        numbers = (node.size, count.largest, count.overflows)
        rows.append([node.name, node.kind, *(f"{n:,}" for n in numbers), differing])
    return columns(rows)


def report(network: Network, counts: dict[str, Counts]) -> str:
    """Make a table with a row for each node; bits of the membrane: used / promised."""
    head = "layer kind entries spikes synaptic MACs bias shifts compares resets bits"
    rows: list[list[str]] = [[*head.split()]]
    for node in network.nodes:
        c = counts[node.name]
        numbers = (c.synaptic_operations, c.multiply_accumulates, c.bias_additions)
        numbers += (c.shifts, c.compares, c.resets)
        most = _bound(node, network)
        used, promised = (n.bit_length() + 1 for n in (c.largest, most))
        rows.append(
            [
                node.name,
                node.kind,
                f"{node.size:,}",
                " ".join(f"{n:,}" for n in c.spikes),
                *(f"{n:,}" for n in numbers),
                f"{used}/{promised}" if c.largest else "",
            ]
        )
    return columns(rows)


def columns(rows: list[list[str]]) -> str:
    """Write rows as lines, each column as wide as its longest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


class _Parser(argparse.ArgumentParser):
    """Wrong options are one line, as all errors are."""

    def error(self, message):
        self.exit(2, f"error: {message}\n")


def main(arguments: list[str] | None = None) -> int:
    """Return 0 if all agree, 1 if they differ, 2 if the folder cannot be read."""
    parser = _Parser(description="Runs an exported network on NumPy.")
    parser.add_argument(
        "folder", help="written by bitsnn_jax.exports.bundle_writer.save"
    )
    parser.add_argument("--limit", type=int, help="of test vectors; default all")
    parser.add_argument(
        "--accumulator", type=int, metavar="BITS", help="of each membrane, 2 to 32"
    )
    parser.add_argument("--overflow", choices=OVERFLOWS, help="of it; default saturate")
    parser.add_argument("--coding", choices=CODINGS, default="bits", help="of spikes")
    options = parser.parse_args(arguments)
    if not options.folder.strip():
        parser.error("folder must not be empty")
    if options.limit is not None and options.limit < 1:
        parser.error(f"--limit must be at least 1, got {options.limit}")
    if options.accumulator is None:
        accumulator = None
        if options.overflow:
            parser.error("--overflow needs --accumulator: it is of those bits")
    else:
        accumulator = Accumulator(options.accumulator, options.overflow or "saturate")
        if not 2 <= accumulator.bits <= 32:
            parser.error(f"--accumulator must be 2 to 32, got {accumulator.bits}")
    try:
        network = read(options.folder)._replace(coding=options.coding)
        if accumulator is None:
            return _judge(network, options.limit)
        return _judge_limited(network, accumulator, options.limit)
    except RefereeError as error:
        line = " ".join(f"{options.folder}: {error}".split())
        print(f"error: {line}", file=sys.stderr)
        return 2


def _judge(network: Network, limit: int | None) -> int:
    counts, agreed, difference = compare(network, limit)
    if difference:
        print(f"{agreed:,} spikes agree, then {difference}")
        return 1
    print(report(network, counts))
    examples = len(network.vectors["input"][:limit])
    print(f"all {agreed:,} spikes agree, and all outputs ({examples} examples)")
    return 0


def _judge_limited(
    network: Network, accumulator: Accumulator, limit: int | None
) -> int:
    found = limited(network, accumulator, limit)
    print(limited_report(network, found))
    outputs = {node.name for node in network.nodes if node.kind == "output"}
    examples = len(network.vectors["input"][:limit])
    words = [
        f"{sum(found.differing[n] for n in names):,} of "
        f"{sum(found.compared[n] for n in names):,} {noun}"
        for noun, names in (
            ("codes", found.differing.keys() - outputs),
            ("outputs", outputs),
        )
    ]
    print(
        f"{accumulator.bits} bits, {accumulator.overflow}: {' and '.join(words)} are "
        f"others, and {found.decisions} of {examples * len(outputs)} largest outputs "
        f"({examples} examples)"
    )
    return int(any(found.differing.values()))


if __name__ == "__main__":
    sys.exit(main())
