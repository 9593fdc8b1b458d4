"""PyTorch's layers, as JAX functions: convolution, norms, pooling, attention."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bitsnn_jax.interop import windows
from bitsnn_jax.numerics.mixing import lookup, normalise, softmax


def _each(value, axes) -> list[int]:
    """Give a number for each axis; one counts for all."""
    values = [value] if isinstance(value, int) else list(value)
    return values * axes if len(values) == 1 else values


def _linear(x, weight, bias=None):
    y = x @ weight.T
    return y if bias is None else y + bias


def _convolution(
    x, weight, bias, stride, padding, dilation, transposed, output_padding, groups
):
    if x.ndim < weight.ndim:  # one example without a batch
        return _convolution(
            x[None],
            weight,
            bias,
            stride,
            padding,
            dilation,
            transposed,
            output_padding,
            groups,
        )[0]
    space = x.ndim - 2
    geometry: dict[str, Any] = {
        "strides": _each(stride, space),
        "pads": [(p, p) for p in _each(padding, space)],
        "dilations": _each(dilation, space),
        "groups": groups,
    }
    if not transposed:
        return windows.convolve(x, weight, bias, **geometry)
    more = _each(output_padding, space)
    return windows.convolve_transposed(x, weight, bias, output_pads=more, **geometry)


def _batch_norm(x, weight, bias, mean, var, momentum, eps):
    scale = lax.rsqrt(var + eps)
    scale = scale if weight is None else scale * weight
    y = (x - windows.per_channel(mean, x)) * windows.per_channel(scale, x)
    return y if bias is None else y + windows.per_channel(bias, x), None, None


def _batch_norm_of_batch(x, weight, bias, training, momentum, eps):
    axes = (0, *range(2, x.ndim))
    count = math.prod(x.shape[a] for a in axes)
    mean = jnp.sum(x, axes) / count
    rest = x - windows.per_channel(mean, x)
    var = jnp.sum(rest * rest, axes) / count
    y, *_ = _batch_norm(x, weight, bias, mean, var, momentum, eps)
    return y, mean, lax.rsqrt(var + eps)


def _layer_norm(x, shape, weight, bias, eps):
    """Return the values alone: mean and deviation are for training."""
    rows = x.reshape(*x.shape[: x.ndim - len(shape)], -1)
    y = normalise(rows, epsilon=eps).reshape(x.shape)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias, None, None


def _group_norm(x, weight, bias, batch, channels, space, groups, eps):
    parts = x.reshape(x.shape[0], groups, -1)
    y = normalise(parts, epsilon=eps).reshape(x.shape)
    y = y if weight is None else y * windows.per_channel(weight, x)
    return y if bias is None else y + windows.per_channel(bias, x), None, None


def _max_pool(space, x, kernel, stride=(), padding=0, dilation=1, ceil_mode=False):
    kernel = _each(kernel, space)
    y = windows.max_pool(
        x,
        kernel,
        _each(stride, space) if stride != () and stride != [] else kernel,
        [(p, p) for p in _each(padding, space)],
        _each(dilation, space),
        ceil_mode=ceil_mode,
    )
    return y, None


def _average_pool(
    space,
    x,
    kernel,
    stride=(),
    padding=0,
    ceil_mode=False,
    count_include_pad=True,
    divisor_override=None,
):
    kernel = _each(kernel, space)
    return windows.average_pool(
        x,
        kernel,
        _each(stride, space) if stride != () and stride != [] else kernel,
        [(p, p) for p in _each(padding, space)],
        ceil_mode=ceil_mode,
        count_pads=count_include_pad,
        divisor=divisor_override,
    )


def _adaptive_average(x, size):
    before = x.shape[x.ndim - len(size) :]
    if all(n % m == 0 for n, m in zip(before, size, strict=True)):
        kernel = [n // m for n, m in zip(before, size, strict=True)]
        return windows.average_pool(x, kernel, kernel, [(0, 0)] * len(size))
    for i, (n, m) in enumerate(zip(before, size, strict=True)):
        weights = windows.adaptive_weights(n, m)
        x = windows.along(x, x.ndim - len(size) + i, weights)
    return x


def _adaptive_max(x, size):
    for i, m in enumerate(size):
        axis = x.ndim - len(size) + i
        n = x.shape[axis]
        parts = [
            jnp.max(
                lax.slice_in_dim(x, o * n // m, -(-(o + 1) * n // m), axis=axis),
                axis,
                keepdims=True,
            )
            for o in range(m)
        ]
        x = jnp.concatenate(parts, axis)
    return x, None


def _sizes(x, size, scales) -> list[int]:
    if size is not None:
        return list(size)
    return [math.floor(n * s) for n, s in zip(x.shape[2:], scales, strict=True)]


def _resize(weights, x, size, align_corners, scales=None):
    space = x.ndim - 2
    for i, outputs in enumerate(_sizes(x, size, scales)):
        n, scale = x.shape[2 + i], scales[i] if scales else None
        if n == outputs:
            continue
        places = windows.source_places(
            n, outputs, align_corners=align_corners, scale=scale
        )
        x = windows.along(x, x.ndim - space + i, weights(n, places))
    return x


def _resize_nearest(middle, x, size, scales=None):
    for i, outputs in enumerate(_sizes(x, size, scales)):
        n = x.shape[2 + i]
        ratio = np.float32(1 / scales[i] if scales else n / outputs)
        at = np.arange(outputs, dtype=np.float32) + np.float32(0.5 * middle)
        x = windows.nearest(x, 2 + i, outputs, np.floor(at * ratio).astype(int))
    return x


def _attention(
    q, k, v, mask=None, dropout=0.0, causal=False, scale=None, enable_gqa=False
):
    if enable_gqa:
        k, v = (jnp.repeat(a, q.shape[-3] // a.shape[-3], -3) for a in (k, v))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = jnp.matmul(q, jnp.swapaxes(k, -1, -2)) * scale
    if causal:
        allowed = np.tril(np.ones(scores.shape[-2:], bool))
        scores = jnp.where(allowed, scores, -jnp.inf)
    if mask is not None and mask.dtype == bool:
        scores = jnp.where(mask, scores, -jnp.inf)
    elif mask is not None:
        scores = scores + mask
    return jnp.matmul(softmax(scores), v)


def _softmax(x, dim, dtype=None):
    last = dim in (-1, x.ndim - 1)
    return softmax(x) if last and x.ndim else jax.nn.softmax(x, dim)


def _embedding(weight, indices, padding_idx=-1, scale=False, sparse=False):
    return lookup(weight, indices)


LAYERS: dict[str, Callable[..., Any]] = {
    "aten._log_softmax.default": lambda x, dim, _: jax.nn.log_softmax(x, dim),
    "aten._native_batch_norm_legit.no_stats": _batch_norm_of_batch,
    "aten._native_batch_norm_legit_no_training.default": _batch_norm,
    "aten._softmax.default": _softmax,
    "aten._safe_softmax.default": _softmax,
    "aten.convolution.default": _convolution,
    "aten.embedding.default": _embedding,
    "aten.linear.default": _linear,
    "aten.native_group_norm.default": _group_norm,
    "aten.native_layer_norm.default": _layer_norm,
    "aten.scaled_dot_product_attention.default": _attention,
    "aten.upsample_bicubic2d.vec": partial(_resize, windows.cubic_weights),
    "aten.upsample_bilinear2d.vec": partial(_resize, windows.linear_weights),
    "aten.upsample_linear1d.vec": partial(_resize, windows.linear_weights),
    "aten.upsample_trilinear3d.vec": partial(_resize, windows.linear_weights),
}
for _n in (1, 2, 3):
    _exact, _plain = f"aten._upsample_nearest_exact{_n}d.vec", f"upsample_nearest{_n}d"
    LAYERS |= {
        f"aten._adaptive_avg_pool{_n}d.default": _adaptive_average,
        f"aten.adaptive_avg_pool{_n}d.default": _adaptive_average,
        f"aten.adaptive_max_pool{_n}d.default": _adaptive_max,
        f"aten.avg_pool{_n}d.default": partial(_average_pool, _n),
        f"aten.max_pool{_n}d_with_indices.default": partial(_max_pool, _n),
        f"aten.{_plain}.vec": partial(_resize_nearest, False),
        _exact: partial(_resize_nearest, True),
    }
