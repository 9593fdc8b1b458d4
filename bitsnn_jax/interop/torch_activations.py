"""PyTorch's functions of one value, as JAX functions.

Each is the function of `jax.nn` or its plain formula, and stays one activation.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def _hardtanh(x, low=-1.0, high=1.0):
    if low == 0:
        return jax.nn.relu6(x) if high == 6 else jnp.minimum(jax.nn.relu(x), high)
    return jnp.clip(x, low, high)


def _clamp(x, low=None, high=None):
    if low is not None:
        x = jnp.maximum(x, low)
    return x if high is None else jnp.minimum(x, high)


def _softplus(x, beta=1, threshold=20):
    y = jax.nn.softplus(x) if beta == 1 else jax.nn.softplus(x * beta) / beta
    return jnp.where(x * beta > threshold, x, y)


def _elu(x, alpha=1.0, scale=1, input_scale=1):
    if input_scale != 1:
        negative = alpha * jnp.expm1(x * input_scale)
        return scale * jnp.where(x > 0, x, negative)
    y = jax.nn.elu(x, alpha)
    return y if scale == 1 else scale * y


def _prelu(x, slope):
    if slope.size > 1:
        slope = slope.reshape(-1, *(1,) * (x.ndim - 2)) if x.ndim > 1 else slope
    else:
        slope = slope.reshape(())
    return jnp.where(x > 0, x, slope * x)


def _softshrink(x, lambd=0.5):
    return jnp.where(x > lambd, x - lambd, jnp.where(x < -lambd, x + lambd, 0 * x))


def _threshold(x, threshold, value):
    return jnp.where(x > threshold, x, value)


def _rrelu(x, lower=1 / 8, upper=1 / 3, training=False, generator=None):
    return jax.nn.leaky_relu(x, (lower + upper) / 2)


def _pow(x, exponent):
    whole = isinstance(exponent, float) and exponent.is_integer()
    return x ** (int(exponent) if whole else exponent)


def _nan_to_num(x, nan=0.0, posinf=None, neginf=None):
    return jnp.nan_to_num(x, nan=nan, posinf=posinf, neginf=neginf)


_PLAIN: dict[str, Callable[..., Any]] = {
    "abs": jnp.abs,
    "acos": jnp.arccos,
    "acosh": jnp.arccosh,
    "asin": jnp.arcsin,
    "asinh": jnp.arcsinh,
    "atan": jnp.arctan,
    "atanh": jnp.arctanh,
    "bitwise_not": jnp.bitwise_not,
    "ceil": jnp.ceil,
    "celu": lambda x, alpha=1.0: jax.nn.celu(x, alpha),
    "clamp": _clamp,
    "clamp_max": lambda x, high: jnp.minimum(x, high),
    "clamp_min": lambda x, low: jnp.maximum(x, low),
    "cos": jnp.cos,
    "cosh": jnp.cosh,
    "elu": _elu,
    "erf": lax.erf,
    "erfc": lax.erfc,
    "exp": jnp.exp,
    "exp2": jnp.exp2,
    "expm1": jnp.expm1,
    "floor": jnp.floor,
    "gelu": lambda x, approximate="none": jax.nn.gelu(x, approximate == "tanh"),
    "hardshrink": lambda x, lambd=0.5: jnp.where(jnp.abs(x) > lambd, x, 0 * x),
    "hardsigmoid": jax.nn.hard_sigmoid,
    "hardswish": jax.nn.hard_swish,
    "hardtanh": _hardtanh,
    "isinf": jnp.isinf,
    "isnan": jnp.isnan,
    "leaky_relu": lambda x, slope=0.01: jax.nn.leaky_relu(x, slope),
    "log": jnp.log,
    "log10": jnp.log10,
    "log1p": jnp.log1p,
    "log2": jnp.log2,
    "log_sigmoid": jax.nn.log_sigmoid,
    "logical_not": jnp.logical_not,
    "mish": jax.nn.mish,
    "nan_to_num": _nan_to_num,
    "neg": lambda x: -x,
    "prelu": _prelu,
    "reciprocal": lambda x: 1 / x,
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "round": jnp.round,
    "rrelu": _rrelu,
    "rsqrt": lax.rsqrt,
    "selu": jax.nn.selu,
    "sigmoid": jax.nn.sigmoid,
    "sign": jnp.sign,
    "silu": jax.nn.silu,
    "sin": jnp.sin,
    "sinh": jnp.sinh,
    "softplus": _softplus,
    "softshrink": _softshrink,
    "sqrt": jnp.sqrt,
    "tan": jnp.tan,
    "tanh": jnp.tanh,
    "threshold": _threshold,
    "trunc": jnp.trunc,
}
ACTIVATIONS: dict[str, Callable[..., Any]] = {
    **{f"aten.{name}.default": fn for name, fn in _PLAIN.items()},
    "aten.clamp.Tensor": _clamp,
    "aten.pow.Scalar": lambda base, x: base**x,
    "aten.pow.Tensor_Scalar": _pow,
    "aten.pow.Tensor_Tensor": lambda x, y: x**y,
}
