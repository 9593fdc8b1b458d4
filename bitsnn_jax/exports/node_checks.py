"""Checks of a network of integers that comes from a file, node by node.

They apply to every format: numbers are in range, operations fit the shapes, and nothing
on the way needs more memory than a reader grants a file, however few bytes declare it.
"""

import math

import numpy as np

from bitsnn_jax.integers.graph import (
    KINDS,
    NUMBERS,
    ROWS,
    Conv,
    Held,
    Lookup,
    Max,
    Move,
    Reshape,
    Scale,
    Shift,
    Sum,
    Term,
    Weight,
    Weightless,
    WindowMax,
    WindowSum,
    out_shape,
)
from bitsnn_jax.integers.network import IntegerNetwork, IntegerNode
from bitsnn_jax.integers.products import SPIKING, held
from bitsnn_jax.integers.routines import (
    LARGEST_SCORE,
    MOST_FEATURES,
    MOST_SCORES,
    largest_to_normalise,
)
from bitsnn_jax.integers.tables import NEVER
from bitsnn_jax.numerics.spikes import check_steps
from bitsnn_jax.runtime.reading import ReadingError

# The most entries of an array on the way, and the most pairs of an entry and a place of
# a window: the most that a reader has to allocate, whatever the size of the file.
MOST = 2**24


def check_numbers(steps: int, bits: int, white: int, *, where: str) -> None:
    """Raise ReadingError unless these are the numbers of some network."""
    try:
        check_steps(steps)
    except ValueError as error:
        raise ReadingError(f"{where}: {error}") from None
    if not 2 <= bits <= 8 or not 1 <= white < 2**31:
        raise ReadingError(f"{where}: bits {bits}, levels {white} are out of range")


def check_tops(tops: np.ndarray, white: int, *, name: str) -> None:
    """Raise ReadingError unless these are largest integers of places of the input."""
    if tops.min(initial=white) < 0 or tops.max(initial=0) != white:
        raise ReadingError(
            f"{name}: tops must be 0 to {white}, and somewhere {white}, as levels says"
        )


def check_shape(name: str, kind: str, shape: tuple[int, ...]) -> None:
    """Raise ReadingError unless a node may have this name, kind and shape."""
    if not name.isprintable():
        raise ReadingError(f"{name!r}: a name must be of letters that can be printed")
    if kind not in KINDS:
        raise ReadingError(f"{name}: unknown kind {kind!r}; one of {', '.join(KINDS)}")
    if not shape or shape[0] != 1:
        raise ReadingError(f"{name}: shape must have a first axis of 1, got {shape}")
    _check_entries(shape, name, "shape")


def check_term(
    term: Term, network: IntegerNetwork, *, name: str, shape: tuple[int, ...]
) -> None:
    """Raise ReadingError unless the term makes what a node of this shape collects.

    Args:
      term: of a source that is in the network.
      network: the nodes before.
      name, shape: of the node.
    """
    if any(isinstance(op, Shift) for op in term.before):
        raise ReadingError(f"{name}: a Shift comes after the weight only")
    shifts = sum(op.amount for op in term.after if isinstance(op, Shift))
    if not 0 <= shifts <= 30:
        raise ReadingError(f"{name}: Shift must be 0 to 30, got {shifts}")
    if isinstance(term.weight, Held):
        _check_held(term.weight, network, name=name)
    elif isinstance(term.weight, Lookup):
        _check_lookup(term, network, name=name)
    elif term.has_kernel:
        limit = 2 ** (network.bits - 1) - 1
        largest = int(np.abs(term.numbers.astype(np.int32)).max(initial=0))
        if largest > limit:
            raise ReadingError(
                f"{name}: a weight of {largest} does not fit {network.bits} bits, "
                f"which end at {limit}"
            )
    made = network[term.source].shape
    for op in (*term.before, term.weight, *term.after):
        made = made_shape(op, made, name=name)
    if made != shape:
        raise ReadingError(
            f"{name}: what comes from {term.source} has shape {made}, not {shape}"
        )


def _check_lookup(term: Term, network: IntegerNetwork, *, name: str) -> None:
    """Raise ReadingError unless integers of the input name rows of the table."""
    moves = all(isinstance(op, (Move, Reshape)) for op in term.before)
    if network[term.source].kind != "input" or not moves:
        raise ReadingError(
            f"{name}: rows of a table are named by integers of the input, moved or not"
        )
    if term.numbers.ndim != 2 or not term.numbers.size:
        raise ReadingError(
            f"{name}: a table must be [rows, features], got {term.numbers.shape}"
        )


def _check_held(held: Held, network: IntegerNetwork, *, name: str) -> None:
    """Raise ReadingError unless the node that is held makes a kernel of its shape."""
    made = network[held.source].shape
    for op in held.before:
        if isinstance(op, Shift):
            raise ReadingError(f"{name}: a Shift comes after the weight only")
        made = made_shape(op, made, name=name)
    if len(held.shape) != 3 or made != held.shape:
        raise ReadingError(
            f"{name}: what it holds of {held.source} has shape {made}, not the three "
            f"axes {held.shape}"
        )


def check_node(node: IntegerNode, network: IntegerNetwork) -> None:
    """Raise ReadingError if `fixed_point` makes no node with these numbers.

    Args:
      node: whose terms have passed `check_term`.
      network: the nodes before.
    """

    def ensure(holds, text):
        if not holds:
            raise ReadingError(f"{node.name}: {text}")

    fraction, sources = node.fraction, [network[term.source] for term in node.terms]
    ensure(0 <= node.bound < 2**31, f"a bound of {node.bound} does not fit 32 bits")
    ensure(((fraction >= 0) & (fraction < 31)).all(), "fraction must be 0 to 30")
    ensure(
        (node.unit > 0).all() and np.isfinite(node.unit).all(), "unit must be above 0"
    )
    if node.kind in ("input", "maximum"):
        ensure(not node.bias.any(), f"a node of kind {node.kind!r} has no bias")
    if node.kind not in ("neurons", *NUMBERS):
        ensure(not fraction.any(), f"a node of kind {node.kind!r} has no fraction")
    if node.kind == "sum":
        ensure(fraction.size == 1, "a sum has one fraction")
    if node.kind in ROWS:
        ensure(_is_told(node), f"routine {node.routine} is out of range")
        ensure(0 < node.row_unit < math.inf, "row_unit must be above 0")
    if node.kind == "input":
        ensure(not node.terms, "the input has no terms")
    if node.kind == "maximum":
        ensure(
            node.terms
            and all(_is_plain(term) for term in node.terms)
            and all(source.kind in SPIKING for source in sources),
            "a maximum has terms of spikes, with factor 1",
        )
    else:
        inside = any(_has_maximum(term) for term in node.terms)
        ensure(not inside, "a maximum is in a node of kind 'maximum' only")
    if held(node):
        ensure(
            node.kind == "sum" and len(sources) == 1 and sources[0].kind in SPIKING,
            "a product is a sum of one term, whose source spikes",
        )
    if node.has_table or node.fall.size:
        ensure(node.kind == "neurons", "a node without neurons has no table")
        ensure(
            len(node.rise) == len(node.fall) == 2**network.steps - 1,
            f"a table has {2**network.steps - 1} rows",
        )
        ensure(
            (node.rise[1:] >= node.rise[:-1]).all()
            and (node.fall[1:] <= node.fall[:-1]).all(),
            "a table in which a higher code begins before a lower one, or ends after",
        )
        ensure(node.bound < NEVER, "a bound that no table tells from 'never'")


def check_row_sums(node: IntegerNode, sums: np.ndarray) -> None:
    """Raise ReadingError unless the routine of the node takes rows of such numbers.

    Args:
      node: softmax or normalised, which has passed `check_node`.
      sums: the largest of each entry, of `network.largest_sums`.
    """
    entries, reach = (
        node.shape[-1],
        int(((sums + node.half) >> node.fraction).max()) + 1,
    )
    if node.kind == "softmax":
        most, largest = MOST_SCORES, LARGEST_SCORE
    else:
        most, largest = MOST_FEATURES, largest_to_normalise(entries)
    if entries > most or reach > largest:
        raise ReadingError(
            f"{node.name}: rows of {entries:,} numbers of up to {reach:,}; at most "
            f"{most:,} of {largest:,} are read"
        )


def check_no_rows(
    network: IntegerNetwork, format_name: str, error: type[ValueError]
) -> None:
    """Raise the error if a format has no form for a node of the network.

    Args:
      network: to be exported.
      format_name: of a format without routines and without tables of vectors.
      error: of that format.
    """
    for node in network.nodes:
        named = any(isinstance(term.weight, Lookup) for term in node.terms)
        if node.kind in ROWS or named:
            what = f"a {node.kind} node" if node.kind in ROWS else "rows that are named"
            raise error(
                f"{node.name}: {format_name} has no form for {what}: export it to "
                "onnx or stablehlo"
            )


def _is_told(node: IntegerNode) -> bool:
    """Tell whether these are the numbers of a routine."""
    first, second = node.routine
    if node.kind == "softmax":
        return 0 <= first <= 27 and 2**15 <= second < 2**31
    return (first == 0 or 2**30 <= first < 2**31) and -92 <= second <= 29


def _is_plain(term) -> bool:
    """Tell whether it moves codes or takes their maxima, and does nothing else."""
    sums = (Sum, WindowSum, Shift)
    return (
        isinstance(term.weight, Scale)
        and bool(np.all(term.weight.factor == 1))
        and not term.after
        and not any(isinstance(op, sums) for op in term.before)
    )


def _has_maximum(term) -> bool:
    ops = (*term.before, *term.after)
    if isinstance(term.weight, Held):
        ops += term.weight.before
    return any(isinstance(op, (Max, WindowMax)) for op in ops)


def made_shape(
    op: Weightless | Weight, shape: tuple[int, ...], *, name: str
) -> tuple[int, ...]:
    """Return the shape that the operation makes of `shape`; ReadingError if none."""
    kind = type(op).__name__
    if isinstance(op, Move):
        size = int(np.prod(shape))
        if op.index.size and not (-1 <= op.index.min() and op.index.max() < size):
            raise ReadingError(f"{name}: Move: an index beyond its {size} entries")
    if isinstance(op, (Conv, WindowSum, WindowMax)):
        _check_window(op, shape, name)
    try:
        made = tuple(out_shape(op, shape))
    except (TypeError, ValueError, IndexError, OverflowError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ReadingError(f"{name}: {kind} does not fit {shape}: {reason}") from None
    if 0 in made:
        raise ReadingError(f"{name}: {kind} makes nothing of {shape}, but {made}")
    _check_entries(made, name, kind)
    return made


def _check_window(op, shape, name) -> None:
    """Check that paddings fit the window, and that no entry is seen too often.

    XLA has no limit of its own and would allocate, or count, without end.
    """
    kind = type(op).__name__
    conv = isinstance(op, Conv)
    window = op.kernel.shape[:-2] if conv else op.window
    space = shape[1:-1] if conv else shape
    one = (1,) * len(space)
    lhs, rhs = (op.lhs_dilation, op.rhs_dilation) if conv else (one, one)
    if len({*map(len, (space, window, op.strides, op.padding, lhs, rhs))}) > 1:
        raise ReadingError(f"{name}: {kind} does not fit {shape}: other axes")
    steps = (*window, *op.strides, *lhs, *rhs, op.groups if conv else 1)
    if min(steps) < 1:
        raise ReadingError(f"{name}: {kind} does not fit {shape}: a step below 1")
    padded = [
        (n - 1) * a + 1 + low + high
        for n, a, (low, high) in zip(space, lhs, op.padding, strict=True)
    ]
    if any(min(pair) < -n for n, pair in zip(padded, op.padding, strict=True)):
        raise ReadingError(f"{name}: {kind} does not fit {shape}: {op.padding}")
    reach = [(k - 1) * b + 1 for k, b in zip(window, rhs, strict=True)]
    if any(n < k for n, k in zip(padded, reach, strict=True)):
        raise ReadingError(
            f"{name}: {kind} does not fit {shape}: a window of {tuple(reach)} is "
            f"larger than {tuple(padded)}, padding included"
        )
    others = (shape[0], shape[-1]) if conv else ()
    _check_entries([*others, *padded], name, f"{kind}: padded")
    if (seen := math.prod(window) * math.prod(space)) > MOST:
        raise ReadingError(
            f"{name}: {kind}: {seen:,} pairs of an entry and a place of the window; "
            f"at most {MOST:,} are read"
        )


def _check_entries(shape, name, what) -> None:
    if (entries := math.prod(shape)) > MOST:
        raise ReadingError(
            f"{name}: {what}: {entries:,} entries; at most {MOST:,} are read"
        )
