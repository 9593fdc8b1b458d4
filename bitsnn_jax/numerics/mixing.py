"""Functions that mix the neurons of a row, and tables of vectors.

Unlike a function in front of a code, they need the values of all entries of a row at
once, so no single neuron computes them.
"""

import jax
import jax.numpy as jnp


def softmax(z: jax.Array) -> jax.Array:
    """Divide the exponential of each entry by their sum, along the last axis.

        p_i = exp(z_i - m) / sum_j exp(z_j - m),   m = max_j z_j

    Args:
      z: [..., n] scores.

    Returns:
      [..., n] of the type of z; each row adds up to 1.

    >>> softmax(jnp.array([0.0, 0.0]))
    Array([0.5, 0.5], dtype=float32)
    """
    return jax.nn.softmax(z, axis=-1)


def normalise(z: jax.Array, *, epsilon: float = 1e-12) -> jax.Array:
    """Shift and scale each row to mean 0 and variance 1; a LayerNorm without weights.

        y_i = (z_i - mean(z)) / sqrt(var(z) + epsilon)

    The weights of a LayerNorm are affine and follow as operations of their own.

    Args:
      z: [..., n].
      epsilon: added to the variance, which is that of the n entries (divided by n).

    Returns:
      [..., n] of the type of z.

    >>> normalise(jnp.array([1.0, 3.0]))
    Array([-1.,  1.], dtype=float32)
    """
    centred = z - jnp.mean(z, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + epsilon)


def lookup(table: jax.Array, ids: jax.Array) -> jax.Array:
    """Return the rows of a table that integers name.

    Args:
      table: [rows, features].
      ids: integers [...] in 0..rows - 1; any other gives a row of the table too, the
        first or the last.

    Returns:
      [..., features] of the type of the table.

    >>> lookup(jnp.array([[1.0], [2.0]]), jnp.array([1, 0, 1]))[:, 0]
    Array([2., 1., 2.], dtype=float32)
    """
    return jnp.take(table, ids, axis=0, mode="clip")
