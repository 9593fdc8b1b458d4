"""Weights of a file into a PyTorch module: each name, each shape, nothing left over."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bitsnn_jax.interop.torch_files import read_state_dict
from bitsnn_jax.interop.torch_networks import check_same

_COUNTER = "num_batches_tracked"


def load_weights(
    module: Any, path: str | os.PathLike[str], *, strip_prefix: Sequence[str] = ()
) -> None:
    """Load a file of weights into a module.

    Args:
      module: a `torch.nn.Module`.
      path: what `read_state_dict` reads; no code in it is run.
      strip_prefix: what to take off the names in the file, see `without_prefixes`.

    Raises:
      ValueError: names or shapes that the module does not have, or none for one that it
        has; values that are not finite; and as `read_state_dict`.
      OSError: no such file.
    """
    import torch

    own = module.state_dict()
    expected = {name: tuple(tensor.shape) for name, tensor in own.items()}
    tensors = without_prefixes(read_state_dict(path), strip_prefix, expected)
    # PyTorch before 0.4.1 had no counts of batches, and inference uses none.
    counters = {name for name in {*tensors, *expected} if name.endswith(_COUNTER)}
    loaded = {name: a for name, a in tensors.items() if name not in counters}
    advice = []
    if prefix := likely_prefix(loaded.keys(), expected.keys()):
        advice = [f"names in the file begin with {prefix}: give strip_prefix={prefix}"]
    check_same(
        {name: a.shape for name, a in loaded.items()},
        {name: shape for name, shape in expected.items() if name not in counters},
        what=f"tensors of {type(module).__name__} in {path}",
        advice=advice,
    )
    for name, a in loaded.items():
        if np.issubdtype(a.dtype, np.floating) and not np.isfinite(a).all():
            raise ValueError(f"{path}: {name} must have finite values alone")
    state = {name: torch.from_numpy(np.array(a)) for name, a in loaded.items()}
    module.load_state_dict({name: state.get(name, own[name]) for name in own})


def without_prefixes(
    tensors: Mapping[str, np.ndarray],
    prefixes: Sequence[str],
    expected: Mapping[str, Any],
) -> dict[str, np.ndarray]:
    """Take prefixes off names, one after the other.

    "model." is taken off whole. "features.module.", which wraps only a part of a
    network, leaves "features.", if the network has such names.

    Raises:
      ValueError: a prefix that no name has.

    >>> without_prefixes({"features.module.0": 1}, ["features.module."], {"features.0"})
    {'features.0': 1}
    """
    tensors = dict(tensors)
    for prefix in prefixes:
        begun = [name for name in tensors if name.startswith(prefix)]
        if not begun:
            raise ValueError(
                f"strip_prefix={prefix} is the beginning of no name in the file, whose "
                f"names are {', '.join(list(tensors)[:3])}, ..."
            )
        shorter = prefix[: prefix.rstrip(".").rfind(".") + 1]
        renamed = [
            {n: kept + n.removeprefix(prefix) for n in begun} for kept in ("", shorter)
        ]
        best = max(
            renamed, key=lambda names: sum(n in expected for n in names.values())
        )
        tensors = {best.get(name, name): a for name, a in tensors.items()}
    return tensors


def likely_prefix(found: Any, expected: Any) -> str | None:
    """Find what names in a file have and those of the module do not.

    >>> likely_prefix(["model.fc.bias", "model.fc.weight"], ["fc.bias", "fc.weight"])
    'model.'
    """
    count = Counter(p for name in found for p in _prefixes(name, expected))
    return count.most_common(1)[0][0] if count else None


def _prefixes(name: str, expected: Any) -> Iterator[str]:
    """Find the parts of a name without which it is one of those expected."""
    if name in expected:
        return
    parts = name.split(".")
    for end in range(1, len(parts)):
        for start in {0, end - 1}:
            if ".".join([*parts[:start], *parts[end:]]) in expected:
                yield ".".join(parts[:end]) + "."
                return
