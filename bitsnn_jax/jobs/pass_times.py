"""What a pass of the network in integers takes, beside one of the float network."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax

from bitsnn_jax.integers.execution import one_shot, stepped
from bitsnn_jax.integers.network import IntegerNetwork
from bitsnn_jax.results.conversion import PassTime
from bitsnn_jax.runtime.timing import in_turns, ratio

ROUNDS = 5
FLOAT = "ANN"

Pass = Callable[[Any], Any]  # pixels [n, ...] -> outputs


def executions(coding: str = "bits") -> dict[str, Callable[..., Pass]]:
    """Return the ways to run a network in integers; spikes are those of a coding."""
    return {"one-shot": one_shot, "stepped": partial(stepped, coding=coding)}


def integer_passes(
    network: IntegerNetwork, carriers: Sequence[str], *, coding: str = "bits"
) -> dict[str, Pass]:
    """Return each execution in each carrier, as a function that gives the outputs."""

    def outputs(run):
        return lambda pixels: run(pixels).outputs

    return {
        f"{carrier}, {mode}": outputs(make(network, carrier=carrier))
        for carrier in carriers
        for mode, make in executions(coding).items()
    }


def pass_times(
    passes: Mapping[str, Pass], pixels: Any, *, rounds: int = ROUNDS
) -> tuple[PassTime, ...]:
    """Time passes over the same pixels in turns.

    Args:
      passes: by name; that of the float network is called `FLOAT`. Each is compiled.
      pixels: [n, ...].
      rounds: how often each has its turn.
    """
    pixels = jax.device_put(pixels)

    def run(program):
        return jax.block_until_ready(program(pixels))

    programs = {name: partial(run, jax.jit(each)) for name, each in passes.items()}
    seconds = in_turns(programs, rounds=rounds)
    return tuple(
        PassTime(
            name=name,
            milliseconds_per_example=1e3 * statistics.median(times) / len(pixels),
            ratio=ratio(times, seconds[FLOAT]),
        )
        for name, times in seconds.items()
    )
