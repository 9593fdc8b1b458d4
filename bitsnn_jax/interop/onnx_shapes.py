"""ONNX's operators that move numbers or compute sizes, as functions of arrays."""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bitsnn_jax.interop.onnx_values import is_known, known, library, whole

Fn = Callable[..., Any]


def _shape(x, *, start=0, end=None):
    return np.array(np.shape(x)[start:end], np.int64)


def _size(x):
    return np.array(math.prod(np.shape(x)), np.int64)


def _reshape(x, shape, *, allowzero=0):
    sizes = whole(shape, "shape")
    if not allowzero:
        sizes = [x.shape[i] if n == 0 else n for i, n in enumerate(sizes)]
    return x.reshape(sizes)


def _flatten(x, *, axis=1):
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), -1)


def _transpose(x, *, perm=None):
    return x.transpose(perm)


def _squeeze(x, axes=None):
    return library(x).squeeze(x, None if axes is None else tuple(whole(axes, "axes")))


def _unsqueeze(x, axes):
    return library(x).expand_dims(x, tuple(whole(axes, "axes")))


def _concat(*values, axis):
    lib = library(*values)
    return lib.concatenate([lib.asarray(v) for v in values], axis)


def _split(x, split=None, *, axis=0, num_outputs=1):
    n = x.shape[axis]
    if split is not None:
        sizes = whole(split, "split")
    else:
        size = -(-n // num_outputs)
        sizes = [max(0, min(size, n - i * size)) for i in range(num_outputs)]
    ends = list(itertools.accumulate(sizes))[:-1]
    return tuple(library(x).split(x, ends, axis))


def _slice(x, starts, ends, axes=None, steps=None):
    starts, ends = whole(starts, "starts"), whole(ends, "ends")
    axes = range(len(starts)) if axes is None else whole(axes, "axes")
    steps = [1] * len(starts) if steps is None else whole(steps, "steps")
    places = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        # Backwards, -1 would be the last place and not the one before the first.
        is_all = step < 0 and end < -x.shape[axis]
        places[axis] = slice(start, None if is_all else end, step)
    return x[tuple(places)]


def _positive(indices, size):
    return library(indices).where(indices < 0, indices + size, indices)


def _gather(x, indices, *, axis=0):
    size = x.shape[axis]
    if is_known(x, indices):
        return np.take(x, indices, axis)
    indices = _positive(indices, size)
    if is_known(indices):
        flat = indices.reshape(-1)
        if flat.size and (flat == flat[0] + np.arange(flat.size)).all():
            y = lax.slice_in_dim(x, int(flat[0]), int(flat[-1]) + 1, axis=axis)
            at = axis % x.ndim
            return y.reshape(*x.shape[:at], *indices.shape, *x.shape[at + 1 :])
    return jnp.take(x, indices, axis, mode="clip")


def _gather_elements(x, indices, *, axis=0):
    at = list(np.indices(np.shape(indices)))
    at[axis] = _positive(indices, x.shape[axis])
    return x[tuple(at)]


def _gather_nd(x, indices, *, batch_dims=0):
    if batch_dims:
        each = functools.partial(_gather_nd, batch_dims=batch_dims - 1)
        return jax.vmap(each)(jnp.asarray(x), jnp.asarray(indices))
    return x[tuple(library(indices).moveaxis(indices, -1, 0))]


_SCATTERED = {
    "none": "set",
    "add": "add",
    "mul": "multiply",
    "max": "max",
    "min": "min",
}


def _scatter_nd(x, indices, updates, *, reduction="none"):
    at = tuple(library(indices).moveaxis(indices, -1, 0))
    if is_known(x, indices, updates) and reduction == "none":
        y = x.copy()
        y[at] = updates
        return y
    return getattr(jnp.asarray(x).at[at], _SCATTERED[reduction])(updates)


def _scatter_elements(x, indices, updates, *, axis=0, reduction="none"):
    at = list(np.indices(np.shape(indices)))
    at[axis] = _positive(indices, x.shape[axis])
    return getattr(jnp.asarray(x).at[tuple(at)], _SCATTERED[reduction])(updates)


def _expand(x, shape):
    wanted = np.broadcast_shapes(x.shape, tuple(whole(shape, "shape")))
    return library(x).broadcast_to(x, wanted)


def _tile(x, repeats):
    return library(x).tile(x, whole(repeats, "repeats"))


def _pad(x, pads, constant_value=None, axes=None, *, mode="constant", value=0.0):
    around = whole(pads, "pads")
    count = len(around) // 2
    chosen = range(count) if axes is None else whole(axes, "axes")
    widths = [(0, 0)] * x.ndim
    for i, axis in enumerate(chosen):
        widths[axis] = around[i], around[i + count]
    if mode != "constant":
        return library(x).pad(x, widths, mode=mode)
    if constant_value is not None and np.size(constant_value):
        value = known(constant_value, "constant_value").item()
    if is_known(x):
        return np.pad(x, widths, constant_values=value)
    return lax.pad(x, jnp.asarray(value, x.dtype), [(*w, 0) for w in widths])


def _depth_to_space(x, *, blocksize, mode="DCR"):
    n, c, h, w = x.shape
    b, rest = blocksize, c // blocksize**2
    if mode == "DCR":
        y = x.reshape(n, b, b, rest, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        y = x.reshape(n, rest, b, b, h, w).transpose(0, 1, 4, 2, 5, 3)
    return y.reshape(n, rest, h * b, w * b)


def _space_to_depth(x, *, blocksize):
    n, c, h, w = x.shape
    b = blocksize
    y = x.reshape(n, c, h // b, b, w // b, b).transpose(0, 3, 5, 1, 2, 4)
    return y.reshape(n, c * b * b, h // b, w // b)


def _constant_of_shape(shape, *, value=0.0, dtype="float32"):
    return np.full(whole(shape, "shape"), value, dtype)


def _range(start, limit, delta):
    values = [known(v, "ends") for v in (start, limit, delta)]
    return np.arange(*(v.item() for v in values), dtype=values[0].dtype)


def _cast(x, *, to, saturate=1, round_mode="up"):
    wanted = np.dtype(to)
    # One floating type throughout, so that float64 is float64 from end to end.
    if np.issubdtype(wanted, np.floating) and jnp.issubdtype(x.dtype, jnp.floating):
        return x
    if is_known(x):
        return x.astype(wanted)
    return x.astype(jax.dtypes.canonicalize_dtype(wanted))


def _cast_like(x, like, *, saturate=1, round_mode="up"):
    return _cast(x, to=str(like.dtype))


def _trilu(x, k=None, *, upper=1):
    diagonal = 0 if k is None else int(known(k, "k").item())
    lib = library(x)
    return lib.triu(x, diagonal) if upper else lib.tril(x, diagonal)


def _non_zero(x):
    return np.array(np.nonzero(known(x, "input")), np.int64)


SHAPES: dict[str, Fn] = {
    "Cast": _cast,
    "CastLike": _cast_like,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Identity": lambda x: x,
    "NonZero": _non_zero,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
}
# Operands that fix a shape or a place, by operator: they stay known numbers.
KNOWN: dict[str, tuple[int, ...]] = {
    "Clip": (1, 2),
    "ConstantOfShape": (0,),
    "CumSum": (1,),
    "Dropout": (1, 2),
    "Expand": (1,),
    "NonZero": (0,),
    "Pad": (1, 2, 3),
    "Pow": (1,),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "Trilu": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
    **{
        f"Reduce{name}": (1,)
        for name in "L1 L2 LogSumExp Max Mean Min Prod Sum SumSquare".split()
    },
}
