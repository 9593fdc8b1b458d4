"""One step of training and one of evaluation: pure functions, and their pmap."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from bitsnn_jax import config
from bitsnn_jax.devices import AXIS
from bitsnn_jax.spikes import spike_count
from bitsnn_jax.training.metrics import Metrics


@flax.struct.dataclass
class State:
    """All that a step changes."""

    step: Any  # int32 [], steps done
    params: Any
    batch_stats: Any
    opt_state: Any

    @property
    def variables(self) -> dict:
        return {"params": self.params, "batch_stats": self.batch_stats}


def init_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, ...],
    key: jax.Array,
) -> State:
    """The state before the first step; on one device."""

    def init(key):
        variables = model.init(key, jnp.zeros((1, *image_shape)), train=False)
        params = variables["params"]
        stats = variables.get("batch_stats", {})
        return State(jnp.zeros((), jnp.int32), params, stats, optimizer.init(params))

    # Runs once: compiling it well takes longer than it ever saves.
    return jax.jit(init, compiler_options={"xla_backend_optimization_level": 0})(key)


def train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    loss: config.Loss,
    *,
    levels: int,
) -> Callable[[State, dict, jax.Array], tuple[State, Metrics]]:
    """The pure function (state, batch, key) -> (state, metrics), to be mapped.

        L = CE(logits, label) + spike_lambda L_SP                           Eq. (11)

    averaged over the batch, with L_SP the spikes of all neurons per example. (The
    authors' code sums L_SP over the batch: its lambda depends on the batch size.)

    Gradients and batch statistics are averaged over the devices, metrics summed. `key`
    is that of the run: step and device are folded into it here.
    """
    # Spikes are only sown, and counted, where they are part of the loss.
    mutable = ["batch_stats", *(["activations"] if loss.spike_lambda else [])]

    def loss_fn(params, state, batch, key):
        logits, updates = model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            batch["image"],
            train=True,
            mutable=mutable,
            rngs={"dropout": key},
        )
        spikes, neurons = spikes_and_neurons(updates, logits, levels=levels)
        targets = optax.smooth_labels(
            jax.nn.one_hot(batch["label"], logits.shape[-1]), loss.label_smoothing
        )
        each = optax.softmax_cross_entropy(logits, targets) + loss.spike_lambda * spikes
        metrics = _sums(each, logits, batch["label"], spikes, neurons)
        return each.mean(), (updates.get("batch_stats", {}), metrics)

    def step(state, batch, key):
        key = jax.random.fold_in(key, state.step)
        key = jax.random.fold_in(key, jax.lax.axis_index(AXIS))
        grads, (stats, metrics) = jax.grad(loss_fn, has_aux=True)(
            state.params, state, batch, key
        )
        grads, stats = jax.lax.pmean((grads, stats), AXIS)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return State(state.step + 1, params, stats, opt_state), _total(metrics)

    return step


def eval_step(model: nn.Module, *, levels: int) -> Callable[[dict, dict], Metrics]:
    """The pure function (variables, batch) -> metrics, to be mapped.

    Rows whose `mask` is False count for nothing. The loss is the cross-entropy alone.
    """

    def step(variables, batch):
        logits, sown = model.apply(
            variables, batch["image"], train=False, mutable=["activations"]
        )
        labels = batch["label"]
        each = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        spikes, neurons = spikes_and_neurons(sown, logits, levels=levels)
        return _total(_sums(each, logits, labels, spikes, neurons, batch["mask"]))

    return step


def spikes_and_neurons(
    sown: Mapping[str, Any], logits: jax.Array, *, levels: int
) -> tuple[jax.Array, int]:
    """Spikes of each example [b] over all QCFS layers, and the neurons one example has.

    Args:
      sown: the variables that `model.apply` changed. Without "activations", zeros.
      logits: [b, classes].
      levels: highest code of the activations.
    """
    spikes, neurons = jnp.zeros(len(logits)), 0
    for a, theta in _pairs(sown.get("activations", {})):
        count = spike_count(a, theta, levels=levels)
        spikes += count.reshape(len(a), -1).sum(1)
        neurons += a[0].size
    return spikes, neurons


def _pairs(sown):
    """(a, theta) of every call of every QCFS layer."""
    for value in sown.values():
        yield from _pairs(value) if isinstance(value, Mapping) else value


def _sums(each, logits, labels, spikes, neurons, mask=None):
    mask = jnp.ones(len(each)) if mask is None else mask.astype(jnp.float32)

    def total(x):
        return jnp.sum(x * mask)

    correct = (logits.argmax(-1) == labels).astype(jnp.float32)
    return Metrics(
        loss=total(each),
        correct=total(correct),
        examples=mask.sum(),
        spikes=total(spikes),
        neurons=neurons * mask.sum(),
    )


def _total(metrics):
    return jax.lax.psum(metrics, AXIS)
