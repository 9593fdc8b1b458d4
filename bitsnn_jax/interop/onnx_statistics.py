"""ONNX's norms, softmax, reductions and sums, as JAX functions."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bitsnn_jax.interop.onnx_values import known, library, whole
from bitsnn_jax.interop.windows import per_channel

Fn = Callable[..., Any]


def _batch_norm(
    x,
    scale,
    bias,
    mean,
    var,
    *,
    epsilon=1e-5,
    momentum=0.9,
    spatial=1,
    training_mode=0,
):
    if training_mode or not spatial:
        raise ValueError(
            "it has another form in training or without channels: export the network "
            "for inference"
        )
    scale = per_channel(scale * lax.rsqrt(var + epsilon), x)
    return (x - per_channel(mean, x)) * scale + per_channel(bias, x)


def _normalised(x, axes, epsilon):
    rest = x - jnp.mean(x, axes, keepdims=True)
    return rest * lax.rsqrt(jnp.mean(rest * rest, axes, keepdims=True) + epsilon)


def _instance_norm(x, scale, bias, *, epsilon=1e-5):
    y = _normalised(x, tuple(range(2, x.ndim)), epsilon)
    return y * per_channel(scale, x) + per_channel(bias, x)


def _group_norm(x, scale, bias, *, num_groups, epsilon=1e-5, stash_type=1):
    groups = x.reshape(x.shape[0], num_groups, -1)
    y = _normalised(groups, (2,), epsilon).reshape(x.shape)
    if scale.shape[0] == num_groups != x.shape[1]:  # before opset 21
        scale, bias = (jnp.repeat(v, x.shape[1] // num_groups) for v in (scale, bias))
    return y * per_channel(scale, x) + per_channel(bias, x)


def _layer_norm(x, scale, bias=None, *, axis=-1, epsilon=1e-5, stash_type=1):
    y = _normalised(x, tuple(range(axis % x.ndim, x.ndim)), epsilon) * scale
    return y if bias is None else y + bias


def _rms_norm(x, scale, *, axis=-1, epsilon=1e-5, stash_type=1):
    axes = tuple(range(axis % x.ndim, x.ndim))
    return x * lax.rsqrt(jnp.mean(x * x, axes, keepdims=True) + epsilon) * scale


def _local_response_norm(x, *, size, alpha=1e-4, beta=0.75, bias=1.0):
    around = (size - 1) // 2, size // 2
    window, pads = [1] * x.ndim, [(0, 0)] * x.ndim
    window[1], pads[1] = size, around
    zero = np.zeros((), x.dtype)[()]
    total = lax.reduce_window(x * x, zero, lax.add, window, [1] * x.ndim, pads)
    return x / (bias + alpha / size * total) ** beta


def _lp_norm(x, *, axis=-1, p=2):
    if p == 1:
        return x / jnp.sum(jnp.abs(x), axis, keepdims=True)
    return x / jnp.sqrt(jnp.sum(x * x, axis, keepdims=True))


def _softmax(fn: Fn) -> Fn:
    def softmax(x, *, axis=-1, flattened=0):
        if not flattened:
            return fn(x, axis)
        # Before opset 13: over all axes from this one on.
        rows = x.reshape(math.prod(x.shape[: axis % x.ndim]), -1)
        return fn(rows, -1).reshape(x.shape)

    return softmax


def _reduced(fn: Callable[..., Any]) -> Fn:
    def reduce(x, axes=None, *, keepdims=1, noop_with_empty_axes=0):
        chosen = [] if axes is None else whole(axes, "axes")
        if not chosen and noop_with_empty_axes:
            return x
        return fn(library(x), x, tuple(chosen) or None, bool(keepdims))

    return reduce


def _log_sum_exp(lib, x, axes, keep):
    return jax.nn.logsumexp(jnp.asarray(x), axes, keepdims=keep)


def _best(name: str) -> Fn:
    def best(x, *, axis=0, keepdims=1, select_last_index=0):
        lib, n = library(x), x.shape[axis]
        if select_last_index:
            found = n - 1 - getattr(lib, name)(lib.flip(x, axis), axis)
        else:
            found = getattr(lib, name)(x, axis)
        return lib.expand_dims(found, axis) if keepdims else found

    return best


def _cumulative_sum(x, axis, *, exclusive=0, reverse=0):
    lib, at = library(x), int(known(axis, "axis").item())
    x = lib.flip(x, at) if reverse else x
    y = lib.cumsum(x, at)
    if exclusive:
        y = y - x
    return lib.flip(y, at) if reverse else y


_REDUCTIONS: dict[str, Callable[..., Any]] = {
    "L1": lambda lib, x, axes, keep: lib.sum(abs(x), axis=axes, keepdims=keep),
    "L2": lambda lib, x, axes, keep: lib.sqrt(lib.sum(x * x, axis=axes, keepdims=keep)),
    "LogSumExp": _log_sum_exp,
    "Max": lambda lib, x, axes, keep: lib.max(x, axis=axes, keepdims=keep),
    "Mean": lambda lib, x, axes, keep: lib.mean(x, axis=axes, keepdims=keep),
    "Min": lambda lib, x, axes, keep: lib.min(x, axis=axes, keepdims=keep),
    "Prod": lambda lib, x, axes, keep: lib.prod(x, axis=axes, keepdims=keep),
    "Sum": lambda lib, x, axes, keep: lib.sum(x, axis=axes, keepdims=keep),
    "SumSquare": lambda lib, x, axes, keep: lib.sum(x * x, axis=axes, keepdims=keep),
}
STATISTICS: dict[str, Fn] = {
    "ArgMax": _best("argmax"),
    "ArgMin": _best("argmin"),
    "BatchNormalization": _batch_norm,
    "CumSum": _cumulative_sum,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LRN": _local_response_norm,
    "LayerNormalization": _layer_norm,
    "LogSoftmax": _softmax(jax.nn.log_softmax),
    "LpNormalization": _lp_norm,
    "RMSNormalization": _rms_norm,
    "Softmax": _softmax(jax.nn.softmax),
    **{f"Reduce{name}": _reduced(fn) for name, fn in _REDUCTIONS.items()},
}
