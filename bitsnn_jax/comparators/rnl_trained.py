"""Rate norm layers, trained in both stages (Ding et al., IJCAI 2021); see `rnl`.

The first stage trains the weights, with each ReLU clipped at its largest activation, a
running average over the batches: `model.activation="rate_norm"`. The second finds the
share of it that each threshold is, against the logits of that network, as `rnl` does
against those of a ReLU network.

Differs from the paper: our source is fine-tuned from a trained network and not trained
from the start. What `rnl` says of its second stage holds here as well; peaks and batch
norm stand still in it.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax

from bitsnn_jax.comparators import rnl
from bitsnn_jax.comparators.batches import in_batches
from bitsnn_jax.comparators.method import Network
from bitsnn_jax.comparators.observe import clipped_relu, replaced


def prepare(
    network: Network, batches: Iterable[Any], steps: int, *, updates: int = rnl.STEPS
) -> Network:
    """Find {"theta": []} for each layer, whatever T is."""
    batches = in_batches(batches, rnl.IMAGES)
    peaks = trained_peaks(network, batches[0])
    return rnl.fit(network, batches, peaks, clipped_relu, updates=updates)


def trained_peaks(network: Network, x: Any) -> dict[str, Any]:
    """Return where each layer was clipped in training: path -> []."""

    @jax.jit
    def run(variables, x):
        peaks = {}

        def seen(layer, z):
            peaks[layer.site.path] = layer.theta
            return clipped_relu(layer, z)

        replaced(network.apply_fn, seen)(variables, x)
        return peaks

    return jax.device_get(run(network.variables, x))


METHOD = dataclasses.replace(
    rnl.METHOD,
    name="rnl_trained",
    title="rate norm layers, trained",
    trained_with="rate_norm",
    prepare=prepare,
)
