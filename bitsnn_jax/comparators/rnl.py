"""Rate norm layers, for ReLU networks (Ding et al., IJCAI 2021).

Ding et al., Optimal ANN-SNN conversion for fast and accurate inference in deep spiking
neural networks, 2021. A layer's threshold is a share of its largest activation,

    theta = share peak,   a = clip(z / theta, 0, 1),   the layer gives theta a

and the shares are trained against the network that they clip, to make the rates a come
to rest early: K = sum(a) / sum(a^2) bounds how long that takes. It is least when all
neurons that fire do so at each step, so the shares fall, until the network has lost the
few points of accuracy that stop the training (public code: 3 or 10). The neurons then
are IF with reset by subtraction and v(0) = 0.

Ours is where that ends, without the training: one share for all layers, as the public
commands have it, and the least with which the clipped network still gives 97 % of the
calibration images the class that the ReLU network gives them, which takes no labels.
Peaks are those behind layers that are clipped already, averaged over batches with the
paper's momentum. The paper trains weights with the clips in place, and its batch norms
take their statistics anew behind them; here they stay those of the ReLU network.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax.comparators.batches import in_batches
from bitsnn_jax.comparators.layer import StepNeuron
from bitsnn_jax.comparators.method import Method, Network
from bitsnn_jax.comparators.observe import clipped_relu, relu, replaced
from bitsnn_jax.comparators.qcfs import integrate_and_fire, send

_IMAGES = 50
_MOMENTUM = 0.1
AGREEMENT = 0.97  # with the ReLU network, on calibration images
HALVINGS = 10  # of the interval that the share is in


def neuron() -> StepNeuron:
    """The IF neuron that starts empty, with thresholds that were found."""

    def step(layer, v, current, t):
        v, spikes = integrate_and_fire(layer, v, current)
        return v, send(layer, spikes)

    return StepNeuron(lambda layer: layer.full(0), step)


def prepare(
    network: Network, batches: Iterable[Any], steps: int
) -> dict[str, dict[str, Any]]:
    """For each layer {"theta": []}; whatever T is.

    Raises:
      ValueError: a layer has no positive activation, or one that is not finite.
    """
    batches = in_batches(batches, _IMAGES)
    thetas_of = thresholds(network, batches)
    clipped = jax.jit(_predictions(network, clipped_relu))
    unclipped = jax.jit(_predictions(network, relu))
    wanted = [unclipped(network.variables, x, {}) for x in batches]

    def agreement(found):
        guesses = (clipped(network.variables, x, found) for x in batches)
        return np.mean([g == w for g, w in zip(guesses, wanted, strict=True)])

    found = thetas_of(1.0)
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        share = (low + high) / 2
        smaller = thetas_of(share)
        if agreement(smaller) >= AGREEMENT:
            high, found = share, smaller
        else:
            low = share
    return found


def thresholds(
    network: Network, batches: list[Any]
) -> Callable[[float], dict[str, dict[str, Any]]]:
    """share -> what `prepare` returns for it.

    A layer's peak is its largest pre-activation in a batch, behind layers clipped at
    `share` of theirs, averaged with momentum over batches from the first one on.
    """

    def averaged(old, z, momentum):
        return (1 - momentum) * old + momentum * jnp.maximum(z.max(), 0)

    @jax.jit
    def after(variables, x, peaks, share, momentum):
        def clipped(layer, z):
            peak = averaged(layer.found["peak"], z, momentum)
            return jnp.clip(z, 0, share * peak)

        found = {path: {"peak": peak} for path, peak in peaks.items()}
        _, seen = replaced(network.apply_fn, clipped, found=found)(variables, x)
        return {path: averaged(peaks[path], z, momentum) for path, z in seen.items()}

    _, seen = jax.eval_shape(
        replaced(network.apply_fn, relu), network.variables, batches[0]
    )

    def of(share: float) -> dict[str, dict[str, Any]]:
        peaks: dict[str, Any] = {
            path: np.zeros((), z.dtype) for path, z in seen.items()
        }
        for i, x in enumerate(batches):
            momentum = _MOMENTUM if i else 1.0
            peaks = after(network.variables, x, peaks, share, momentum)
        peaks = jax.device_get(peaks)
        for path, peak in peaks.items():
            if not 0 < peak < np.inf:
                raise ValueError(
                    f"{path} must have positive, finite largest activations to find "
                    f"its threshold with, got {peak} on the average"
                )
        return {path: {"theta": share * peak} for path, peak in peaks.items()}

    return of


def _predictions(network, activation):
    def of(variables, x, found):
        output, _ = replaced(network.apply_fn, activation, found=found)(variables, x)
        return output.reshape(len(output), -1).argmax(-1)

    return of


METHOD = Method(
    name="rnl",
    title="rate norm layers",
    source="Ding et al., Optimal ANN-SNN conversion for fast and accurate inference in "
    "deep spiking neural networks, IJCAI 2021",
    neuron=lambda steps: neuron(),
    trained_with="relu",
    prepare=prepare,
    seeds=True,
)
