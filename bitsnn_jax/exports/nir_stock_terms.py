"""Terms of the layer graph as weights of NIR's own `Conv2d` and `Affine`.

A layer lies in NIR as an image [channels, height, width], or flat: [n, 1, 1], and [n]
in a network without images. A term between images becomes a convolution, behind a
`SumPool2d` where it pools. Any other term is linear too and becomes its matrix, which
lies in the weights of one convolution with a window as large as the image.
"""

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax.exports.nir_nodes import NIRError, channels_first
from bitsnn_jax.integers.graph import (
    Conv,
    Dense,
    Max,
    Move,
    Reshape,
    Scale,
    Shift,
    Term,
    Weightless,
    WindowMax,
    WindowSum,
    apply_term,
    out_shape,
)

MOST = 2**24  # entries of one matrix; it is written once for each bit
BLOCK = 2**22  # entries of the columns that are computed together


class Layout(NamedTuple):
    """How a layer lies in NIR.

    Attributes:
      places: in the shape that it has in NIR, the place of each entry in the layer.
      is_image: whether it is [channels, height, width] as in the layer.
    """

    places: np.ndarray
    is_image: bool

    def full(self, x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Return what broadcasts to the shape of the layer, as it lies in NIR."""
        return np.broadcast_to(x, shape).astype(np.int64).reshape(-1)[self.places]


class Weights(NamedTuple):
    """Weights [outputs, inputs, *window] of a `Conv2d`, or [outputs, inputs].

    Attributes:
      kernel: integers.
      strides, padding, dilation: of the window.
      pooling: window and strides of the sums in front of it; () for none.
    """

    kernel: np.ndarray
    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    pooling: tuple[tuple[int, int], ...] = ()


def image(shape: tuple[int, ...]) -> Layout | None:
    """Lay out a layer as an image; one of three axes is an image of one row."""
    if len(shape) == 3:
        shape = (1, *shape)
    if len(shape) != 4 or shape[0] != 1:
        return None
    return Layout(channels_first(np.arange(math.prod(shape)).reshape(shape)), True)


def flat(shape: tuple[int, ...], *, vector: bool) -> Layout:
    """Lay out a layer as one entry after the other."""
    places = np.arange(math.prod(shape))
    return Layout(places if vector else places[:, None, None], False)


def channels(full: np.ndarray) -> np.ndarray:
    """Return the number at the first place of each channel."""
    return full.reshape(len(full), -1)[:, 0]


def identity(factor: np.ndarray, *, is_vector: bool) -> Weights:
    """Return weights that multiply each channel, or each entry of a flat layer."""
    kernel = np.diag(factor)
    return Weights(kernel if is_vector else kernel[:, :, None, None])


def convolution(term: Term, shape: tuple[int, ...]) -> Weights | None:
    """Return the weights of a term between images; None where it is none.

    Args:
      term: with weights of its own.
      shape: of its source, an image.
    """
    before, amount = term.before, _shifts(term)
    if amount is None:
        return None
    pooling = ()
    if before and isinstance(before[0], WindowSum):
        pooling = _plain_pooling(before[0])
        if pooling is None:
            return None
        shape, before = out_shape(before[0], shape), before[1:]
    if before:
        return None
    if isinstance(term.weight, Conv):
        weights = _of_convolution(term.weight)
    elif isinstance(term.weight, Scale):
        weights = _of_channels(term.weight.factor, shape)
    else:
        return None
    if weights is None:
        return None
    weights = weights._replace(kernel=weights.kernel << amount, pooling=pooling)
    return squared(weights, _two(shape[1:-1], 1))


def matrix(term: Term, shape: tuple[int, ...], source: Layout, *, name: str) -> Weights:
    """Return the weights of any linear term into a flat layer.

    Args:
      term: with weights of its own.
      shape: of its source.
      source: the layout of the source.
      name: of the layer, for the error.

    Raises:
      NIRError: a matrix of more than `MOST` entries.
    """
    amount, weight = _shifts(term), term.weight
    kernel = None
    if isinstance(weight, Dense) and len(weight.kernel) == math.prod(shape):
        if amount is not None and all(isinstance(op, Reshape) for op in term.before):
            kernel = weight.kernel.T.astype(np.int64) << amount
    if kernel is None:
        kernel = _jacobian(term, shape, name)
    weights = Weights(kernel[:, source.places])
    return squared(weights, source.places.shape[1:]) or weights


def squared(weights: Weights, size: tuple[int, ...]) -> Weights | None:
    """Return the same with a square window, as nir 1.0.8 takes all windows to be.

    Zeros in front and behind make it one. As paddings of both sides are equal, their
    numbers may differ only by what the strides skip.

    Returns:
      None where there is no such window.
    """
    window = weights.kernel.shape[2:]
    if len({*window}) <= 1:
        return weights
    for side in (max(window), max(window) + 1):
        axes = [
            _stretched(side, *axis)
            for axis in zip(
                window,
                size,
                weights.strides,
                weights.padding,
                weights.dilation,
                strict=True,
            )
        ]
        if all(axes):
            zeros, strides, padding = zip(*axes, strict=True)
            kernel = np.pad(weights.kernel, ((0, 0), (0, 0), *zeros))
            return weights._replace(kernel=kernel, strides=strides, padding=padding)
    return None


def _stretched(side, window, size, stride, padding, dilation):
    """Return zeros on both sides, stride and padding of one axis, or None."""
    front = -((window - side) // 2)
    behind = side - window - front
    places, rest = divmod(size + 2 * padding - dilation * (window - 1) - 1, stride)
    rest += dilation * (front - behind)
    if places == 0:  # one place: the stride does not matter
        stride = max(stride, rest + 1)
    if rest >= stride:
        return None
    return (front, behind), stride, padding + front * dilation


def candidates(term: Term, shape: tuple[int, ...]) -> Iterator[Term]:
    """Yield terms without maxima; the largest of their values is that of the term."""
    [*moves], at = term.before, shape
    choices: list[list[Weightless]] = []
    for op in moves:
        found = _choices(op, at)
        choices.append(found)
        at = out_shape(op, at)
    if len(moves) == 1 and isinstance(moves[0], WindowMax) and not term.after:
        convolved = _one_hot(moves[0], shape)
        if convolved:
            for conv in convolved:
                yield Term(term.source, (), conv, ())
            return
    for chosen in itertools.product(*choices):
        yield term._replace(before=chosen)


def _choices(op: Weightless, shape: tuple[int, ...]) -> list[Weightless]:
    """Return moves, the largest of which is what a maximum makes."""
    places = np.arange(math.prod(shape)).reshape(shape)
    if isinstance(op, Max):
        rest = [n for i, n in enumerate(shape) if i not in op.axes]
        last = np.moveaxis(places, op.axes, range(-len(op.axes), 0)).reshape(*rest, -1)
        return [Move(last[..., i]) for i in range(last.shape[-1])]
    if not isinstance(op, WindowMax):
        return [op]
    places = np.pad(places, op.padding, constant_values=-1)
    views = np.lib.stride_tricks.sliding_window_view(places, op.window)
    views = views[tuple(slice(None, None, step) for step in op.strides)]
    views = views.reshape(*views.shape[: len(shape)], -1)
    return [Move(views[..., i]) for i in range(views.shape[-1])]


def _one_hot(op: WindowMax, shape: tuple[int, ...]) -> list[Conv]:
    """Return convolutions that each see one place of the windows of an image."""
    if len(shape) not in (3, 4) or op.window[0] > 1 or op.window[-1] > 1:
        return []
    if op.strides[-1] > 1 or np.any([op.padding[0], op.padding[-1]]):
        return []
    window, channels = op.window[1:-1], shape[-1]
    found = []
    for place in np.ndindex(*window):
        kernel = np.zeros((*window, channels, channels), np.int8)
        kernel[place] = np.eye(channels)
        ones = (1,) * len(window)
        found.append(
            Conv(kernel, op.strides[1:-1], op.padding[1:-1], ones, ones, groups=1)
        )
    return found


def _shifts(term: Term) -> int | None:
    """Return by how much the term is shifted, or None if it does anything else."""
    if not all(isinstance(op, Shift) for op in term.after):
        return None
    return sum(op.amount for op in term.after if isinstance(op, Shift))


def _plain_pooling(op: WindowSum):
    """Return window and strides of sums over an image without padding, or None."""
    window, strides = op.window[1:-1], op.strides[1:-1]
    is_plain = op.window[0] == op.window[-1] == op.strides[-1] == 1
    if not is_plain or np.any(op.padding) or len(window) not in (1, 2):
        return None
    return _two(window, 1), _two(strides, 1)


def _two(entries, one) -> tuple:
    """Return entries of two axes, of a row if there is one."""
    return (one, *entries) if len(entries) == 1 else tuple(entries)


def _of_convolution(op: Conv) -> Weights | None:
    if len(op.strides) > 2 or max(op.lhs_dilation) > 1:
        return None
    dilation = np.array(op.rhs_dilation)
    padding = np.array(op.padding)
    most = padding.max(1)
    # Unequal paddings of two sides become zeros around the kernel.
    extra, rest = np.divmod(most[:, None] - padding, dilation[:, None])
    if padding.min() < 0 or rest.any():
        return None
    kernel = np.pad(op.kernel.astype(np.int64), (*extra, (0, 0), (0, 0)))
    kernel = _ungrouped(kernel, op.groups).transpose(-1, -2, *range(len(op.strides)))
    if kernel.ndim == 3:
        kernel = kernel[:, :, None]
    strides, most, dilation = (
        _two([int(n) for n in entries], one)
        for entries, one in ((op.strides, 1), (most, 0), (dilation, 1))
    )
    return Weights(kernel, strides, most, dilation)


def _ungrouped(kernel: np.ndarray, groups: int) -> np.ndarray:
    """Write out the zeros between groups: `Conv2d` of nir 1.0.8 misstates its input."""
    inputs, outputs = kernel.shape[-2], kernel.shape[-1] // groups
    full = np.zeros((*kernel.shape[:-2], groups * inputs, groups * outputs), np.int64)
    for g in range(groups):
        columns = slice(g * outputs, (g + 1) * outputs)
        full[..., g * inputs : (g + 1) * inputs, columns] = kernel[..., columns]
    return full


def _of_channels(factor: np.ndarray, shape: tuple[int, ...]) -> Weights | None:
    full = np.broadcast_to(factor, shape).astype(np.int64).reshape(-1, shape[-1])
    if (full != full[0]).any():
        return None
    return Weights(np.diag(full[0])[:, :, None, None])


def _jacobian(term: Term, shape: tuple[int, ...], name: str) -> np.ndarray:
    """Return what the term makes of each entry of its source alone, as columns."""

    def run(x):
        return apply_term(term, x.reshape(shape)).reshape(-1)

    inputs = math.prod(shape)
    outputs = jax.eval_shape(run, jnp.zeros(inputs)).size
    if inputs * outputs > MOST:
        raise NIRError(
            f"{name}: what comes from {term.source} is no convolution, and as a matrix "
            f"{outputs} x {inputs} it has more than {MOST:,} weights"
        )
    block = min(inputs, max(1, BLOCK // max(inputs, outputs)))

    @jax.jit
    def columns(first):
        return jax.vmap(run)(jax.nn.one_hot(first + jnp.arange(block), inputs))

    found = [np.asarray(columns(first)) for first in range(0, inputs, block)]
    return np.rint(np.concatenate(found)[:inputs].T).astype(np.int64)
