"""The convolutions of any traced program, exchanged for those with fast forms."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, jaxpr_as_fun

from bitsnn_jax.numerics.convolutions import exchanged

P = ParamSpec("P")
R = TypeVar("R")


def with_fast_convolutions(fn: Callable[P, R]) -> Callable[P, R]:
    """Let a function compute its convolutions in the forms that suit a CPU.

    Traces the function and exchanges each `lax.conv_general_dilated` for
    `numerics.convolutions.convolve`, in the bodies of calls and loops too. Everything
    else stays: modules keep their names, `jax.checkpoint` recomputes, a `custom_vjp` or
    `custom_jvp` keeps its gradient. Works under and around jit, grad, vmap, pmap and
    shard_map. Wrap what is outermost, such as a training step with the gradient inside,
    and wrap it in `jax.jit`: otherwise it is traced anew at each call.

    Results equal those of `fn` up to rounding. On GPUs and TPUs the convolutions are
    those of `lax`.

    Gradient: that of `fn`.

    Args:
      fn: pure; all arguments are pytrees of arrays.

    >>> import jax.numpy as jnp
    >>> from jax import lax
    >>> def network(kernel, x):
    ...     return lax.conv(x, kernel, (1, 1), "SAME")
    >>> fast = jax.jit(with_fast_convolutions(network))
    >>> fast(jnp.ones((1, 1, 3, 3)), jnp.ones((1, 1, 2, 2))).ravel()
    Array([4., 4., 4., 4.], dtype=float32)
    """

    @functools.wraps(fn)
    def fast_fn(*args, **kwargs):
        program, shapes = jax.make_jaxpr(fn, return_shape=True)(*args, **kwargs)
        program = program.replace(jaxpr=_exchanged(program.jaxpr))
        results = jaxpr_as_fun(program)(*jax.tree.leaves((args, kwargs)))
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return fast_fn


def fast_equation(eqn: JaxprEqn) -> JaxprEqn:
    """Exchange an operation if it is a convolution, and those in the programs in it."""
    changed = {
        name: exchanged_param
        for name, value in eqn.params.items()
        if (exchanged_param := _in_param(value)) is not value
    }
    eqn = exchanged(eqn)
    return eqn.replace(params=eqn.params | changed) if changed else eqn


def _exchanged(jaxpr: Jaxpr) -> Jaxpr:
    """Return the same program if it has no convolution."""
    eqns = [fast_equation(eqn) for eqn in jaxpr.eqns]
    if all(new is old for new, old in zip(eqns, jaxpr.eqns, strict=True)):
        return jaxpr
    return jaxpr.replace(eqns=eqns)


def _in_param(value: Any) -> Any:
    """Exchange in a program, or in several of them."""
    if isinstance(value, ClosedJaxpr):
        jaxpr = _exchanged(value.jaxpr)
        return value if jaxpr is value.jaxpr else value.replace(jaxpr=jaxpr)
    if isinstance(value, Jaxpr):
        return _exchanged(value)
    if isinstance(value, tuple) and any(hasattr(v, "eqns") for v in value):
        new = list(map(_in_param, value))
        if all(n is v for n, v in zip(new, value, strict=True)):
            return value
        # Those of `lax.custom_linear_solve` have names.
        return value._make(new) if hasattr(value, "_make") else tuple(new)
    return value
