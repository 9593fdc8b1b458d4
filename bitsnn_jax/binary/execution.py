"""A binary network with its products of signs computed from packed bits."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from bitsnn_jax.binary.layers import BinaryConv, MaskedConv
from bitsnn_jax.numerics.popcount import popcount_conv

_popcount_conv = jax.jit(popcount_conv, static_argnames="padding")


def by_popcount(apply_fn: Callable[..., Any]) -> Callable[..., Any]:
    """Compute the products of signs inside by XNOR and popcount, bit for bit the same.

    What is not binary, such as the first layer, stays as it is. Inside one compiled
    program XLA may round that differently, as between any two programs. So compare
    logits outside of `jax.jit`, where each operation is a program of its own.

    Args:
      apply_fn: applies a model, for instance `runs.loading.ann_fn(...)`.
    """

    def apply(*args: Any, **options: Any) -> Any:
        with nn.intercept_methods(_counted):
            return apply_fn(*args, **options)

    return apply


def of_signs(context: nn.module.InterceptorContext) -> bool:
    """Tell whether a call is the product of signs by signs of a layer."""
    layer = context.module
    return context.method_name == "product" and (
        isinstance(layer, BinaryConv)
        or (isinstance(layer, MaskedConv) and not layer.analog)
    )


def _counted(call, args, options, context):
    if not of_signs(context):
        return call(*args, **options)
    x, signs = args
    product = _popcount_conv(x, signs, padding=signs.shape[0] // 2)
    return product.astype(x.dtype)
