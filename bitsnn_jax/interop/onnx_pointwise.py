"""ONNX's operators of one element at a time, as JAX functions."""

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bitsnn_jax.interop.onnx_values import is_known, library, number

Fn = Callable[..., Any]


def _of_two(fn: Fn, of_known: Fn | None = None) -> Fn:
    def two(x, y):
        if is_known(x, y):
            return (of_known or fn)(x, y)
        return fn(number(x, y), number(y, x))

    return two


def _of_many(fn: Fn, of_known: Fn | None = None) -> Fn:
    return lambda *values: functools.reduce(_of_two(fn, of_known), values)


def _of_one(name: str) -> Fn:
    return lambda x: getattr(library(x), name)(x)


def _divided(x, y):
    if jnp.issubdtype(jnp.result_type(x, y), jnp.integer):
        # ONNX rounds towards zero.
        sign = np.sign if is_known(x, y) else jnp.sign
        return sign(x) * sign(y) * (abs(x) // abs(y))
    return x / y


def _rest(x, y, *, fmod=0):
    lib = library(x, y)
    return lib.fmod(x, y) if fmod else lib.mod(x, y)


def _power(x, y):
    if is_known(x, y):
        return x**y
    y = number(y, x)
    is_whole = isinstance(y, float) and y.is_integer()
    return x ** (int(y) if is_whole else y)


def _where(condition, x, y):
    lib = library(condition, x, y)
    if lib is np:
        return np.where(condition, x, y)
    return jnp.where(condition, number(x, y), number(y, x))


def _clip(x, min=None, max=None):
    low, high = (_bound(x, bound) for bound in (min, max))
    if is_known(x):
        return np.clip(x, low, high)
    if isinstance(low, float) and low == 0:
        if high is None:
            return jax.nn.relu(x)
        return jax.nn.relu6(x) if high == 6 else jnp.minimum(jax.nn.relu(x), high)
    if low is not None:
        x = jnp.maximum(x, low)
    return x if high is None else jnp.minimum(x, high)


def _bound(x, bound) -> Any:
    """Return an end of a range; None for an infinite or missing one."""
    if bound is None:
        return None
    if not is_known(bound) and not isinstance(bound, float):
        return bound
    value = float(np.asarray(bound).item())
    if abs(value) >= np.finfo(np.float32).max:  # what old files write for none
        return None
    return value if jnp.issubdtype(x.dtype, jnp.floating) else int(value)


def _leaky_relu(x, *, alpha=0.01):
    return jax.nn.leaky_relu(x, alpha)


def _prelu(x, slope):
    return jnp.where(x > 0, x, number(slope, x) * x)


def _elu(x, *, alpha=1.0):
    return jax.nn.elu(x, alpha)


def _celu(x, *, alpha=1.0):
    return jax.nn.celu(x, alpha)


def _selu(x, *, alpha=1.67326319217681884765625, gamma=1.05070102214813232421875):
    return gamma * jax.nn.elu(x, alpha)


def _hard_sigmoid(x, *, alpha=0.2, beta=0.5):
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return jax.nn.hard_sigmoid(x)
    return jnp.clip(alpha * x + beta, 0, 1)


def _gelu(x, *, approximate="none"):
    return jax.nn.gelu(x, approximate=approximate == "tanh")


def _swish(x, *, alpha=1.0):
    return jax.nn.silu(x) if alpha == 1 else x * jax.nn.sigmoid(alpha * x)


def _thresholded_relu(x, *, alpha=1.0):
    return jnp.where(x > alpha, x, 0 * x)


def _shrink(x, *, bias=0.0, lambd=0.5):
    lower = jnp.where(x < -lambd, x + bias, 0 * x)
    return jnp.where(x > lambd, x - bias, lower)


def _mean(*values):
    return _of_many(operator.add)(*values) / len(values)


POINTWISE: dict[str, Fn] = {
    "Abs": abs,
    "Add": _of_two(operator.add),
    "And": _of_two(operator.and_),
    "Ceil": _of_one("ceil"),
    "Celu": _celu,
    "Clip": _clip,
    "Cos": _of_one("cos"),
    "Div": _of_two(_divided),
    "Elu": _elu,
    "Equal": _of_two(operator.eq),
    "Erf": lambda x: lax.erf(jnp.asarray(x)),
    "Exp": _of_one("exp"),
    "Floor": _of_one("floor"),
    "Gelu": _gelu,
    "Greater": _of_two(operator.gt),
    "GreaterOrEqual": _of_two(operator.ge),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda x: jax.nn.hard_swish(x),
    "IsNaN": _of_one("isnan"),
    "LeakyRelu": _leaky_relu,
    "Less": _of_two(operator.lt),
    "LessOrEqual": _of_two(operator.le),
    "Log": _of_one("log"),
    "Max": _of_many(jnp.maximum, np.maximum),
    "Mean": _mean,
    "Min": _of_many(jnp.minimum, np.minimum),
    "Mish": lambda x: jax.nn.mish(x),
    "Mod": _rest,
    "Mul": _of_two(operator.mul),
    "Neg": operator.neg,
    "Not": operator.invert,
    "Or": _of_two(operator.or_),
    "PRelu": _prelu,
    "Pow": _power,
    "Reciprocal": lambda x: 1 / x,
    "Relu": lambda x: jax.nn.relu(x),
    "Round": _of_one("round"),
    "Selu": _selu,
    "Shrink": _shrink,
    "Sigmoid": lambda x: jax.nn.sigmoid(x),
    "Sign": _of_one("sign"),
    "Sin": _of_one("sin"),
    "Softplus": lambda x: jax.nn.softplus(x),
    "Softsign": lambda x: jax.nn.soft_sign(x),
    "Sqrt": _of_one("sqrt"),
    "Sub": _of_two(operator.sub),
    "Sum": _of_many(operator.add),
    "Swish": _swish,
    "Tanh": _of_one("tanh"),
    "ThresholdedRelu": _thresholded_relu,
    "Where": _where,
    "Xor": _of_two(operator.xor),
}
