"""ONNX's convolutions, products and poolings, as JAX functions."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from bitsnn_jax.interop import windows
from bitsnn_jax.interop.onnx_values import known, library

Fn = Callable[..., Any]


def _pads(x, kernel, strides, dilations, pads, auto_pad) -> list[tuple[int, int]]:
    space = len(kernel)
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        first = auto_pad == "SAME_LOWER"
        sizes = x.shape[-space:]
        return windows.same_pads(sizes, kernel, strides, dilations, extra_first=first)
    pads = pads or [0] * 2 * space
    return list(zip(pads[:space], pads[space:], strict=True))


def _conv(
    x,
    w,
    b=None,
    *,
    auto_pad="NOTSET",
    dilations=None,
    group=1,
    kernel_shape=None,
    pads=None,
    strides=None,
):
    kernel = w.shape[2:]
    strides = strides or [1] * len(kernel)
    dilations = dilations or [1] * len(kernel)
    return windows.convolve(
        x,
        jnp.asarray(w),
        b,
        strides=strides,
        pads=_pads(x, kernel, strides, dilations, pads, auto_pad),
        dilations=dilations,
        groups=group,
    )


def _conv_transpose(
    x,
    w,
    b=None,
    *,
    auto_pad="NOTSET",
    dilations=None,
    group=1,
    kernel_shape=None,
    output_padding=None,
    output_shape=None,
    pads=None,
    strides=None,
):
    kernel, ones = w.shape[2:], [1] * (w.ndim - 2)
    strides, dilations = strides or ones, dilations or ones
    more = output_padding or [0] * len(kernel)
    same = auto_pad in ("SAME_UPPER", "SAME_LOWER")
    if output_shape is None and same:
        sizes = zip(x.shape[2:], strides, strict=True)
        output_shape = [n * s for n, s in sizes]
    if output_shape is None:
        around = _pads(x, kernel, strides, dilations, pads, auto_pad)
    else:
        around = []
        for n, k, s, d, extra, out in zip(
            x.shape[2:],
            kernel,
            strides,
            dilations,
            more,
            output_shape[-len(kernel) :],
            strict=True,
        ):
            total = s * (n - 1) + extra + (k - 1) * d + 1 - out
            less, rest = total // 2, total - total // 2
            upper = auto_pad == "SAME_UPPER"
            around.append((less, rest) if upper else (rest, less))
    return windows.convolve_transposed(
        x,
        jnp.asarray(w),
        b,
        strides=strides,
        pads=around,
        dilations=dilations,
        output_pads=more,
        groups=group,
    )


def _gemm(a, b, c=None, *, alpha=1.0, beta=1.0, transA=0, transB=0):
    a, b = a.T if transA else a, b.T if transB else b
    y = a @ b
    if alpha != 1:
        y = alpha * y
    if c is None:
        return y
    return y + (c if beta == 1 else beta * c)


def _max_pool(
    x,
    *,
    kernel_shape,
    auto_pad="NOTSET",
    ceil_mode=0,
    dilations=None,
    pads=None,
    storage_order=0,
    strides=None,
):
    strides = strides or [1] * len(kernel_shape)
    dilations = dilations or [1] * len(kernel_shape)
    around = _pads(x, kernel_shape, strides, dilations, pads, auto_pad)
    return windows.max_pool(
        x, kernel_shape, strides, around, dilations, ceil_mode=bool(ceil_mode)
    )


def _average_pool(
    x,
    *,
    kernel_shape,
    auto_pad="NOTSET",
    ceil_mode=0,
    count_include_pad=0,
    pads=None,
    strides=None,
):
    strides = strides or [1] * len(kernel_shape)
    ones = [1] * len(kernel_shape)
    return windows.average_pool(
        x,
        kernel_shape,
        strides,
        _pads(x, kernel_shape, strides, ones, pads, auto_pad),
        ceil_mode=bool(ceil_mode),
        count_pads=bool(count_include_pad),
    )


def _space(x) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


def _global_average_pool(x):
    return jnp.mean(x, _space(x), keepdims=True)


def _global_max_pool(x):
    return jnp.max(x, _space(x), keepdims=True)


def _einsum(*values, equation):
    return library(*values).einsum(equation, *values)


def _matmul(x, y):
    return library(x, y).matmul(x, y)


def _dropout(x, ratio=None, training_mode=None, *, seed=0, is_test=1):
    if training_mode is not None and known(training_mode, "training_mode").item():
        raise ValueError("it drops values at random: export the network for inference")
    return x


LAYERS: dict[str, Fn] = {
    "AveragePool": _average_pool,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Dropout": _dropout,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average_pool,
    "GlobalMaxPool": _global_max_pool,
    "MatMul": _matmul,
    "MaxPool": _max_pool,
}
