"""Convolutions, by whichever equivalent form a CPU computes fastest.

`convolve` is `lax.conv_general_dilated`, with another lowering on CPUs: XLA's own
convolutions are many times slower there than products or shifted multiplications for
some shapes (docs/speed.md). `convolution_forms` has the forms and says which one a
convolution takes. On other devices everything stays as `lax` has it.

The convolution is a JAX primitive of its own. It has the name and the parameters of
lax's, so whatever reads a traced program takes the one for the other. It is linear in
both operands, and its derivatives are convolutions again, in a form of their own. So
every transformation of JAX applies, derivatives of any order and in both modes too.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend.core import ClosedJaxpr, JaxprEqn, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

from bitsnn_jax.numerics.convolution_forms import FORMS, OF_LAX, described, form_of

convolution_p = Primitive(lax.conv_general_dilated_p.name)


def convolve(
    x: Array,
    kernel: Array,
    *,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    groups: int = 1,
    dimensions: Any = None,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> Array:
    """Compute a convolution in the form that is fastest on a CPU.

    Equals `lax.conv_general_dilated`: up to rounding in floats, in every bit in
    integers.

    Gradient: that of a convolution, each part in a form of its own; of any order.

    Args:
      x, kernel, padding, lhs_dilation, rhs_dilation, precision,
        preferred_element_type: as in `lax.conv_general_dilated`.
      strides: its `window_strides`.
      groups: its `feature_group_count`.
      dimensions: its `dimension_numbers`.

    >>> import jax.numpy as jnp
    >>> x, kernel = jnp.ones((1, 2, 2, 1)), jnp.ones((3, 3, 1, 1))
    >>> options = {"strides": (1, 1), "padding": "SAME"}
    >>> y = convolve(x, kernel, dimensions=("NHWC", "HWIO", "NHWC"), **options)
    >>> y.ravel()
    Array([4., 4., 4., 4.], dtype=float32)
    """

    def by_lax(x, kernel):
        return lax.conv_general_dilated(
            x,
            kernel,
            strides,
            padding,
            lhs_dilation=lhs_dilation,
            rhs_dilation=rhs_dilation,
            dimension_numbers=dimensions,
            feature_group_count=groups,
            precision=precision,
            preferred_element_type=preferred_element_type,
        )

    return _in_forms(by_lax, x, kernel)


def exchanged(eqn: JaxprEqn) -> JaxprEqn:
    """Exchange a convolution of lax's for ours; other operations stay."""
    if eqn.primitive is not lax.conv_general_dilated_p:
        return eqn
    return eqn.replace(primitive=convolution_p)


def _in_forms(fn: Callable, *args: Array) -> Array:
    """Call `fn`, a convolution of lax's and what moves its operands."""
    program = jax.make_jaxpr(fn)(*args)
    eqns = [exchanged(eqn) for eqn in program.jaxpr.eqns]
    jaxpr = program.jaxpr.replace(eqns=eqns)
    [result] = jaxpr_as_fun(ClosedJaxpr(jaxpr, program.consts))(*args)
    return result


def _by_lax(x, kernel, **params) -> Array:
    return lax.conv_general_dilated_p.bind(x, kernel, **params)


def _by_form(x, kernel, **params) -> Array:
    case = described(x, kernel, **params)
    form = form_of(case)
    if form == "lax":
        return _by_lax(x, kernel, **params)

    def by_form(x, kernel):
        return FORMS[form](x, kernel, case)

    if form in OF_LAX:  # XLA fuses nothing into its convolutions
        return by_form(x, kernel)

    # A function of its own: XLA would fuse what makes the operands into each of their
    # many uses, and the form into each use of its result.
    with set_xla_metadata(inlineable="false"):
        return jax.jit(by_form)(x, kernel)


def _abstract(x, kernel, **params):
    return lax.conv_general_dilated_p.abstract_eval(x, kernel, **params)[0]


def _transposed_x(g, x, kernel, **params) -> Array:
    def transposed(g, kernel):
        fn = jax.linear_transpose(lambda x: _by_lax(x, kernel, **params), x.aval)
        return fn(g)[0]

    return _in_forms(transposed, g, kernel)


def _transposed_kernel(g, x, kernel, **params) -> Array:
    def transposed(g, x):
        fn = jax.linear_transpose(lambda k: _by_lax(x, k, **params), kernel.aval)
        return fn(g)[0]

    return _in_forms(transposed, g, x)


def _batched(args, axes, **params):
    fn = jax.vmap(lambda x, kernel: _by_lax(x, kernel, **params), in_axes=axes)
    return _in_forms(fn, *args), 0


def _alone(x, kernel, **params) -> Array:
    return _compiled(x, kernel, params=tuple(params.items()))


_compiled = jax.jit(
    lambda x, kernel, *, params: convolution_p.bind(x, kernel, **dict(params)),
    static_argnames="params",
)
convolution_p.def_impl(_alone)
convolution_p.def_abstract_eval(_abstract)
ad.defbilinear(convolution_p, _transposed_x, _transposed_kernel)
batching.primitive_batchers[convolution_p] = _batched
mlir.register_lowering(convolution_p, mlir.lower_fun(_by_lax, multiple_results=False))
mlir.register_lowering(
    convolution_p, mlir.lower_fun(_by_form, multiple_results=False), platform="cpu"
)
