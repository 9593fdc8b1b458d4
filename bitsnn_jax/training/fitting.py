"""The variables of one network, under the names of another."""

from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict


def fitted(source: dict, target: dict, *, name: str) -> dict:
    """Return the variables `source` with the names of `target`, less missing thetas.

    Thetas that `target` has no place for are left out. Those that are statistics in one
    tree, see `RateNorm`, and parameters in the other change their place; if `source`
    has none, statistics stay those of `target`.

    Raises:
      ValueError: the first other leaf that is in one tree only or differs in shape.
    """
    statistics = {path for path in thetas(target) if not path.startswith("params")}
    have, want = leaves(with_thetas_as_parameters(source)), leaves(target)
    for path in statistics:
        have[path] = have.pop(as_parameter(path), want[path])
    # Parameters first: they say more than statistics.
    for path in sorted(have.keys() | want.keys(), key=lambda p: (p[:6] != "params", p)):
        if path.endswith("/theta") and (path in have) != (path in want):
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


def with_thetas_as_parameters(variables: dict) -> dict:
    """Return the variables with thetas that are statistics among the parameters."""
    moved = {
        as_parameter(path) if path in thetas(variables) else path: leaf
        for path, leaf in leaves(variables).items()
    }
    # A collection may have no leaves, such as the statistics without batch norm.
    return dict.fromkeys(variables, {}) | unflatten_dict(moved, sep="/")


def as_parameter(path: str) -> str:
    """Return where a variable would be as a parameter.

    >>> as_parameter("batch_stats/act_1/theta")
    'params/act_1/theta'
    """
    return f"params/{path.partition('/')[2]}"


def leaves(tree: Any) -> dict[str, Any]:
    """Return the arrays of a tree by path, as in "params/conv_1/kernel"."""
    return flatten_dict(tree, sep="/")


def thetas(tree: Any) -> set[str]:
    """Return the paths of the thresholds in a tree."""
    return {path for path in leaves(tree) if path.endswith("/theta")}
