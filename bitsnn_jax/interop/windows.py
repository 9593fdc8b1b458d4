"""The geometry of channels-first networks: windows, padding and interpolation.

What PyTorch and ONNX mean by a pooling, a convolution or a resize, in terms of
`jax.lax`. Arrays are [N, C, *space], for any number of axes in space. Constants are
made in NumPy in float64 and take the type of x, so that the same program runs in
float32 and float64.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Pads = Sequence[tuple[int, int]]


def ceil_pads(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Pads,
    dilations: Sequence[int],
) -> list[tuple[int, int]]:
    """Widen the padding so that a pooling in ceil mode has its last windows.

    A last window counts if it begins inside the input or the padding before it.

    >>> ceil_pads([6], [3], [2], [(0, 0)], [1])
    [(0, 1)]
    """
    wide = []
    for size, k, s, (low, high), d in zip(
        sizes, kernel, strides, pads, dilations, strict=True
    ):
        reach = d * (k - 1) + 1
        outputs = -(-(size + low + high - reach) // s) + 1
        if (outputs - 1) * s >= size + low:
            outputs -= 1
        wide.append((low, max(high, (outputs - 1) * s + reach - size - low)))
    return wide


def same_pads(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    *,
    extra_first: bool = False,
) -> list[tuple[int, int]]:
    """Pad so that the output has size / stride, rounded up.

    An odd rest goes behind the input, or before it with `extra_first`.

    >>> same_pads([5], [4], [1], [1])
    [(1, 2)]
    """
    pads = []
    for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        total = max(0, (-(-size // s) - 1) * s + d * (k - 1) + 1 - size)
        less, more = total // 2, total - total // 2
        pads.append((more, less) if extra_first else (less, more))
    return pads


def max_pool(
    x: jax.Array,
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Pads,
    dilations: Sequence[int] | None = None,
    *,
    ceil_mode: bool = False,
) -> jax.Array:
    """Take the maximum of each window of the last axes.

    >>> max_pool(jnp.arange(5.0)[None, None], [2], [2], [(0, 0)], ceil_mode=True)
    Array([[[1., 3., 4.]]], dtype=float32)
    """
    space = len(kernel)
    dilations = [1] * space if dilations is None else dilations
    if ceil_mode:
        pads = ceil_pads(x.shape[-space:], kernel, strides, pads, dilations)
    if jnp.issubdtype(x.dtype, jnp.floating):
        least = np.asarray(-np.inf, x.dtype)
    else:
        least = np.asarray(jnp.iinfo(x.dtype).min, x.dtype)
    before = (1,) * (x.ndim - space)
    return lax.reduce_window(
        x,
        least[()],
        lax.max,
        (*before, *kernel),
        (*before, *strides),
        (*((0, 0),) * len(before), *pads),
        window_dilation=(*before, *dilations),
    )


def average_pool(
    x: jax.Array,
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Pads,
    *,
    ceil_mode: bool = False,
    count_pads: bool = True,
    divisor: int | None = None,
) -> jax.Array:
    """Take the mean of each window of the last axes.

    A window is divided by how many of its places are in the input or, with
    `count_pads`, in the padding that was asked for: never by what ceil mode added.

    Args:
      x: [..., *space].
      kernel, strides, pads: for each axis of space.
      ceil_mode: whether the last windows may reach over the end.
      count_pads: whether the padding counts.
      divisor: what to divide by instead.

    >>> average_pool(jnp.ones((1, 1, 3)), [2], [2], [(1, 0)], count_pads=False)
    Array([[[1., 1.]]], dtype=float32)
    """
    space = len(kernel)
    sizes, asked = x.shape[-space:], pads
    if ceil_mode:
        pads = ceil_pads(sizes, kernel, strides, pads, [1] * space)
    before = (1,) * (x.ndim - space)
    total = lax.reduce_window(
        x,
        np.zeros((), x.dtype)[()],
        lax.add,
        (*before, *kernel),
        (*before, *strides),
        (*((0, 0),) * len(before), *pads),
    )
    if divisor is not None:
        return total / divisor
    count = np.ones(())
    for axis in range(space):
        low, high = asked[axis] if count_pads else (0, 0)
        outputs = total.shape[axis - space]
        first = np.arange(outputs) * strides[axis] - pads[axis][0]
        inside = np.minimum(first + kernel[axis], sizes[axis] + high)
        count = count[..., None] * (inside - np.maximum(first, -low))
    if (count == count.flat[0]).all():
        return total / float(count.flat[0])
    return total / jnp.asarray(count, x.dtype)


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None,
    *,
    strides: Sequence[int],
    pads: Pads,
    dilations: Sequence[int],
    groups: int = 1,
) -> jax.Array:
    """Convolve [N, C, *space] with a kernel [out, C / groups, *window].

    >>> kwargs = dict(strides=[1], pads=[(1, 1)], dilations=[1])
    >>> convolve(jnp.ones((1, 1, 3)), jnp.ones((1, 1, 3)), None, **kwargs)
    Array([[[2., 3., 2.]]], dtype=float32)
    """
    y = lax.conv_general_dilated(
        x,
        kernel,
        tuple(strides),
        list(pads),
        rhs_dilation=tuple(dilations),
        feature_group_count=groups,
    )
    return y if bias is None else y + per_channel(bias, x)


def convolve_transposed(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None,
    *,
    strides: Sequence[int],
    pads: Pads,
    dilations: Sequence[int],
    output_pads: Sequence[int],
    groups: int = 1,
) -> jax.Array:
    """Apply the transpose of a convolution; the kernel is [C, out / groups, *window].

    >>> kwargs = dict(strides=[2], pads=[(0, 0)], dilations=[1], output_pads=[0])
    >>> convolve_transposed(jnp.ones((1, 1, 2)), jnp.ones((1, 1, 2)), None, **kwargs)
    Array([[[1., 1., 1., 1.]]], dtype=float32)
    """
    channels, outputs, *window = kernel.shape
    # Inputs and outputs change places within each group, and windows are flipped.
    kernel = kernel.reshape(groups, channels // groups, outputs, *window)
    kernel = kernel.swapaxes(1, 2)
    kernel = kernel.reshape(groups * outputs, channels // groups, *window)
    kernel = jnp.flip(kernel, tuple(range(2, kernel.ndim)))
    around = [
        (d * (k - 1) - low, d * (k - 1) - high + more)
        for k, (low, high), d, more in zip(
            window, pads, dilations, output_pads, strict=True
        )
    ]
    y = lax.conv_general_dilated(
        x,
        kernel,
        (1,) * len(window),
        around,
        lhs_dilation=tuple(strides),
        rhs_dilation=tuple(dilations),
        feature_group_count=groups,
    )
    return y if bias is None else y + per_channel(bias, x)


def per_channel(values: jax.Array, x: jax.Array) -> jax.Array:
    """Shape values [C] so that they broadcast against x, [N, C, *space]."""
    return values.reshape(1, -1, *(1,) * (x.ndim - 2))


def along(x: jax.Array, axis: int, weights: np.ndarray) -> jax.Array:
    """Multiply an axis of x by a matrix [size, out].

    >>> along(jnp.ones((1, 2, 3)), 1, np.ones((2, 1))).shape
    (1, 1, 3)
    """
    y = jnp.tensordot(x, jnp.asarray(weights, x.dtype), ((axis,), (0,)))
    return jnp.moveaxis(y, -1, axis)


def adaptive_weights(size: int, outputs: int) -> np.ndarray:
    """Build the matrix [size, outputs] of an adaptive average pooling along an axis.

    >>> adaptive_weights(4, 2).T
    array([[0.5, 0.5, 0. , 0. ],
           [0. , 0. , 0.5, 0.5]])
    """
    weights = np.zeros((size, outputs))
    for o in range(outputs):
        first, end = o * size // outputs, -(-(o + 1) * size // outputs)
        weights[first:end, o] = 1 / (end - first)
    return weights


def source_places(
    size: int, outputs: int, *, align_corners: bool = False, scale: float | None = None
) -> np.ndarray:
    """Find where each output of a resize lies on the axis that it comes from.

    Pixels are squares (`half_pixel` in ONNX), or points whose outermost ones stay.

    Args:
      size, outputs: of the axis before and after.
      align_corners: the outermost points stay.
      scale: outputs / size if it is not exactly that.

    >>> source_places(2, 4)
    array([-0.25,  0.25,  0.75,  1.25])
    """
    at = np.arange(outputs)
    if align_corners:
        return at * ((size - 1) / max(outputs - 1, 1))
    return (at + 0.5) * (1 / scale if scale else size / outputs) - 0.5


def linear_weights(size: int, places: np.ndarray) -> np.ndarray:
    """Build the matrix [size, outputs] of linear interpolation at these places.

    Places outside take the value at the border.

    >>> linear_weights(2, np.array([-0.25, 0.25])).T
    array([[1.  , 0.  ],
           [0.75, 0.25]])
    """
    at = np.clip(places, 0, size - 1)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, size - 1)
    weights, outputs = np.zeros((size, len(at))), np.arange(len(at))
    np.add.at(weights, (low, outputs), 1 - (at - low))
    np.add.at(weights, (high, outputs), at - low)
    return weights


def cubic_weights(size: int, places: np.ndarray, *, a: float = -0.75) -> np.ndarray:
    """Build the matrix [size, outputs] of cubic interpolation at these places.

    Args:
      size: of the axis.
      places: see `source_places`.
      a: of Keys' kernel; PyTorch and ONNX have -0.75.

    >>> cubic_weights(4, np.array([1.0])).T
    array([[0., 1., 0., 0.]])
    """
    base = np.floor(places).astype(int)
    weights, outputs = np.zeros((size, len(places))), np.arange(len(places))
    for shift in (-1, 0, 1, 2):
        x = np.abs(places - base - shift)
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        values = np.where(x <= 1, near, far) + 0.0
        np.add.at(weights, (np.clip(base + shift, 0, size - 1), outputs), values)
    return weights


def nearest(x: jax.Array, axis: int, outputs: int, places: np.ndarray) -> jax.Array:
    """Take the elements of an axis at whole places, as a repetition if they are one.

    >>> nearest(jnp.array([[3.0, 4.0]]), 1, 4, np.array([0, 0, 1, 1]))
    Array([[3., 3., 4., 4.]], dtype=float32)
    """
    size = x.shape[axis]
    places = np.clip(places, 0, size - 1)
    times, rest = divmod(outputs, size)
    if not rest and (places == np.arange(outputs) // times).all():
        return jnp.repeat(x, times, axis)
    return jnp.take(x, places, axis)
