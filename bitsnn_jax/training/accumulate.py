"""A batch worked off in parts, for networks whose activations do not fit at once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def in_parts(
    fn: Callable[[Any, jax.Array], tuple[Any, Any]],
    batch: Any,
    key: jax.Array,
    *,
    parts: int,
) -> tuple[Any, Any]:
    """Run `fn(batch, key) -> (means, sums)` on parts of the rows, one after the other.

        means = 1/parts sum_i means_i,   sums = sum_i sums_i

    What the whole batch gives, to rounding, where `fn` treats rows by themselves: means
    over equal numbers of rows. Batch norm does not. Each part is normalised by its own
    statistics, and the running variance is the mean of the variances inside the parts,
    without that of their means.

    Args:
      fn: of rows and a key. `means` and `sums` are trees of floating-point arrays.
      batch: arrays [rows, ...], with rows a multiple of `parts`.
      key: of the step; part i gets its i-th child, an only part the key itself.
      parts: how many; the temporaries of one are alive at a time.
    """
    if parts == 1:
        return fn(batch, key)

    def cut(x):
        return x.reshape(parts, -1, *x.shape[1:])

    batches, keys = jax.tree.map(cut, batch), jax.random.split(key, parts)
    shapes = jax.eval_shape(fn, *jax.tree.map(lambda x: x[0], (batches, keys)))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def add(total, part):
        return jax.tree.map(jnp.add, total, fn(*part)), None

    (means, sums), _ = jax.lax.scan(add, zeros, (batches, keys))
    return jax.tree.map(lambda x: x / parts, means), sums
