"""What neurons sent: the spikes that a network through time has sown."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from flax.traverse_util import flatten_dict
from jaxtyping import Array

from bitsnn_jax.direct.spiking import SPIKES


def trains(sown: Mapping[str, Any]) -> OrderedDict[str, Array]:
    """Collect the spikes [T, n, ...] of each layer of neurons, by its path.

    Paths are those of the sites of the same network with QCFS, see `fan_out`.

    Args:
      sown: what `model.apply(..., mutable=["activations"])` returns beside the output.

    >>> list(trains({"activations": {"conv": {"act": {"spikes": ("a", "b")}}}}))
    ['conv/act', 'conv/act@2']
    """
    found: OrderedDict[str, Array] = OrderedDict()
    leaves: dict[tuple[str, ...], Any] = flatten_dict(sown.get("activations", {}))
    for (*path, name), calls in leaves.items():
        assert name == SPIKES, f"{name} of {path} is no spikes"
        for i, spikes in enumerate(calls, start=1):
            found["/".join(path) + (f"@{i}" if i > 1 else "")] = spikes
    return found
