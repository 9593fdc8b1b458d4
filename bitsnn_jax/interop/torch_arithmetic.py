"""PyTorch's arithmetic, comparisons, products and reductions, as JAX functions."""

import math
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def _add(x, y, alpha=1):
    return x + (y if alpha == 1 else alpha * y)


def _sub(x, y, alpha=1):
    return x - (y if alpha == 1 else alpha * y)


def _div_rounded(x, y, rounding_mode=None):
    quotient = x / y
    if rounding_mode is None:
        return quotient
    rounded = {"floor": jnp.floor, "trunc": jnp.trunc}[rounding_mode](quotient)
    return rounded.astype(jnp.result_type(x, y))


def _addmm(bias, x, y, beta=1, alpha=1):
    product = x @ y
    if alpha != 1:
        product = alpha * product
    return product + (bias if beta == 1 else beta * bias)


def _axes(x, dim):
    """List axes; none given are all of them."""
    if dim is None or dim == []:
        return tuple(range(x.ndim))
    return tuple(dim) if isinstance(dim, (list, tuple)) else (dim,)


def _sum(x, dim=None, keepdim=False, dtype=None):
    x = x if dtype is None else x.astype(dtype)
    return jnp.sum(x, _axes(x, dim), keepdims=keepdim)


def _mean(x, dim=None, keepdim=False, dtype=None):
    x = x if dtype is None else x.astype(dtype)
    axes = _axes(x, dim)
    return jnp.sum(x, axes, keepdims=keepdim) / math.prod(x.shape[a] for a in axes)


def _var(x, dim=None, correction=1, keepdim=False):
    correction = 1 if correction is None else correction
    axes = _axes(x, dim)
    count = math.prod(x.shape[a] for a in axes)
    rest = x - jnp.sum(x, axes, keepdims=True) / count
    return jnp.sum(rest * rest, axes, keepdims=keepdim) / (count - correction)


def _std(x, dim=None, correction=1, keepdim=False):
    return jnp.sqrt(_var(x, dim, correction, keepdim))


def _var_mean(x, dim=None, correction=1, keepdim=False):
    return _var(x, dim, correction, keepdim), _mean(x, dim, keepdim)


def _reduced(reduce: Callable[..., Any]) -> Callable[..., Any]:
    def reduction(x, dim=None, keepdim=False):
        return reduce(x, axis=_axes(x, dim), keepdims=keepdim)

    return reduction


def _best(reduce, place) -> Callable[..., Any]:
    def best(x, dim, keepdim=False):
        return reduce(x, axis=dim, keepdims=keepdim), place(
            x, axis=dim, keepdims=keepdim
        )

    return best


def _prod(x, dim, keepdim=False, dtype=None):
    return jnp.prod(x if dtype is None else x.astype(dtype), dim, keepdims=keepdim)


def _norm(x, ord=2, dim=None, keepdim=False, dtype=None):
    axes = _axes(x, dim)
    if ord == 2:
        return jnp.sqrt(jnp.sum(x * x, axes, keepdims=keepdim))
    if math.isinf(ord):
        reduce = jnp.max if ord > 0 else jnp.min
        return reduce(jnp.abs(x), axes, keepdims=keepdim)
    return jnp.sum(jnp.abs(x) ** ord, axes, keepdims=keepdim) ** (1 / ord)


def _cumsum(x, dim, dtype=None):
    return jnp.cumsum(x if dtype is None else x.astype(dtype), dim)


def _topk(x, k, dim=-1, largest=True, sorted=True):
    moved = jnp.moveaxis(x, dim, -1)
    values, places = jax.lax.top_k(moved if largest else -moved, k)
    values = values if largest else -values
    return jnp.moveaxis(values, -1, dim), jnp.moveaxis(places, -1, dim)


def _sort(x, dim=-1, descending=False):
    order = jnp.argsort(x, axis=dim, descending=descending)
    return jnp.take_along_axis(x, order, dim), order


def _fmod(x, y):
    numpy = not isinstance(x, jax.Array) and not isinstance(y, jax.Array)
    return (np if numpy else jnp).fmod(x, y)


# Of numbers too, which sizes are.
_OF_SIZES: dict[str, Callable[..., Any]] = {
    f"operator.{name}": getattr(operator, name)
    for name in "add sub mul floordiv truediv mod neg pow eq ne lt le gt ge getitem "
    "and_ or_ not_".split()
} | {
    "math.ceil": math.ceil,
    "math.floor": math.floor,
    "math.trunc": math.trunc,
    "builtins.round": round,
    "torch.sym_float": float,
    "torch.sym_int": int,
    "torch.sym_max": max,
    "torch.sym_min": min,
    "torch.sym_not": operator.not_,
    "aten.sym_size.int": lambda x, dim: x.shape[dim],
    "aten.sym_numel.default": lambda x: math.prod(x.shape),
}
_TWO: dict[str, Callable[..., Any]] = {
    "add": _add,
    "bitwise_and": operator.and_,
    "bitwise_or": operator.or_,
    "bitwise_xor": operator.xor,
    "div": operator.truediv,
    "eq": operator.eq,
    "floor_divide": operator.floordiv,
    "fmod": _fmod,
    "ge": operator.ge,
    "gt": operator.gt,
    "le": operator.le,
    "lt": operator.lt,
    "mul": operator.mul,
    "ne": operator.ne,
    "remainder": operator.mod,
    "rsub": lambda x, y, alpha=1: y - (x if alpha == 1 else alpha * x),
    "sub": _sub,
}
ARITHMETIC: dict[str, Callable[..., Any]] = {
    **_OF_SIZES,
    **{
        f"aten.{name}.{kind}": fn
        for name, fn in _TWO.items()
        for kind in ("Tensor", "Scalar")
    },
    "aten.add.Scalar": _add,
    "aten.addmm.default": _addmm,
    "aten.amax.default": _reduced(jnp.max),
    "aten.amin.default": _reduced(jnp.min),
    "aten.any.default": jnp.any,
    "aten.any.dim": _reduced(jnp.any),
    "aten.any.dims": _reduced(jnp.any),
    "aten.all.default": jnp.all,
    "aten.all.dim": _reduced(jnp.all),
    "aten.argmax.default": lambda x, d=None, k=False: jnp.argmax(x, d, keepdims=k),
    "aten.argmin.default": lambda x, d=None, k=False: jnp.argmin(x, d, keepdims=k),
    "aten.atan2.default": jnp.arctan2,
    "aten.baddbmm.default": _addmm,
    "aten.bmm.default": jnp.matmul,
    "aten.cumsum.default": _cumsum,
    "aten.div.Tensor_mode": _div_rounded,
    "aten.div.Scalar_mode": _div_rounded,
    "aten.dot.default": jnp.dot,
    "aten.floor_divide.default": operator.floordiv,
    "aten.linalg_vector_norm.default": _norm,
    "aten.logical_and.default": jnp.logical_and,
    "aten.logical_or.default": jnp.logical_or,
    "aten.logical_xor.default": jnp.logical_xor,
    "aten.matmul.default": jnp.matmul,
    "aten.max.default": jnp.max,
    "aten.max.dim": _best(jnp.max, jnp.argmax),
    "aten.maximum.default": jnp.maximum,
    "aten.mean.default": lambda x, dtype=None: _mean(x, dtype=dtype),
    "aten.mean.dim": _mean,
    "aten.min.default": jnp.min,
    "aten.min.dim": _best(jnp.min, jnp.argmin),
    "aten.minimum.default": jnp.minimum,
    "aten.mm.default": jnp.matmul,
    "aten.mv.default": jnp.matmul,
    "aten.prod.dim_int": _prod,
    "aten.sort.default": _sort,
    "aten.std.correction": _std,
    "aten.sum.default": lambda x, dtype=None: _sum(x, dtype=dtype),
    "aten.sum.dim_IntList": _sum,
    "aten.topk.default": _topk,
    "aten.var.correction": _var,
    "aten.var_mean.correction": _var_mean,
}
