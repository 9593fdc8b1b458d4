"""Limits of hardware, and what of a network they hold.

The limits are those that their makers or users have published; `targets.json` names the
source of each one. What is in no source that we read is None, and not judged.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from bitsnn_jax.integers.needs import LayerNeeds

# Limits on a layer, with what each is called in a report.
LAYER_LIMITS = {
    "weight_bits": "weight bits",
    "distinct_weights": "different weights",
    "accumulator_bits": "membrane bits",
    "input_bits": "bits of the image",
    "message_bits": "message bits",
    "fan_in": "fan-in",
    "fan_out": "fan-out",
    "layer_neurons": "neurons of a layer",
    "layer_weights": "weights of a layer",
    "row_entries": "entries that a routine mixes",
}
# Those on the whole network.
NETWORK_LIMITS = {
    "layers": "layers",
    "neurons": "neurons",
    "memory_bits": "bits of weights",
}
LIMITS = LAYER_LIMITS | NETWORK_LIMITS
# How a neuron of the hardware decides what it sends.
NEURONS = ("programmable", "code", "threshold")


@dataclasses.dataclass(frozen=True)
class Target:
    """A chip and its limits.

    Attributes:
      name: in `targets.json`.
      title: for people.
      neuron: "programmable", by a program of one's own; "code", which sends its sum,
        rounded and clipped, in one message; "threshold", against one that stays.
      overflow: of its membranes, "saturate" or "wrap"; None if that is not published.
      limits: each name of `LIMITS` -> the largest number that fits, None if it is not
        published. Bits of a weight have a sign. `memory_bits` holds weights only.
        `row_entries` is 0 where a neuron only knows its own sum, so that no softmax and
        no LayerNorm is computed.
      sources: of each number, and of `neuron` and `overflow`.
    """

    name: str
    title: str
    neuron: str
    overflow: str | None
    limits: Mapping[str, int | None]
    sources: Mapping[str, str]

    def fires(self, steps: int) -> bool:
        """Tell whether its neurons can send a code of T bits.

        A spike train needs T thresholds, each half the one before, which a neuron with
        one threshold has at T = 1 only.
        """
        return self.neuron != "threshold" or steps == 1


@cache
def targets() -> dict[str, Target]:
    """Read all targets of `targets.json`, by name."""
    text = files("bitsnn_jax.integers").joinpath("targets.json").read_text("utf-8")
    stored = json.loads(text)
    return {
        name: Target(
            name=name,
            title=entry["title"],
            neuron=entry["neuron"],
            overflow=entry["overflow"],
            limits=entry["limits"],
            sources={k: stored["sources"][s] for k, s in entry["sources"].items()},
        )
        for name, entry in stored["targets"].items()
    }


def target(name: str) -> Target:
    """Read the target of that name.

    Raises:
      ValueError: unknown; the message lists the names.
    """
    if name not in targets():
        raise ValueError(f"target must be one of {', '.join(targets())}, got {name!r}")
    return targets()[name]


class BrokenLimit(NamedTuple):
    """A limit that does not hold what is needed.

    Attributes:
      layer: that needs it; "" for the whole network.
      limit: one of `LIMITS`.
      needed, available: the numbers.
    """

    layer: str
    limit: str
    needed: int
    available: int


def broken_limits(
    needs: Sequence[LayerNeeds], target: Target, *, steps: int
) -> tuple[BrokenLimit, ...]:
    """List what of a network does not fit, layer by layer, then of the whole.

    Limits that are not published hold everything.

    Args:
      needs: of `needs.layer_needs`.
      target: of `target(name)`.
      steps: T.
    """
    found = [("", "layers", len(needs))]
    found += [("", name, sum(getattr(n, name) for n in needs)) for name in _SUMMED]
    wanted = [each for need in needs for each in _wanted(need, target, steps)]
    return tuple(
        BrokenLimit(layer, limit, needed, available)
        for layer, limit, needed in (*wanted, *found)
        if (available := target.limits[limit]) is not None and needed > available
    )


_SUMMED = ("neurons", "memory_bits")


def _wanted(
    need: LayerNeeds, target: Target, steps: int
) -> Iterator[tuple[str, str, int]]:
    message = need.message_bits
    if target.neuron == "code" and message:
        message = max(message, steps)  # all spikes of a code at once
    renamed = {
        "message_bits": message,
        "layer_neurons": need.neurons,
        "layer_weights": need.weights,
    }
    for limit in LAYER_LIMITS:
        value = renamed[limit] if limit in renamed else getattr(need, limit)
        yield need.name, limit, value


def in_words(broken: Sequence[BrokenLimit]) -> str:
    """Say in a line what does not fit: each limit once, with the most that is needed.

    >>> in_words([BrokenLimit(name, "fan_in", 99, 63) for name in ("a", "b")])
    'fan-in 99 > 63 (2 layers)'
    """
    parts = []
    for limit, words in LIMITS.items():
        of_limit = [each for each in broken if each.limit == limit]
        if of_limit:
            needed = max(each.needed for each in of_limit)
            layers = len({each.layer for each in of_limit if each.layer})
            where = f" ({layers} layer{'s' * (layers > 1)})" if layers else ""
            parts.append(f"{words} {needed:,} > {of_limit[0].available:,}{where}")
    return "; ".join(parts)
