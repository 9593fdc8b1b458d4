"""Functions that mix the neurons of a row, and tables of vectors.

Unlike a function in front of a code, they need the values of all entries of a row at
once, so no single neuron computes them. Each binds a JAX primitive of its own, so that
it is one equation of the jaxpr of a model, and integers can have a routine for it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

softmax_p = Primitive("softmax")
normalise_p = Primitive("normalise")
lookup_p = Primitive("lookup")


def softmax(z: jax.Array) -> jax.Array:
    """Divide the exponential of each entry by their sum, along the last axis.

        p_i = exp(z_i - m) / sum_j exp(z_j - m),   m = max_j z_j

    Gradient: that of `jax.nn.softmax`.

    Args:
      z: [..., n] scores, of a floating type.

    Returns:
      [..., n] of the type of z; each row adds up to 1.

    Raises:
      ValueError: z is not floating, or has no axis.

    >>> softmax(jnp.array([0.0, 0.0]))
    Array([0.5, 0.5], dtype=float32)
    """
    return softmax_p.bind(_checked(z))


def normalise(z: jax.Array, *, epsilon: float = 1e-12) -> jax.Array:
    """Shift and scale each row to mean 0 and variance 1; a LayerNorm without weights.

        y_i = (z_i - mean(z)) / sqrt(var(z) + epsilon)

    The weights of a LayerNorm are affine and follow as operations of their own.
    Gradient: that of the operations above.

    Args:
      z: [..., n], of a floating type.
      epsilon: added to the variance, which is that of the n entries (divided by n).

    Returns:
      [..., n] of the type of z.

    Raises:
      ValueError: z is not floating, or has no axis.

    >>> normalise(jnp.array([1.0, 3.0]))
    Array([-1.,  1.], dtype=float32)
    """
    return normalise_p.bind(_checked(z), epsilon=float(epsilon))


def lookup(table: jax.Array, ids: jax.Array) -> jax.Array:
    """Return the rows of a table that integers name.

    Gradient: to each row, the sum of what comes back from where it is used.

    Args:
      table: [rows, features].
      ids: integers [...] in 0..rows - 1; any other gives a row of the table too, the
        first or the last.

    Returns:
      [..., features] of the type of the table.

    Raises:
      ValueError: a table of other than two axes, or ids that are no integers.

    >>> lookup(jnp.array([[1.0], [2.0]]), jnp.array([1, 0, 1]))[:, 0]
    Array([2., 1., 2.], dtype=float32)
    """
    table, ids = jnp.asarray(table), jnp.asarray(ids)
    if table.ndim != 2 or not jnp.issubdtype(ids.dtype, jnp.integer):
        raise ValueError(
            "expected a table [rows, features] and ids that are integers, got a table "
            f"{list(table.shape)} and ids of {ids.dtype}"
        )
    return lookup_p.bind(table, ids)


def _checked(z) -> jax.Array:
    z = jnp.asarray(z)
    if not z.ndim or not jnp.issubdtype(z.dtype, jnp.floating):
        raise ValueError(
            f"expected z [..., n] of a floating type, got {z.dtype} {list(z.shape)}"
        )
    return z


def _softmax(z):
    return jax.nn.softmax(z, axis=-1)


def _normalise(z, *, epsilon):
    centred = z - jnp.mean(z, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + epsilon)


def _lookup(table, ids):
    return jnp.take(table, ids, axis=0, mode="clip")


# What each primitive computes, by operations that every program has.
FORWARD: dict[Primitive, Callable] = {
    softmax_p: _softmax,
    normalise_p: _normalise,
    lookup_p: _lookup,
}


def _softmax_jvp(primals, tangents):
    [p], [t] = map(softmax_p.bind, primals), tangents
    return p, p * (t - jnp.sum(p * t, axis=-1, keepdims=True))


def _normalise_jvp(primals, tangents, *, epsilon):
    return jax.jvp(lambda z: _normalise(z, epsilon=epsilon), primals, tangents)


def _lookup_jvp(primals, tangents):
    # Integers have no tangent, and the result is linear in the table.
    (table, ids), (t, _) = primals, tangents
    return lookup_p.bind(table, ids), _lookup(ad.instantiate_zeros(t), ids)


def _batched_rows(primitive):
    """Map over an axis in front of the rows, which stay last."""

    def batched(args, axes, **params):
        [z], [axis] = args, axes
        return primitive.bind(jnp.moveaxis(z, axis, 0), **params), 0

    return batched


def _batched_lookup(args, axes):
    (table, ids), (table_axis, ids_axis) = args, axes
    if table_axis is None:
        return lookup_p.bind(table, jnp.moveaxis(ids, ids_axis, 0)), 0
    return jax.vmap(_lookup, axes)(table, ids), 0


softmax_p.def_abstract_eval(lambda z: z.update(weak_type=False))
normalise_p.def_abstract_eval(lambda z, *, epsilon: z.update(weak_type=False))
lookup_p.def_abstract_eval(
    lambda table, ids: table.update(
        shape=(*ids.shape, *table.shape[1:]), weak_type=False
    )
)
ad.primitive_jvps[softmax_p] = _softmax_jvp
ad.primitive_jvps[normalise_p] = _normalise_jvp
ad.primitive_jvps[lookup_p] = _lookup_jvp
batching.primitive_batchers[softmax_p] = _batched_rows(softmax_p)
batching.primitive_batchers[normalise_p] = _batched_rows(normalise_p)
batching.primitive_batchers[lookup_p] = _batched_lookup
softmax_p.def_impl(jax.jit(_softmax))
normalise_p.def_impl(jax.jit(_normalise, static_argnames="epsilon"))
lookup_p.def_impl(jax.jit(_lookup))
for _primitive, _forward in FORWARD.items():
    mlir.register_lowering(_primitive, mlir.lower_fun(_forward, multiple_results=False))
