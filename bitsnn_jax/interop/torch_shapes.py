"""PyTorch's moves of elements, as JAX functions: views, slices, indices, padding."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax


def _view(x, size):
    return x.reshape(tuple(size))


def _slice(x, dim=0, start=None, end=None, step=1):
    first, end, step = slice(start, end, step).indices(x.shape[dim])
    return lax.slice_in_dim(x, first, max(first, end), step, dim)


def _place(x, dim, index):
    """Index the axis `dim` of x."""
    return (*(slice(None),) * (dim % x.ndim), index)


def _slice_scatter(x, source, dim=0, start=None, end=None, step=1):
    part = slice(*slice(start, end, step).indices(x.shape[dim]))
    if part == slice(0, x.shape[dim], 1):
        return source
    return x.at[_place(x, dim, part)].set(source)


def _select_scatter(x, source, dim, index):
    return x.at[_place(x, dim, index)].set(source)


def _split(x, sizes, dim=0):
    ends = list(itertools.accumulate(sizes))
    return tuple(
        lax.slice_in_dim(x, end - n, end, axis=dim)
        for n, end in zip(sizes, ends, strict=True)
    )


def _split_evenly(x, size, dim=0):
    sizes = [min(size, x.shape[dim] - i) for i in range(0, x.shape[dim], size)]
    return _split(x, sizes, dim)


def _unbind(x, dim=0):
    return tuple(
        lax.index_in_dim(x, i, dim, keepdims=False) for i in range(x.shape[dim])
    )


def _squeeze(x, dims=None):
    dims = range(x.ndim) if dims is None else dims
    dims = [dims] if isinstance(dims, int) else dims
    return jnp.squeeze(x, tuple(a for a in dims if x.shape[a] == 1))


def _expand(x, size, implicit=False):
    lead = len(size) - x.ndim
    sizes = [x.shape[i - lead] if n == -1 else n for i, n in enumerate(size)]
    return jnp.broadcast_to(x, tuple(sizes))


def _cat(arrays, dim=0):
    return jnp.concatenate([a for a in arrays if a.shape != (0,)], dim)


def _index(x, indices):
    return x[tuple(slice(None) if i is None else i for i in indices)]


def _index_put(x, indices, values, accumulate=False):
    at = x.at[tuple(slice(None) if i is None else i for i in indices)]
    return at.add(values) if accumulate else at.set(values)


def _scatter(x, dim, index, source):
    places = list(jnp.indices(index.shape, sparse=True))
    places[dim] = index
    values = (
        source
        if isinstance(source, (int, float))
        else source[tuple(slice(n) for n in index.shape)]
    )
    return x.at[tuple(places)].set(values)


def _sided(pad) -> list[tuple[int, int]]:
    """Read PyTorch's padding, which begins with the last axis."""
    return [(pad[i], pad[i + 1]) for i in range(len(pad) - 2, -1, -2)]


def _pad(x, pad, value=0.0):
    sides = [(0, 0)] * (x.ndim - len(pad) // 2) + _sided(pad)
    value = jnp.asarray(value, x.dtype)
    return lax.pad(x, value, [(low, high, 0) for low, high in sides])


def _pad_as(mode) -> Callable[..., Any]:
    def padded(x, pad):
        sides = [(0, 0)] * (x.ndim - len(pad) // 2) + _sided(pad)
        return jnp.pad(x, sides, mode)

    return padded


def _as_strided(x, size, stride, offset=None):
    """Restore an order of memory, which JAX does not have: the values stay."""
    steps = [math.prod(size[i + 1 :]) for i in range(len(size))]
    if not offset and list(stride) == steps and math.prod(size) == x.size:
        return x.reshape(tuple(size))
    if not offset and tuple(size) == x.shape:
        return x
    raise ValueError(
        f"as_strided to {list(size)} with strides {list(stride)} of a tensor "
        f"{list(x.shape)} has no JAX form: use reshape, permute or slices in the module"
    )


def _roll(x, shifts, dims=()):
    return jnp.roll(x, tuple(shifts), tuple(dims) or None)


def _pixel_shuffle(x, factor):
    *lead, channels, height, width = x.shape
    x = x.reshape(*lead, channels // factor**2, factor, factor, height, width)
    x = jnp.moveaxis(x, (-4, -3), (-3, -1))
    return x.reshape(*lead, channels // factor**2, height * factor, width * factor)


SHAPES: dict[str, Callable[..., Any]] = {
    "aten._unsafe_view.default": _view,
    "aten.as_strided.default": _as_strided,
    "aten.as_strided_copy.default": _as_strided,
    "aten.cat.default": _cat,
    "aten.constant_pad_nd.default": _pad,
    "aten.diagonal.default": lambda x, offset=0, a=0, b=1: jnp.diagonal(
        x, offset, a, b
    ),
    "aten.expand.default": _expand,
    "aten.flip.default": lambda x, dims: jnp.flip(x, tuple(dims)),
    "aten.gather.default": lambda x, dim, index, sparse_grad=False: jnp.take_along_axis(
        x, index, dim
    ),
    "aten.index.Tensor": _index,
    "aten.index_put.default": _index_put,
    "aten.index_select.default": lambda x, dim, index: jnp.take(x, index, dim),
    "aten.permute.default": lambda x, dims: jnp.transpose(x, tuple(dims)),
    "aten.pixel_shuffle.default": _pixel_shuffle,
    "aten.repeat.default": lambda x, times: jnp.tile(x, tuple(times)),
    "aten.reshape.default": _view,
    "aten.roll.default": _roll,
    "aten.scatter.src": _scatter,
    "aten.scatter.value": _scatter,
    "aten.select.int": lambda x, dim, i: lax.index_in_dim(x, i, dim, keepdims=False),
    "aten.select_scatter.default": _select_scatter,
    "aten.slice.Tensor": _slice,
    "aten.slice_scatter.default": _slice_scatter,
    "aten.split.Tensor": _split_evenly,
    "aten.split_with_sizes.default": _split,
    "aten.squeeze.default": _squeeze,
    "aten.squeeze.dim": _squeeze,
    "aten.squeeze.dims": _squeeze,
    "aten.stack.default": lambda arrays, dim=0: jnp.stack(arrays, dim),
    "aten.t.default": lambda x: x.T,
    "aten.transpose.int": jnp.swapaxes,
    "aten.unbind.int": _unbind,
    "aten.unsqueeze.default": jnp.expand_dims,
    "aten.view.default": _view,
    "aten.where.self": jnp.where,
} | {
    f"aten.{kind}_pad{n}d.default": _pad_as(mode)
    for kind, mode in (("reflection", "reflect"), ("replication", "edge"))
    for n in (1, 2, 3)
}
