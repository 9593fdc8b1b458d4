"""Does the result for one example depend on nothing but that example?"""

import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from bitsnn_jax.tracing.equations import parts
from bitsnn_jax.tracing.program import ApplyFn, trace

_TRAINING = (
    "is a batch norm or a dropout left in training? Call the network in inference: "
    "train=False, use_running_average=True, deterministic=True, model.eval()"
)
_RANDOM = tuple(
    "random_bits random_gamma rng_bit_generator rng_uniform threefry".split()
)


def warn_unless_apart(apply_fn: ApplyFn, variables: Any, x: Any) -> None:
    """Warn if examples of a batch depend on one another, or on random numbers.

    Runs two examples together, then the first beside another one. With a batch of 1 the
    second is made up. Networks that accept neither pass without a warning.

    Args:
      apply_fn: (variables, x) -> output.
      variables: of the network.
      x: a batch [n, ...], a pytree of batches, or shapes of one; with shapes, only
        random numbers are detected.
    """
    program, _ = trace(apply_fn, variables, x)
    if drawn := sorted(set(_random(program))):
        warnings.warn(
            f"the network draws random numbers (`{drawn[0]}`), so that no two runs "
            f"need be equal: {_TRAINING}",
            stacklevel=3,
        )
    elif (off := _influence(apply_fn, variables, x)) is not None:
        warnings.warn(
            "the result for one example depends on the others of its batch (by "
            f"{off:.2g} of the largest output): {_TRAINING}",
            stacklevel=3,
        )


def _random(program: ClosedJaxpr) -> Iterator[str]:
    for eqn in program.jaxpr.eqns:
        if eqn.primitive.name.startswith(_RANDOM):
            yield eqn.primitive.name
        for part in parts(eqn):
            yield from _random(part)


def _influence(apply_fn, variables, x) -> float | None:
    """Tell how far the second example moves the result of the first; None if not."""
    leaves = jax.tree.leaves(x)
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves) or not all(
        np.ndim(leaf) and len(leaf) for leaf in leaves
    ):
        return None
    pair = jax.tree.map(lambda a: _beside(a, a[1] if len(a) > 1 else _other(a[0])), x)
    try:
        shapes = jax.tree.leaves(jax.eval_shape(apply_fn, variables, pair))
    except Exception:  # whatever a network for one batch size only raises
        return None
    rows = [i for i, leaf in enumerate(shapes) if leaf.shape[:1] == (2,)]
    beside_another = jax.tree.map(lambda a: _beside(a, _other(a[1])), pair)
    first, second = (
        [np.asarray(jax.tree.leaves(apply_fn(variables, both))[i][0]) for i in rows]
        for both in (pair, beside_another)
    )
    apart = [_apart(a, b) for a, b in zip(first, second, strict=True)]
    return max((off for off in apart if off is not None), default=None)


def _beside(batch, other) -> jax.Array:
    """Put another example beside the first of a batch."""
    return jnp.stack([jnp.asarray(batch[0]), jnp.asarray(other)])


def _other(example):
    """Make another example, of the same numbers where these may mean something."""
    moved = jnp.roll(jnp.asarray(example).ravel(), 1).reshape(jnp.shape(example))
    floating = jnp.issubdtype(moved.dtype, jnp.floating)
    return moved + jnp.ones((), moved.dtype) if floating else moved


def _apart(a, b) -> float | None:
    """Measure the difference in parts of the largest value, where it is no rounding."""
    if not np.issubdtype(a.dtype, np.floating):
        return None if np.array_equal(a, b) else 1.0
    size = np.abs(a).max(initial=0)
    off = np.abs(a - b).max(initial=0)
    return None if off <= np.sqrt(jnp.finfo(a.dtype).eps) * size else float(off / size)
