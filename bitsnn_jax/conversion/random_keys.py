"""Random keys among the variables of a network: they allow no arithmetic."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Key(NamedTuple):
    """A random key: its place among leaves and Nones, its bits, how it draws."""

    place: int
    bits: np.ndarray
    kind: str


def without_keys(variables: Any) -> tuple[Any, tuple[Key, ...]]:
    """Replace random keys, which allow no arithmetic, by None."""
    leaves, tree = jax.tree.flatten(variables, is_leaf=_is_none)
    keys = tuple(
        Key(i, np.asarray(jax.random.key_data(leaf)), str(jax.random.key_impl(leaf)))
        for i, leaf in enumerate(leaves)
        if _is_key(leaf)
    )
    for key in keys:
        leaves[key.place] = None
    return (jax.tree.unflatten(tree, leaves) if keys else variables), keys


def with_keys(variables: Any, keys: tuple[Key, ...]) -> Any:
    """Put random keys back."""
    if not keys:
        return variables
    leaves, tree = jax.tree.flatten(variables, is_leaf=_is_none)
    for key in keys:
        if leaves[key.place] is None:  # otherwise keys were put back by hand
            leaves[key.place] = jax.random.wrap_key_data(
                jnp.asarray(key.bits), impl=key.kind
            )
    return jax.tree.unflatten(tree, leaves)


def _is_none(leaf) -> bool:
    return leaf is None


def _is_key(leaf) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
