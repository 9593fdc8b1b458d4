"""Equivalent forms of a convolution, and the rule that picks one.

All forms compute the same sums. They differ in how long XLA's CPU backend takes, by up
to a hundred times. `FORMS` has them by name. `form_of` says which one a convolution
takes, by its shapes and types alone: a rule that `benchmarks/convolutions.py` measured.
Where that shows no clear gain the form is "lax", XLA's own convolution.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.export import is_symbolic_dim
from jaxtyping import Array


class Convolution(NamedTuple):
    """What a convolution is, by shapes and types.

    Lengths of space are axis by axis.

    Attributes:
      batch: examples.
      inputs: channels of x.
      space: of x.
      window: of the kernel.
      outputs: channels of the result.
      places: of the result.
      strides, padding, lhs_dilation, rhs_dilation: as in `lax.conv_general_dilated`.
      groups: `feature_group_count`.
      batch_groups: `batch_group_count`; above 1 in the gradient of a grouped kernel.
      dimensions: where each axis is.
      x_type, kernel_type, type: of the operands and the result.
      precision: of products.
    """

    batch: int
    inputs: int
    space: tuple[int, ...]
    window: tuple[int, ...]
    outputs: int
    places: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]
    groups: int
    batch_groups: int
    dimensions: lax.ConvDimensionNumbers
    x_type: np.dtype
    kernel_type: np.dtype
    type: np.dtype
    precision: Any = None

    @property
    def axes(self) -> list[int]:
        """What the axes of x are: 0 the batch, 1 the channels, from 2 on space."""
        return [self.dimensions.lhs_spec.index(axis) for axis in range(self.ndim)]

    @property
    def ndim(self) -> int:
        return 2 + len(self.space)


MOST_TERMS = 64  # of a sum that is written out; with more, programs compile slowly
PART = 128  # channels that XLA sums in one convolution, where there are very many
Form = Callable[[Array, Array, Convolution], Array]


def described(x: Any, kernel: Any, **params: Any) -> Convolution:
    """Describe a convolution of x and a kernel, or of their shapes and types.

    Args:
      x, kernel: the operands.
      params: of the primitive `lax.conv_general_dilated_p`.
    """
    result = jax.eval_shape(
        lambda x, kernel: lax.conv_general_dilated_p.bind(x, kernel, **params),
        *(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (x, kernel)),
    )
    dimensions = params["dimension_numbers"]
    (batch, inputs, *space), (outputs, _, *window), (_, _, *places) = (
        [array.shape[axis] for axis in axes]
        for array, axes in zip((x, kernel, result), dimensions, strict=True)
    )
    return Convolution(
        batch,
        inputs,
        tuple(space),
        tuple(window),
        outputs,
        tuple(places),
        tuple(params["window_strides"]),
        tuple(params["padding"]),
        tuple(params["lhs_dilation"]),
        tuple(params["rhs_dilation"]),
        params["feature_group_count"],
        params["batch_group_count"],
        dimensions,
        x.dtype,
        kernel.dtype,
        result.dtype,
        params["precision"],
    )


def _columns(x, kernel, case) -> Array:
    """One product: all that the window sees, side by side, times the kernel."""
    taps, channels = _useful(case), case.dimensions.lhs_spec[1]
    columns = lax.concatenate(list(_seen(x, taps, case)), channels)
    weights = _weights(kernel, taps, case).reshape(-1, case.outputs)
    y = _product(columns, weights, ((channels,), (0,)), ((), ()), case)
    kept = [axis for axis in case.axes if axis != 1]
    return _arranged(y, [*kept, 1], case)


def _pointwise(x, kernel, case) -> Array:
    """One product of channels, for a window of one place."""
    channels, origin = case.dimensions.lhs_spec[1], (0,) * len(case.window)

    def spread(array, space):
        cuts = _cuts(array, [origin], case.strides, case.places, case, space)
        return next(iter(cuts))

    fewer = math.prod(case.places) <= math.prod(case.space)
    if fewer:  # places go before the product; else they come after it
        x = spread(x, case.dimensions.lhs_spec[2:])
    weights = _weights(kernel, [origin], case)[0]
    y = _product(x, weights, ((channels,), (0,)), ((), ()), case)
    kept = [axis for axis in case.axes if axis != 1]
    y = _arranged(y, [*kept, 1], case)
    return y if fewer else spread(y, case.dimensions.out_spec[2:])


def _grouped(x, kernel, case) -> Array:
    """Do the same for each group of channels."""
    taps, channels = _useful(case), case.dimensions.lhs_spec[1]
    shape = list(x.shape)
    split = case.groups, case.inputs // case.groups
    cuts = []
    for cut in _seen(x, taps, case):
        shape = [*cut.shape[:channels], *split, *cut.shape[channels + 1 :]]
        cuts.append(cut.reshape(shape))
    columns = lax.concatenate(cuts, channels + 1)
    weights = _weights(kernel, taps, case)
    weights = weights.reshape(-1, case.groups, case.outputs // case.groups)
    contracted, batched = ((channels + 1,), (0,)), ((channels,), (1,))
    y = jnp.moveaxis(_product(columns, weights, contracted, batched, case), 0, -2)
    kept = [axis for axis in case.axes if axis != 1]
    return _arranged(y.reshape(*y.shape[:-2], case.outputs), [*kept, 1], case)


def _shifted(x, kernel, case) -> Array:
    """Add up shifted images, each times one weight a channel: depthwise."""
    taps, channels = _useful(case), case.dimensions.lhs_spec[1]
    weights = _weights(kernel, taps, case).reshape(len(taps), case.outputs)
    along = [1] * case.ndim
    along[channels] = case.outputs
    parts = []
    for i, cut in enumerate(_seen(x, taps, case)):
        cut = jnp.repeat(cut, case.outputs // case.inputs, channels)
        parts.append(
            cut.astype(case.type) * weights[i].reshape(along).astype(case.type)
        )
    return _arranged(sum(parts[1:], parts[0]), case.axes, case)


def _correlated(x, kernel, case) -> Array:
    """Multiply and add up, place by place: the gradient of a depthwise kernel.

    What was the channels is the batch here, and the kernel was the gradient.
    """
    order = [case.dimensions.rhs_spec[axis] for axis in case.axes]
    kernel = jnp.transpose(kernel, order).astype(case.type)
    places = list(np.ndindex(*case.places))
    products = [cut.astype(case.type) * kernel for cut in _seen_from(x, places, case)]
    summed = case.dimensions.lhs_spec[1:]
    zeros = [np.zeros((), case.type)] * len(products)
    sums = lax.reduce(products, zeros, _added, summed)
    y = jnp.stack(sums).reshape(*case.places, 1, case.outputs)
    return _arranged(y, [*range(2, case.ndim), 0, 1], case)


def _added(xs, ys):
    return [x + y for x, y in zip(xs, ys, strict=True)]


def _placed(x, kernel, case) -> Array:
    """One product for each place of the result; for few of them and a large window."""
    [b, *summed], [o, *contracted] = case.dimensions[:2]
    places = list(np.ndindex(*case.places))
    ys = [
        _product(cut, kernel, (tuple(summed), tuple(contracted)), ((), ()), case)
        for cut in _seen_from(x, places, case)
    ]
    y = jnp.stack(ys).reshape(*case.places, case.batch, case.outputs)
    return _arranged(y, [*range(2, case.ndim), 0, 1], case)


def _canonical(x, kernel, case) -> Array:
    """Do as lax does, with axes in the order that XLA has a fast convolution for.

    XLA's CPU backend orders the axes itself, but not inside of loops and calls: there
    gradients, whose axes are others, become plain loops.
    """
    dimensions = _canonical_dimensions(case)
    batch, inputs, *space = case.dimensions.lhs_spec
    x = jnp.transpose(x, (batch, *space, inputs))
    outputs, inputs, *window = case.dimensions.rhs_spec
    kernel = jnp.transpose(kernel, (*window, inputs, outputs))
    y = lax.conv_general_dilated(
        x,
        kernel,
        case.strides,
        case.padding,
        lhs_dilation=case.lhs_dilation,
        rhs_dilation=case.rhs_dilation,
        dimension_numbers=dimensions,
        feature_group_count=case.groups,
        precision=case.precision,
        preferred_element_type=case.type,
    )
    return _arranged(y, [0, *range(2, case.ndim), 1], case)


def _canonical_dimensions(case: Convolution) -> lax.ConvDimensionNumbers:
    """Put channels last: N...C, ...IO, N...C."""
    last, space = case.ndim - 1, tuple(range(1, case.ndim - 1))
    image = (0, last, *space)
    return lax.ConvDimensionNumbers(
        image, (last, last - 1, *range(case.ndim - 2)), image
    )


def _split(x, kernel, case) -> Array:
    """Add up the convolutions of parts of the input channels.

    In the gradient of a kernel what was the batch is the channels.
    """
    channels, weights = case.dimensions.lhs_spec[1], case.dimensions.rhs_spec[1]
    ys = [
        _canonical(
            lax.slice_in_dim(x, start, end, axis=channels),
            lax.slice_in_dim(kernel, start, end, axis=weights),
            case,
        )
        for start in range(0, case.inputs, PART)
        for end in [min(start + PART, case.inputs)]
    ]
    return sum(ys[1:], ys[0])


FORMS: dict[str, Form] = {
    "columns": _columns,
    "pointwise": _pointwise,
    "grouped": _grouped,
    "shifted": _shifted,
    "correlated": _correlated,
    "placed": _placed,
    "canonical": _canonical,
    "split": _split,
}
OF_LAX = ("canonical", "split")  # convolutions of lax's, in another order


def _useful(case: Convolution) -> list[tuple[int, ...]]:
    """List the places of the window that see the image, and not its padding alone."""
    axes = []
    for window, dilation, places, stride, size, spread, (low, _) in zip(
        case.window,
        case.rhs_dilation,
        case.places,
        case.strides,
        case.space,
        case.lhs_dilation,
        case.padding,
        strict=True,
    ):
        seen = np.arange(places) * stride - low
        seen = seen + np.arange(window)[:, None] * dilation
        hit = (seen >= 0) & (seen <= (size - 1) * spread) & (seen % spread == 0)
        axes.append(np.flatnonzero(hit.any(1)).tolist())
    return list(itertools.product(*axes))


def _seen(x, taps, case) -> Iterable[Array]:
    """For each place of the window, return what all windows see there."""
    starts = np.array(taps).reshape(len(taps), -1) * case.rhs_dilation
    return _cuts(x, starts, case.strides, case.places, case)


def _seen_from(x, places, case) -> Iterable[Array]:
    """For each place of the result, return what its window sees."""
    starts = np.array(places).reshape(len(places), -1) * case.strides
    return _cuts(x, starts, case.rhs_dilation, case.window, case)


def _cuts(x, starts, steps, counts, case, space=None) -> Iterable[Array]:
    """Pad and dilate; from each start take so many places, in these steps."""
    space = space or case.dimensions.lhs_spec[2:]
    config = [(0, 0, 0)] * case.ndim
    for axis, (low, high), dilation in zip(
        space, case.padding, case.lhs_dilation, strict=True
    ):
        config[axis] = (low, high, dilation - 1)
    image = lax.pad(x, jnp.zeros((), x.dtype), config)
    for start in starts:
        cut = [slice(None)] * case.ndim
        for axis, i, step, count in zip(space, start, steps, counts, strict=True):
            cut[axis] = slice(int(i), int(i) + (count - 1) * step + 1, step)
        yield image[tuple(cut)]


def _weights(kernel, taps, case) -> Array:
    """Return the weights at these places of the window: [taps, inputs, outputs]."""
    o, i, *window = case.dimensions.rhs_spec
    kernel = jnp.transpose(kernel, (*window, i, o))
    if len(taps) == math.prod(case.window):
        return kernel.reshape(-1, *kernel.shape[-2:])
    return jnp.stack([kernel[tap] for tap in taps])


def _product(x, y, contracted, batched, case) -> Array:
    return lax.dot_general(
        x,
        y,
        (contracted, batched),
        precision=case.precision,
        preferred_element_type=case.type,
    )


def _arranged(y: Array, axes: Sequence[int], case: Convolution) -> Array:
    """Order axes, given what they are (see `Convolution.axes`), as the result's."""
    order = [0] * case.ndim
    for axis, place in enumerate(case.dimensions.out_spec):
        order[place] = list(axes).index(axis)
    return jnp.transpose(y, order)


def able_forms(case: Convolution) -> list[str]:
    """List the forms that can compute a convolution, beside lax's."""
    if case.batch_groups > 1:
        is_depthwise = case.batch_groups == case.batch == case.outputs
        return ["correlated"] if is_depthwise else []
    if case.groups == 1:
        is_pointwise = math.prod(case.window) == 1
        many = ["split"] * (case.inputs > PART)
        forms = ["canonical", "columns", "placed", *many]
        return forms + ["pointwise"] * is_pointwise
    forms = ["canonical", "grouped"]
    return forms + ["shifted"] * (case.groups == case.inputs)


def form_of(case: Convolution) -> str:
    """Say which form a convolution takes on a CPU: a name of `FORMS`, or "lax".

    XLA's CPU backend multiplies matrices only for some convolutions. Others are loops:
    those with groups, and those whose window is larger than the image.
    """
    sizes = (case.groups, *case.space, *case.window, *case.places)
    # `jax.export` has sizes that are not known yet; without channels nothing is added.
    if any(map(is_symbolic_dim, sizes)) or 0 in (case.inputs, case.outputs):
        return "lax"
    if not _useful(case):
        return "lax"
    if case.type == np.int32 or _is_narrow(case):
        return _form_of_integers(case)
    if case.type not in (np.float32, np.float64):
        return "lax"
    if case.batch_groups > 1:
        is_depthwise = case.batch_groups == case.batch == case.outputs
        is_short = math.prod(case.places) <= MOST_TERMS
        return "correlated" if is_depthwise and is_short else "lax"
    if case.groups > 1:
        is_short = math.prod(case.window) <= MOST_TERMS
        return "shifted" if case.groups == case.inputs and is_short else "lax"
    if math.prod(case.window) == 1:
        return "pointwise"
    if _is_wide(case):
        return "columns"
    if math.prod(case.places) == 1:
        return "placed"
    # The gradient of a kernel: XLA takes several times as long for an image of a large
    # batch as for one of a small batch.
    of_kernel = math.prod(case.window) > math.prod(case.places)
    if of_kernel and case.inputs > PART:
        return "split"
    is_canonical = case.dimensions == _canonical_dimensions(case)
    return "lax" if is_canonical else "canonical"


def _is_narrow(case: Convolution) -> bool:
    return case.x_type == jnp.bfloat16 and case.type == np.float32


def _form_of_integers(case: Convolution) -> str:
    """Do the same for integers, and for bfloat16 that is added up in float32.

    XLA's CPU backend has fast products of these. Its convolutions of them are slower,
    and slower than those of floats where there are few channels.
    """
    if case.batch_groups > 1 or any(spread > 1 for spread in case.lhs_dilation):
        return "lax"
    if case.groups > 1:
        return "shifted" if case.groups == case.inputs else "grouped"
    return "pointwise" if math.prod(case.window) == 1 else "columns"


def _is_wide(case: Convolution) -> bool:
    """Tell whether the window is larger than the image along any axis."""
    return any(
        (window - 1) * dilation + 1 > (size - 1) * spread + 1
        for window, dilation, size, spread in zip(
            case.window, case.rhs_dilation, case.space, case.lhs_dilation, strict=True
        )
    )
