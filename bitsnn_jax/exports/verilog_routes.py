"""Where the spikes of a term go, as the lines that a circuit walks over.

A layer is seen as positions, each with a lane for each channel. For each position,
`routes` lists the positions of the source whose spikes it takes, and the rows of
weights that these go through. Convolutions, pools and other moves are all such lists.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from bitsnn_jax.integers.graph import (
    Conv,
    Dense,
    Move,
    Reshape,
    Scale,
    Shift,
    Sum,
    Term,
    WindowSum,
    padded,
)
from bitsnn_jax.runtime.reading import ReadingError

MOST = 2**22  # entries of a source on their way to a layer


class VerilogError(ReadingError):
    """A layer that does not fit the circuits of this package."""


@dataclasses.dataclass(frozen=True)
class Routes:
    """The way of one term from its source to its layer.

    Attributes:
      sources: positions of the source.
      channels: entries of such a position.
      lanes: channels of the layer.
      rows: [rows, fan] weights. A spike of channel c that comes by a line with the row
        r goes through row r + c and reaches `fan` lanes: all, or those of its group.
      lines: int [lines, 4]: last of its position, used, first row, source. Each
        position of the layer has at least one, in order.
      at_once: every line brings one row, and each lane takes the weight for the spike
        of its own channel.
      wires: the channel that each lane listens to, if `at_once`; -1 for none.
      shift: to the left, of all weights.
    """

    sources: int
    channels: int
    lanes: int
    rows: np.ndarray
    lines: np.ndarray
    at_once: bool
    wires: np.ndarray
    shift: int


def routes(term: Term, source: Sequence[int], target: Sequence[int]) -> Routes:
    """Find the routes of a term.

    Args:
      term: with a convolution, a dense layer or a factor.
      source: shape of the node that feeds it, with a first axis of 1.
      target: shape of the node that it feeds.

    Raises:
      VerilogError: an operation or a move of channels that the circuit has not; without
        the name of the layer.
    """
    x = np.arange(math.prod(source), dtype=np.int32).reshape(*source, 1)
    for op in term.before:
        x = _moved(op, x)
    weight = term.weight
    at_once = isinstance(weight, Scale)
    if isinstance(weight, Conv):
        x = _windows(weight, x)  # [positions..., taps, inputs, ways]
        shape = (*x.shape[:-3], weight.kernel.shape[-1])
        at_once = weight.groups == weight.kernel.shape[-1] == x.shape[-2]
        rows = weight.kernel.reshape(-1, weight.kernel.shape[-1])
        x = x.reshape(-1, *x.shape[-3:])
        if not at_once:
            rows = _rows_of_groups(weight)
            x = x.reshape(len(x), -1, x.shape[-1])
    elif isinstance(weight, Dense):
        shape, rows = (*x.shape[:-2], weight.kernel.shape[-1]), weight.kernel
        x = x.reshape(-1, *x.shape[-2:])
    elif isinstance(weight, Scale):
        shape = x.shape[:-1]
        rows = np.broadcast_to(weight.factor, shape).reshape(-1, shape[-1])
        x = x.reshape(-1, 1, *x.shape[-2:])
    else:
        raise VerilogError("a product of two nodes has no weights of its own")
    channels = source[-1] if len(source) > 1 else 1
    if at_once:
        wires, words = _wired(x, channels)
        taps = np.arange(x.shape[1])
        # A factor that differs between positions has a row for each.
        differs = isinstance(weight, Scale) and (rows != rows[0]).any()
        first = np.arange(len(x))[:, None] if differs else taps
        rows = rows if differs else rows[: x.shape[1]]
    else:
        wires = np.full(0, -1)
        channels, words = _words(x, channels)
        first = np.arange(words.shape[1]) * channels
        grouped = isinstance(weight, Conv) and weight.groups > 1
        if grouped and channels != weight.kernel.shape[-2] * weight.groups:
            raise VerilogError("a convolution by groups of channels that have moved")
    first = np.broadcast_to(first[..., None], words.shape)
    order, shift = _placed(term.after, shape, target)
    return Routes(
        math.prod(source) // channels,
        channels,
        target[-1],
        np.ascontiguousarray(rows),
        _lines(words, first, order),
        at_once,
        wires,
        shift,
    )


def _moved(op: Any, x: np.ndarray) -> np.ndarray:
    """Apply an operation to the entries that each place takes, [*shape, ways]."""
    if isinstance(op, Reshape):
        x = x.reshape(*op.shape, x.shape[-1])
    elif isinstance(op, Move):
        flat = x.reshape(-1, x.shape[-1])
        x = np.where(op.index[..., None] >= 0, flat[np.maximum(op.index, 0)], -1)
    elif isinstance(op, Sum):
        axes = [axis % (x.ndim - 1) for axis in op.axes]
        kept = [axis for axis in range(x.ndim - 1) if axis not in axes]
        shape = [x.shape[axis] for axis in kept]
        x = x.transpose(*kept, *axes, x.ndim - 1).reshape(*shape, -1)
    elif isinstance(op, WindowSum):
        x = np.pad(x, (*op.padding, (0, 0)), constant_values=-1)
        axes = tuple(range(x.ndim - 1))
        x = sliding_window_view(x, op.window, axes)
        x = x[tuple(slice(None, None, stride) for stride in op.strides)]
        x = x.reshape(*x.shape[: len(axes)], -1)
    else:
        raise VerilogError(f"a {type(op).__name__} has no circuit")
    if x.size > MOST:
        raise VerilogError(f"{x.size:,} connections of positions; at most {MOST:,} fit")
    return x


def _windows(conv: Conv, x: np.ndarray) -> np.ndarray:
    """List what each output sees: [1, *positions, taps, inputs, ways]."""
    *window, _, _ = conv.kernel.shape
    ways = []
    for way in np.moveaxis(x, -1, 0):
        way = np.asarray(padded(conv, way, -1)[1])
        span = [(n - 1) * d + 1 for n, d in zip(window, conv.rhs_dilation, strict=True)]
        seen = sliding_window_view(way, span, tuple(range(1, 1 + len(window))))
        steps = [slice(None, None, stride) for stride in conv.strides]
        taps = [slice(None, None, dilation) for dilation in conv.rhs_dilation]
        seen = seen[(slice(None), *steps, slice(None), *taps)]
        space = seen.shape[: len(window) + 1]
        if seen.size * x.shape[-1] > MOST:
            raise VerilogError(f"{seen.size:,} connections; at most {MOST:,} fit")
        ways.append(seen.reshape(*space, way.shape[-1], -1).swapaxes(-1, -2))
    return np.stack(ways, -1)


def _rows_of_groups(conv: Conv) -> np.ndarray:
    """Give each tap and input the weights of the outputs of its group."""
    *_, inputs, outputs = conv.kernel.shape
    rows = conv.kernel.reshape(-1, inputs, conv.groups, outputs // conv.groups)
    return rows.swapaxes(1, 2).reshape(-1, outputs // conv.groups)


def _words(x: np.ndarray, channels: int) -> tuple[int, np.ndarray]:
    """Find the positions that bring blocks of rows, [positions, blocks, ways].

    Channels that have moved, or rows that take only some, are positions of their own.
    """
    if x.shape[1] % channels == 0:
        blocks = x.reshape(len(x), -1, channels, x.shape[-1]).swapaxes(2, 3)
        first = blocks[..., 0]
        whole = first[..., None] + np.where(first >= 0, 1, 0)[..., None] * np.arange(
            channels
        )
        if (blocks == whole).all() and not (first[first >= 0] % channels).any():
            return channels, np.where(first >= 0, first // channels, -1)
    return 1, x


def _wired(x: np.ndarray, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the channel of each lane, and the positions [positions, taps, ways]."""
    x = x.swapaxes(-1, -2)  # lanes last
    used = (x >= 0).any(-1)
    flat = x[used]
    if not len(flat):
        return np.full(x.shape[-1], -1), np.full(x.shape[:-1], -1)
    wires = np.where(flat[0] >= 0, flat[0] % channels, -1)
    word = flat.max(-1, keepdims=True) // channels
    if (flat != np.where(wires >= 0, word * channels + wires, -1)).any():
        raise VerilogError("a skip that moves channels differently at other positions")
    words = np.full(x.shape[:-1], -1)
    words[used] = word[:, 0]
    return wires, words


def _placed(
    after: Sequence[Any], shape: Sequence[int], target: Sequence[int]
) -> tuple[np.ndarray, int]:
    """Find the results that each position adds up, [positions, ways]; and the shift."""
    shift = sum(op.amount for op in after if isinstance(op, Shift))
    y = np.arange(math.prod(shape)).reshape(*shape, 1)
    for op in after:
        if not isinstance(op, Shift):
            y = _moved(op, y)
    lanes = shape[-1]
    y = y.reshape(-1, target[-1], y.shape[-1]).swapaxes(1, 2)
    first = y[..., 0]
    whole = np.where(first[..., None] >= 0, first[..., None] + np.arange(lanes), -1)
    if y.shape[-1] != lanes or (y != whole).any() or (first % lanes > 0).any():
        raise VerilogError("channels that move behind the weights")
    return np.where(first >= 0, first // lanes, -1), shift


def _lines(words: np.ndarray, first: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Write a line for each block that a position takes, or an unused one."""
    lines = []
    for results in order:
        word, row = (a[results[results >= 0]].reshape(-1) for a in (words, first))
        used = word >= 0
        mine = np.stack([0 * word, used, row, word], -1)[used]
        if not len(mine):
            mine = np.zeros((1, 4), int)
        mine[-1, 0] = 1
        lines.append(mine)
    return np.concatenate(lines).astype(np.int64)
