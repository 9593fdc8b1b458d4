"""The variables of one network, under the names of another."""

from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict


def fitted(source: dict, target: dict, *, name: str) -> dict:
    """Return the variables `source` with the names of `target`, less missing thetas.

    Thetas that `target` has no place for are left out.

    Raises:
      ValueError: the first other leaf that is in one tree only or differs in shape.
    """
    have, want = leaves(source), leaves(target)
    # Parameters first: they say more than statistics.
    for path in sorted(have.keys() | want.keys(), key=lambda p: (p[:6] != "params", p)):
        if path in thetas(source) ^ thetas(target):
            continue
        theirs, ours = (
            np.shape(tree[path]) if path in tree else "none" for tree in (have, want)
        )
        if theirs != ours:
            raise ValueError(
                f"start_from {name} does not fit model: {path} has shape {theirs} "
                f"there, {ours} in this run"
            )
    kept = {
        path: np.asarray(have[path], leaf.dtype)
        for path, leaf in want.items()
        if path in have
    }
    # A collection may have no leaves, such as the statistics without batch norm.
    return dict.fromkeys(target, {}) | unflatten_dict(kept, sep="/")


def leaves(tree: Any) -> dict[str, Any]:
    """Return the arrays of a tree by path, as in "params/conv_1/kernel"."""
    return flatten_dict(tree, sep="/")


def thetas(tree: Any) -> set[str]:
    """Return the paths of the thresholds in a tree."""
    return {path for path in leaves(tree) if path.endswith("/theta")}
