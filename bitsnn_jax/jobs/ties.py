"""Thresholds tied along skip connections for each T, and what is said of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bitsnn_jax.integers.graph import Graph
from bitsnn_jax.integers.ties import Tied, tied
from bitsnn_jax.results.conversion import (
    ThetaRange,
    TiedLayer,
    TiesResult,
    UntiedSkip,
)


def tied_for(
    graph: Graph, pixels: np.ndarray | None, steps: Sequence[int]
) -> tuple[list[Graph], list[TiesResult]]:
    """Tie thresholds for each T, and print what was tied.

    Args:
      graph: of pixels.
      pixels: of the training split; None to look at thresholds alone.
      steps: the T's, of which some may be equal.
    """
    made = {t: tied(graph, steps=t, inputs=pixels) for t in dict.fromkeys(steps)}
    results = {t: ties_result(graph, each) for t, each in made.items()}
    print(_said(results[steps[0]]), flush=True)  # the same connections at all T
    return [made[t].graph for t in steps], [results[t] for t in steps]


def ties_result(graph: Graph, made: Tied) -> TiesResult:
    """Say which thresholds were tied, and from what to what."""
    chains = [
        tuple(
            TiedLayer(
                path=name,
                trained=_of_node(graph, name),
                theta=_of_node(made.graph, name),
            )
            for name in chain.layers
        )
        for chain in made.chains
    ]
    untied = [UntiedSkip(**skip._asdict()) for skip in made.untied]
    return TiesResult(chains=tuple(chains), untied=tuple(untied))


def theta_result(theta: Any) -> float | ThetaRange:
    """Show a threshold, or the range of those of channels."""
    theta = np.asarray(theta)
    if theta.ndim == 0:
        return float(theta)
    low, high = float(theta.min()), float(theta.max())
    return ThetaRange(min=low, max=high, channels=theta.size)


def _of_node(graph: Graph, name: str) -> float | ThetaRange:
    theta = graph[name].theta  # of the rank of the node
    return theta_result(theta.reshape(()) if theta.size == 1 else theta)


def _said(ties: TiesResult) -> str:
    layers = sum(map(len, ties.chains))
    said = (
        f"thresholds of {layers} layers are tied, in {_counted(ties.chains, 'chain')}"
    )
    if not layers:
        said = "no thresholds are tied: no skip connection brings codes to neurons"
    if ties.untied:
        kept = _counted(ties.untied, "multiplier")
        said += f"; skip connections keep {kept}"
    return said


def _counted(things: Sequence[Any], noun: str) -> str:
    return f"{len(things)} {noun}{'s' * (len(things) != 1)}"
