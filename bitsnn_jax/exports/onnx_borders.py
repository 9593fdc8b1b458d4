"""A bias that differs along the border, as weights of constant input channels.

Images are padded with zeros after their normalisation, so in integers of pixels the
first layer has another bias where its window hangs over the border. A QLinearConv has
one bias for a channel. But more input channels that hold 1 or 255 everywhere, and zeros
in the padding, bring each output the sum of those of their weights whose taps lie
inside. The weights are found from the bias, exactly, if it is of that kind.
"""

import math
from typing import Any

import numpy as np

from bitsnn_jax.exports.onnx_builder import Builder, Shape, Value

# What the first channel holds, and the others. Weights beyond a byte are taken apart.
LOW, HIGH = 1, 255
# Channels at most; with more, floats are faster.
MOST = 6
_BYTE = 127


def border_weights(
    bias: np.ndarray, space: Shape, options: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Find a bias for each channel, and weights of constant channels, that make `bias`.

    Args:
      bias: [*outputs, channels] for each place.
      space: of the input.
      options: of the convolution, as ONNX has them.

    Returns:
      [channels], and [channels, constant channels, *window] within a byte, with no
      constant channel where `bias` does not differ; None if there are no such weights.
    """
    base = bias[tuple(size // 2 for size in bias.shape[:-1])]
    weights = bias.astype(np.int64) - base
    always = np.ones((), bool)
    for axis, size in enumerate(space):
        inside = _inside(axis, size, bias.shape[axis], options)
        kinds, first, inverse = np.unique(
            inside, axis=0, return_index=True, return_inverse=True
        )
        kind = weights.take(first, axis)
        right = _right_inverse(kinds.astype(np.int64))
        if right is None or (kind.take(inverse.reshape(-1), axis) != weights).any():
            return None
        weights = np.moveaxis(np.tensordot(right, kind, (1, axis)), 0, axis)
        always = always[..., None] & inside.all(0)
    # Taps that are always inside bring the same everywhere.
    base = base + weights[always].sum(0)
    weights[always] = 0
    planes = []
    if weights.any():
        high = np.rint(weights / HIGH).astype(np.int64)
        planes.append(weights - HIGH * high)
        while high.any():
            planes.append(np.clip(high, -_BYTE, _BYTE))
            high = high - planes[-1]
    if len(planes) > MOST:
        return None
    held = np.stack(planes) if planes else np.zeros((0, *weights.shape), np.int64)
    return base, np.moveaxis(held, (-1, 0), (0, 1))


def with_constants(builder: Builder, value: Value, count: int) -> Value:
    """Append so many constant channels to a value of bytes."""
    *space, channels = value.shape[1:]
    first = ("u8", False) not in value.forms
    name = builder.form(value, "u8", first)
    # All axes are named, as onnxruntime 1.32 confuses them otherwise.
    pads, rank = np.zeros((2, len(space) + 2), np.int64), len(space) + 2
    for number, more in ((LOW, 1), (HIGH, count - 1)):
        pads[1, 1 if first else rank - 1] = more
        constant = builder.constant(number, np.uint8)
        name = builder.add("Pad", name, builder.constant(pads.reshape(-1)), constant)
    return Value((1, *space, channels + count), 0, HIGH, forms={("u8", first): name})


def _inside(axis: int, size: int, outputs: int, options: dict[str, Any]) -> np.ndarray:
    """Tell which taps of each output lie inside, along an axis: [outputs, window]."""
    start = np.arange(outputs) * options["strides"][axis] - options["pads"][axis]
    taps = np.arange(options["kernel_shape"][axis]) * options["dilations"][axis]
    place = start[:, None] + taps
    return (place >= 0) & (place < size)


def _right_inverse(rows: np.ndarray) -> np.ndarray | None:
    """Return integers R with rows R = 1; None if rows depend on each other.

    The ones of a row stand side by side, so the determinants of all square parts of
    such a matrix are -1, 0 or 1, and inverses have whole numbers.
    """
    taken: list[int] = []
    for column in range(rows.shape[1]):
        if np.linalg.matrix_rank(rows[:, [*taken, column]]) > len(taken):
            taken.append(column)
    if len(taken) < len(rows):
        return None
    found = np.zeros(rows.shape[::-1], np.int64)
    found[taken] = np.rint(np.linalg.inv(rows[:, taken]))
    assert math.prod(rows.shape) and (rows @ found == np.eye(len(rows))).all()
    return found
