"""Batches to calibrate with, from whatever yields them.

Loaders shuffle, and generators can be gone through only once. So the batches are read
once and kept in memory: every pass then sees the same ones.
"""

import itertools
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

LIMIT = 4 * 2**30  # bytes of batches that are kept


def kept(
    batches: Iterable[Any],
    run: Callable[[Any, Any], Any],
    variables: Any,
    *,
    max_batches: int | None = None,
) -> list[Any]:
    """Read batches of any origin, as a list of what a network takes.

    Tensors of PyTorch and TensorFlow become arrays. Of a pair (x, label), the first is
    taken, and of a dictionary the one entry that the network runs on, unless it takes
    the whole. Batches beyond 4 GiB are left out, with a warning.

    Args:
      batches: a list, a data loader, a generator.
      run: the network, (variables, x) -> anything; only traced. It raises for what it
        does not take.
      variables: of the network.
      max_batches: how many to read at most; None for all.

    Raises:
      ValueError: no batches; an array or a dictionary in their place; batches that the
        network fails on.

    >>> pairs = [(np.ones((2, 3)), np.zeros(2))]
    >>> kept(pairs, lambda w, x: x @ w, np.ones((3, 1)))[0].shape
    (2, 3)
    """
    if hasattr(batches, "shape") or isinstance(batches, dict):
        what = getattr(batches, "shape", None)
        what = "a dictionary" if what is None else f"an array of shape {what}"
        raise ValueError(f"expected batches, a list of inputs; got {what}: pass [x]")
    if max_batches is not None and max_batches < 1:
        raise ValueError(f"max_batches must be at least 1, got {max_batches}")
    found, size, shapes = [], 0, set()
    fails = partial(_failure, run, variables)
    entry = _Entry(fails)
    for i, batch in enumerate(itertools.islice(batches, max_batches)):
        if isinstance(batch, Mapping):  # tokenizers have mappings of their own
            batch = dict(batch)
        batch = jax.tree.map(_as_array, batch)
        batch = entry.of(batch, i)
        shape = str(jax.tree.map(np.shape, batch))
        if i and shape not in shapes:
            if reason := fails(batch):
                raise _refused(batch, reason, f"batch {i + 1}")
        shapes.add(shape)
        size += sum(getattr(leaf, "nbytes", 8) for leaf in jax.tree.leaves(batch))
        if found and size > LIMIT:
            warnings.warn(
                f"the first {i} batches fill {LIMIT / 2**30:g} GiB: the rest is left "
                f"out; pass max_batches={i} or fewer",
                stacklevel=3,
            )
            break
        found.append(batch)
    if not found:
        raise ValueError("expected batches to calibrate with: found none")
    return found


def progress(items: Iterable[Any], what: str) -> Iterable[Any]:
    """Go through items; on a terminal, show how far it is."""
    return tqdm(items, desc=what, leave=False, disable=None)


def _as_array(leaf: Any) -> Any:
    """Turn a foreign tensor into an array, without importing its library."""
    if hasattr(leaf, "detach"):  # PyTorch
        leaf = leaf.detach().cpu()
        # NumPy has no bfloat16 of its own.
        return (leaf.float() if leaf.is_floating_point() else leaf).numpy()
    if not hasattr(leaf, "shape") or isinstance(leaf, np.ndarray | jax.Array):
        return leaf
    return leaf.numpy() if hasattr(leaf, "numpy") else leaf


class _Entry:
    """What the network takes of a batch: found in the first, the same in all."""

    def __init__(self, fails: Callable[[Any], str | None]):
        self.fails = fails
        self.name: Any = None  # None for the whole

    def of(self, batch: Any, i: int) -> Any:
        if not i:
            self.name = self.find(batch)
        if self.name is None:
            return batch
        try:
            return batch[self.name]
        except (TypeError, LookupError):
            raise ValueError(
                f"batch {i + 1} is not like the first, of which entry {self.name!r} "
                f"was taken; got {type(batch).__name__}"
            ) from None

    def find(self, batch: Any) -> Any:
        reason = self.fails(batch)
        if reason is None:
            return None
        names = []
        if isinstance(batch, tuple | list) and len(batch) > 1:
            names = [0]  # labels come after
        elif isinstance(batch, dict):
            names = list(batch)
        works = [name for name in names if self.fails(batch[name]) is None]
        if len(works) != 1:
            if names == [0] and hasattr(batch[0], "shape"):
                reason = f"(the first entry) {self.fails(batch[0])}"
            raise _refused(batch, reason, "each of batches")
        return works[0]


def _failure(run: Callable, variables: Any, batch: Any) -> str | None:
    """Return why a network fails on a batch, None if it does not."""
    try:
        jax.eval_shape(run, variables, batch)
    except Exception as error:  # whatever the network raises for such an input
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    return None


def _refused(batch: Any, reason: str, which: str) -> ValueError:
    shapes = jax.tree.map(jnp.shape, batch)
    return ValueError(
        f"{which} must be what the network takes as its input, such as an array of "
        f"images without labels; got {type(batch).__name__} of shapes {shapes}, on "
        f"which it fails: {reason:.150}"
    )
