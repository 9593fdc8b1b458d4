"""PyTorch's makers of tensors and changes of type, as JAX functions.

They take a type in the place of PyTorch's; where it is of the floats, it is the one of
the network's variables.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp


def _arange(start, end, step=1, dtype=None):
    return jnp.arange(start, end, step, dtype)


def _full(size, value, dtype=None):
    return jnp.full(tuple(size), value, dtype)


def _full_like(x, value, dtype=None):
    return jnp.full(x.shape, value, x.dtype if dtype is None else dtype)


def _filled(value) -> Callable[..., Any]:
    def filled(size, dtype=None):
        return jnp.full(tuple(size), value, jnp.float32 if dtype is None else dtype)

    return filled


def _cast(x, dtype=None, copy=False):
    return x if dtype is None else jnp.asarray(x).astype(dtype)


def _same(x, *_, **__):
    return x


def _scalar(value, dtype=None):
    return jnp.asarray(value, dtype)


def _triangle(part) -> Callable[..., Any]:
    return lambda x, diagonal=0: part(x, diagonal)


MAKERS: dict[str, Callable[..., Any]] = {
    "aten._to_copy.default": _cast,
    "aten.alias.default": _same,
    "aten.arange.start_step": _arange,
    "aten.clone.default": _same,
    "aten.contiguous.default": _same,
    "aten.copy.default": lambda x, y, _=False: jnp.broadcast_to(y, x.shape).astype(
        x.dtype
    ),
    "aten.detach.default": _same,
    "aten.detach_.default": _same,
    "aten.dropout.default": _same,
    "aten.empty.memory_format": _filled(0),
    "aten.eye.default": lambda n, dtype=None: jnp.eye(n, dtype=dtype),
    "aten.eye.m": lambda n, m, dtype=None: jnp.eye(n, m, dtype=dtype),
    "aten.fill.Scalar": lambda x, value: jnp.full(x.shape, value, x.dtype),
    "aten.full.default": _full,
    "aten.full_like.default": _full_like,
    "aten.lift_fresh_copy.default": _same,
    "aten.ones.default": _filled(1),
    "aten.ones_like.default": lambda x, dtype=None: _full_like(x, 1, dtype),
    "aten.scalar_tensor.default": _scalar,
    "aten.tril.default": _triangle(jnp.tril),
    "aten.triu.default": _triangle(jnp.triu),
    "aten.zeros.default": _filled(0),
    "aten.zeros_like.default": lambda x, dtype=None: _full_like(x, 0, dtype),
}
