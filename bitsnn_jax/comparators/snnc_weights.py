"""SNN calibration, advanced: weights and then potentials, layer by layer; see `snnc`.

Behind the thresholds of `snnc` each layer, in the order of firing, has the weights that
feed it trained until it counts what the ReLU network computes. With z(W) what the mean
trains of the layers before it, trained already, feed it, and a the activation of the
ReLU network with its own weights:

    n = clip(floor((T z(W) + theta / 2) / theta), 0, T)
    W = argmin over W of the mean over places of sum over channels (n theta / T - a)^2

by Adam, with the gradient straight through the floor. The last layer, which feeds no
neurons, stays. Potentials are then found as in `snnc`, to the same activations a. That
order is the one of the authors' public code.

Differs from the paper: `_STEPS` steps of `_RATE` there 5000 of 1e-5, with a cosine to 0
as there, because a table does this for each T; 256 images there 1,024. Weights are all
arrays of two axes or more, and batch norm stands behind them, not folded. In the public
code the loss leaves theta / 2 out, though its neurons have it.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from bitsnn_jax.comparators import snnc
from bitsnn_jax.comparators.batches import in_batches
from bitsnn_jax.comparators.decomposition import whole_train
from bitsnn_jax.comparators.layer import Layer, Sent, TrainNeuron
from bitsnn_jax.comparators.method import Method, Network
from bitsnn_jax.comparators.observe import relu, replaced
from bitsnn_jax.comparators.qcfs import send
from bitsnn_jax.comparators.simulation import simulate
from bitsnn_jax.tracing.program import ApplyFn

_IMAGES, _PART, _BATCH = 256, 64, 32  # all; at a time in a simulation; in a step
_STEPS, _RATE = 200, 1e-4


def prepare(
    network: Network,
    batches: Iterable[Any],
    steps: int,
    *,
    updates: int = _STEPS,
    rate: float = _RATE,
) -> Network:
    """Change the weights, and find thresholds and potentials."""
    batches, ann = list(batches), network.variables
    network = network._replace(found=snnc.thresholds(network, batches, steps))
    images, *_ = in_batches(batches, _IMAGES)
    activations = jax.jit(partial(_activations, network.apply_fn))
    targets = _in_parts(partial(activations, network.variables), images)
    spikes: dict[str, np.ndarray] = {}
    means: dict[str, np.ndarray] = {}
    for path, target in targets.items():
        variables = trained(network, path, steps, images, means, target, updates, rate)
        network = network._replace(variables=variables)
        run = _fired(network.apply_fn, path)
        fire = partial(run, variables, network.found, steps=steps)
        spikes[path] = _in_parts(fire, (images, spikes))
        means[path] = network.found[path]["theta"] * spikes[path].mean(1, target.dtype)
    return snnc.corrected(network, ann, batches, steps, snnc.potential)


def trained(
    network: Network,
    path: str,
    steps: int,
    images: Any,
    trains: Mapping[str, Any],
    target: Any,
    updates: int,
    rate: float,
) -> Any:
    """Train the weights that feed a layer.

    Args:
      network: with thresholds.
      path: of the layer.
      steps: T.
      images: [n, ...].
      trains: path -> [n, ...], means of what layers before it send.
      target: [n, ...], what its means should be.
      updates, rate: of Adam.

    Returns:
      Variables, of which others than those weights are as they were.
    """
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, updates))
    gradient = gradient_of(network.apply_fn, path)

    @jax.jit
    def step(state, changes, weights):
        changes, state = optimizer.update(changes, state)
        return optax.apply_updates(weights, changes), state

    weights, rest = _split(network.variables)
    state, rng = optimizer.init(weights), np.random.default_rng(0)
    rows = jax.device_put((images, trains, target))
    for _ in range(updates):
        chosen = rng.permutation(len(target))[:_BATCH]
        changes = gradient(weights, rest, network.found, steps, rows, chosen)
        weights, state = step(state, changes, weights)
    return jax.device_get(_joined(weights, rest))


@lru_cache(maxsize=64)  # compiled once for every T
def gradient_of(apply_fn: ApplyFn, path: str):
    """Build the gradient of `loss` with respect to the weights."""
    return jax.jit(jax.grad(loss(apply_fn, path)))


def loss(apply_fn: ApplyFn, path: str):
    """Build (weights, rest, found, T, rows, chosen) -> [] of a layer."""

    def of(weights, rest, found, steps, rows, chosen):
        images, trains, target = jax.tree.map(lambda a: a[chosen], rows)
        missed = {}

        def count(layer: Layer, z):
            if layer.site.path == path:
                n = jnp.clip((steps * z + layer.theta / 2) / layer.theta, 0, steps)
                n = n + lax.stop_gradient(jnp.floor(n) - n)
                missed[path] = n * layer.theta / steps - target
            given = trains.get(layer.site.path)
            return jnp.zeros_like(z) if given is None else given

        run = replaced(apply_fn, count, found=found)
        run(_joined(weights, rest), images)
        return jnp.mean(jnp.sum(missed[path] ** 2, -1))

    return of


def _split(variables: Any) -> tuple[list[Any], Any]:
    """Return the weights, and the variables without them."""
    leaves, tree = jax.tree.flatten(variables)
    weights = [leaf for leaf in leaves if np.ndim(leaf) > 1]
    return weights, jax.tree.unflatten(
        tree, [None if np.ndim(leaf) > 1 else leaf for leaf in leaves]
    )


def _joined(weights: list[Any], rest: Any) -> Any:
    missing = iter(weights)
    return jax.tree.map(
        lambda leaf: next(missing) if leaf is None else leaf,
        rest,
        is_leaf=lambda leaf: leaf is None,
    )


def _in_parts(run, rows) -> Any:
    """Run some rows at a time, and join what comes out."""
    count = len(jax.tree.leaves(rows)[0])
    made = []
    for i in range(0, count, _PART):
        part = jax.tree.map(lambda a, i=i: a[i : i + _PART], rows)
        made.append(jax.device_get(run(part)))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *made)


def _activations(apply_fn: ApplyFn, variables, images):
    """Return the activations of the ReLU network, in the order of firing."""
    _, seen = replaced(apply_fn, relu)(variables, images)
    return OrderedDict((path, jnp.maximum(z, 0)) for path, z in seen.items())


@lru_cache(maxsize=64)
def _fired(apply_fn: ApplyFn, path: str):
    """Build (variables, found, (images, spikes)) -> spikes of a layer, [n, T, ...].

    Those of the layers before it are given, so that XLA computes nothing of them.
    """

    @partial(jax.jit, static_argnames="steps")
    def run(variables, found, given, *, steps):
        images, spikes = given
        made = []

        def fire(layer: Layer, currents) -> Sent:
            if layer.site.path in spikes:
                return send(layer, jnp.moveaxis(spikes[layer.site.path], 1, 0))
            sent = whole_train(snnc.neuron(steps)).fire(layer, currents)
            if layer.site.path == path:
                made.append(jnp.moveaxis(sent.spikes, 0, 1))
            return sent

        simulate(apply_fn, TrainNeuron(fire), steps=steps, found=found)(
            variables, images
        )
        return made[0]

    return run


METHOD = Method(
    name="snnc_weights",
    title="SNNC, weights and potentials",
    source=snnc.SOURCE,
    neuron=snnc.neuron,
    trained_with="relu",
    prepare=prepare,
    seeds=True,
    for_one=True,
)
