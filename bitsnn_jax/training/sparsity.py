"""The bit-sparsity loss, Eq. (11): from sown activations to spikes per example."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from bitsnn_jax.numerics.spikes import spike_count
from bitsnn_jax.tracing.fan_out import fan_out
from bitsnn_jax.tracing.program import ApplyFn


def layer_counts(
    sown: Mapping[str, Any], *, levels: int, surrogate: str = "paper"
) -> dict[str, jax.Array]:
    """Count the spikes [n, ...] of each layer's neurons, by its module's path.

    Args:
      sown: what `model.apply(..., mutable=["activations"])` returns beside the output.
        Without "activations", there are no layers.
      levels: highest code of the activations.
      surrogate: of the gradient, see `spike_count`.
    """
    counts: dict[str, jax.Array] = {}
    for path, call in _sown(sown.get("activations", {})):
        # A module that is called again is another layer, named as in `SpikeStats`.
        calls = sum(name.split("@")[0] == path for name in counts)
        name = f"{path}@{calls + 1}" if calls else path
        if isinstance(call, tuple):
            a, theta = call
            counts[name] = spike_count(a, theta, levels=levels, surrogate=surrogate)
        else:  # spikes [T, n, ...] of neurons that are trained through time
            counts[name] = call.sum(0)
    return counts


def example_sums(
    counts: Mapping[str, jax.Array],
    *,
    examples: int,
    weights: Mapping[str, Any] | None = None,
) -> jax.Array:
    """Sum L_SP of each example, the counts over all layers: [examples].

    Args:
      counts: of `layer_counts`, each [examples, ...].
      examples: how many; matters where there are no layers.
      weights: for each layer one for each neuron, shape [...]; None counts each once.
    """
    total = jnp.zeros(examples)
    for path, count in counts.items():
        count = count if weights is None else count * weights[path]
        total += count.reshape(examples, -1).sum(1)
    return total


def synaptic_weights(
    apply_fn: ApplyFn, variables: Any, placeholder: Any
) -> dict[str, jax.Array]:
    """Return the fan-out of each neuron over the mean of all, for `example_sums`.

    L_SP is then the number of synaptic operations, in units of those of an average
    spike, so that the same lambda stays the same weight on the whole.

    Args:
      apply_fn: (variables, inputs) -> output, in inference.
      variables: of any values; shapes matter.
      placeholder: shapes and types of the inputs, of one example.

    Returns:
      For each path an array [1, ...] for its neurons; their mean over all is 1.
    """
    synapses = fan_out(apply_fn, variables, placeholder)
    total = sum(float(array.sum()) for array in synapses.values())
    mean = total / sum(array.size for array in synapses.values())
    return {path: array / mean for path, array in synapses.items()}


def neurons(counts: Mapping[str, jax.Array]) -> int:
    """Count the neurons that one example has."""
    return sum(count[0].size for count in counts.values())


def _sown(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Walk (path, what it sowed) of every call of every layer of neurons."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _sown(value, f"{path}/{name}" if path else name)
        else:
            yield from ((path, call) for call in value)
