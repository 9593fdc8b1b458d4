"""Rate norm layers and their optimal fit, for ReLU networks (Ding et al., IJCAI 2021).

Ding et al., Optimal ANN-SNN conversion for fast and accurate inference in deep spiking
neural networks, 2021. A layer's threshold is a share of its largest activation, and
only the shares are trained, against the network that they clip:

    theta = peak sigmoid(scale),   a = clip(z / theta, 0, 1),   the layer gives theta a
    loss  = 1 - cos(logits, logits of the source) + 0.1 mean over layers of K,
    K     = sum(a) / sum(a^2)

K, of a whole batch, bounds how fast a layer's rates come to rest; it is least when all
neurons that fire do so at each step. The neurons then are IF with reset by subtraction
and v(0) = 0.

The paper trains its source with these clips in place, weights and all (scale held at
10), and the largest activations are running averages over its batches: that is
`rnl_trained`. This one starts from a trained ReLU network: the peaks are running
averages over the calibration images, from the first batch on. The second stage, on the
shares alone, begins at scale = 4, as that of the public code does, and is `STEPS`
steps of Adam there 200 epochs of SGD: a share near 1 has next to no gradient. The
logits it is held to are those of the ReLU network; in the public code they are those of
the clipped network itself, which hold nothing, so that K falls until an accuracy on
labelled images, 3 or 10 points below, stops it. K of the logits, which the public code
adds, is left out. So are, in its second stage, peaks and statistics of batch norm that
move on, and one scale for all layers. What that stop amounts to, the least common share
that keeps 97 % of the ReLU network's predictions, was tried as well: it is near 0.4 for
ResNet-20 on Fashion-MNIST, and at T = 32 the spiking network has 24 % with it and 39 %
with the fit above.
"""

from collections.abc import Callable, Iterable
from itertools import cycle, islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bitsnn_jax.comparators.batches import in_batches
from bitsnn_jax.comparators.method import Method, Network
from bitsnn_jax.comparators.observe import ActivationFn, relu, replaced
from bitsnn_jax.comparators.qcfs import empty, neuron

IMAGES = 50  # in a batch
STEPS, _RATE = 100, 0.1
_SCALE = 4.0
_MOMENTUM = 0.1
_LAMBDA = 0.1


def prepare(
    network: Network, batches: Iterable[Any], steps: int, *, updates: int = STEPS
) -> Network:
    """Find {"theta": []} for each layer, whatever T is.

    Raises:
      ValueError: a layer has no positive activation, or one that is not finite.
    """
    batches = in_batches(batches, IMAGES)
    peaks = running_peaks(network, batches)
    return fit(network, batches, peaks, relu, updates=updates)


def fit(
    network: Network,
    batches: list[Any],
    peaks: dict[str, Any],
    source: ActivationFn,
    *,
    updates: int = STEPS,
) -> Network:
    """Train the shares: the second stage.

    Args:
      network: of them.
      batches: of 50 images.
      peaks: path -> largest activation.
      source: the activation of the network that the clipped one is held to.
      updates: steps of Adam.
    """
    scales = {path: np.full_like(peak, _SCALE) for path, peak in peaks.items()}
    optimizer = optax.adam(_RATE)
    state = optimizer.init(scales)
    gradient = jax.grad(loss(network, peaks, source))

    @jax.jit
    def step(variables, x, scales, state):
        changes, state = optimizer.update(gradient(scales, variables, x), state)
        return optax.apply_updates(scales, changes), state

    for x in islice(cycle(batches), updates):
        scales, state = step(network.variables, x, scales, state)
    return network._replace(found=jax.device_get(_thetas(peaks, scales)))


def running_peaks(network: Network, batches: list[Any]) -> dict[str, Any]:
    """Average each layer's largest activation with momentum over batches."""
    run = replaced(network.apply_fn, relu)

    @jax.jit
    def largest(variables, x):
        return {path: z.max() for path, z in run(variables, x)[1].items()}

    peaks, *others = (jax.device_get(largest(network.variables, x)) for x in batches)
    for now in others:
        peaks = jax.tree.map(
            lambda old, new: (1 - _MOMENTUM) * old + _MOMENTUM * np.maximum(new, 0),
            peaks,
            now,
        )
    for path, peak in peaks.items():
        if not 0 < peak < np.inf:
            raise ValueError(
                f"{path} must have positive, finite largest activations to find its "
                f"threshold with, got {peak} on the average"
            )
    return peaks


def loss(
    network: Network, peaks: dict[str, Any], source: ActivationFn = relu
) -> Callable[[Any, Any, Any], Any]:
    """Build the loss of the second stage, (scales, variables, x) -> []."""

    def of(scales, variables, x):
        ks = []

        def clipped(layer, z):
            a = jnp.clip(z / layer.theta, 0, 1)
            # Where nothing fires K is 0, not 0 / 0.
            ks.append(a.sum() / ((a**2).sum() + 1e-5))
            return layer.theta * a

        target, _ = replaced(network.apply_fn, source)(variables, x)
        if not isinstance(target, jax.Array):
            raise ValueError(
                "rnl compares the logits of two networks: expected one array, got "
                f"{len(jax.tree.leaves(target))} arrays"
            )
        found = _thetas(peaks, scales)
        output, _ = replaced(network.apply_fn, clipped, found=found)(variables, x)
        rows = (len(output), -1)
        distance = optax.losses.cosine_distance(
            output.reshape(rows), target.reshape(rows), epsilon=1e-6
        )
        return distance.mean() + _LAMBDA * sum(ks) / len(ks)

    return of


def _thetas(peaks, scales):
    return {
        path: {"theta": peaks[path] * jax.nn.sigmoid(scale)}
        for path, scale in scales.items()
    }


METHOD = Method(
    name="rnl",
    title="rate norm layers",
    source="Ding et al., Optimal ANN-SNN conversion for fast and accurate inference in "
    "deep spiking neural networks, IJCAI 2021",
    neuron=lambda steps: neuron(empty),
    trained_with="relu",
    prepare=prepare,
    seeds=True,
)
