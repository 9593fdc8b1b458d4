"""One step of training and one of evaluation: pure functions of any task."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from bitsnn_jax import config
from bitsnn_jax.data.batches import along
from bitsnn_jax.direct import method_of
from bitsnn_jax.direct.spiking import SPIKES
from bitsnn_jax.runtime.devices import AXIS
from bitsnn_jax.tasks import Task
from bitsnn_jax.tracing.fast_convolutions import with_fast_convolutions
from bitsnn_jax.tracing.program import ApplyFn
from bitsnn_jax.training.accumulate import in_parts
from bitsnn_jax.training.metrics import Metrics
from bitsnn_jax.training.sparsity import example_sums, layer_counts, neurons


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
    placeholder: Any,
    key: jax.Array,
) -> State:
    """Return the state before the first step, on one device.

    Args:
      model: to be trained.
      optimizer: that will train it.
      placeholder: shapes and types of its inputs, see `Task.placeholder`.
      key: of the random weights.
    """

    def init(key):
        inputs = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), placeholder)
        variables = model.init(key, inputs, train=False)
        params = variables["params"]
        stats = variables.get("batch_stats", {})
        return State(jnp.zeros((), jnp.int32), params, stats, optimizer.init(params))

    # Runs once: compiling it well takes longer than it ever saves.
    return jax.jit(init, compiler_options={"xla_backend_optimization_level": 0})(key)


def train_step(
    task: Task,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    loss: config.Loss,
    *,
    levels: int,
    weights: Mapping[str, Any] | None = None,
    accumulate: int = 1,
    teacher: ApplyFn | None = None,
    direct: config.Direct | None = None,
    steps: int = 1,
    binary: bool = False,
) -> Callable[..., tuple[State, Metrics]]:
    """Return the pure function (state, batch, key) -> (state, metrics), to be mapped.

        L = L_task + spike_lambda max(L_SP - spike_target N, 0)             Eq. (11)

    averaged over the batch, with L_SP the spikes of all N neurons per example. (The
    authors' code sums L_SP over the batch: its lambda depends on the batch size.) With
    `weights`, for each path of QCFS layers one for each neuron, L_SP is their weighted
    sum; the metrics count spikes as they are. The paper has no target: with one,
    examples that send less are left alone, so that a lambda of any size ends near it.

    With a `teacher`, (variables, inputs) -> outputs, the function takes the teacher's
    variables as one more argument, and

        L_task <- (1 - distillation) L_task + distillation distance(outputs, taught)

    Gradients and batch statistics are averaged over the devices, metrics summed. `key`
    is that of the run: step and device are folded into it here. A device works its rows
    off in `accumulate` parts, see `in_parts`.

    With `direct`, L_task is the loss of its method, which also looks at what neurons
    did and at which of the run's `steps` this is. A `binary` network looks at that too,
    and what it sows as penalties is added to the loss of each example.
    """
    # Spikes are only sown, and counted, where they are part of the loss.
    mutable = ["batch_stats", *(["activations"] if loss.spike_lambda else [])]
    mutable += ["direct"] if direct else []
    mutable += ["penalties"] if binary else []
    apply = _forward(model, mutable, direct, binary=binary)

    def loss_fn(params, state, batch, key, known):
        variables = {"params": params, "batch_stats": state.batch_stats}
        progress = state.step / steps
        outputs, updates = apply(variables, task.inputs(batch), key, progress)
        counts = layer_counts(updates, levels=levels, surrogate=loss.spike_surrogate)
        rows = _rows(batch)
        spikes = example_sums(counts, examples=rows)
        cost = example_sums(counts, examples=rows, weights=weights)
        if direct:
            (seen,) = updates["direct"]["seen"]
            method = method_of(direct)
            of_task = task.squared_error if method.squared_error else task.loss
            each = method.loss(seen, lambda outputs: of_task(outputs, batch, loss))
        else:
            each = task.loss(outputs, batch, loss)
        if teacher is not None:
            taught = teacher(known, task.inputs(batch))
            distance = task.distance(outputs, taught, loss)
            each = (1 - loss.distillation) * each + loss.distillation * distance
        above = cost - loss.spike_target * neurons(counts)
        each += loss.spike_lambda * jnp.where(above >= 0, above, 0)
        if binary:
            each += sum(jax.tree.leaves(updates.get("penalties", {})))
        counted = task.counts(outputs, batch)
        metrics = _sums(each, counted, spikes, neurons(counts), jnp.ones(rows))
        return each.mean(), (updates.get("batch_stats", {}), metrics)

    def step(state, batch, key, known=None):
        key = jax.random.fold_in(key, state.step)
        key = jax.random.fold_in(key, jax.lax.axis_index(AXIS))

        def means_and_sums(batch, key):
            grads, (stats, metrics) = jax.grad(loss_fn, has_aux=True)(
                state.params, state, batch, key, known
            )
            return (grads, stats), metrics

        means, metrics = in_parts(means_and_sums, batch, key, parts=accumulate)
        grads, stats = jax.lax.pmean(means, AXIS)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return State(state.step + 1, params, stats, opt_state), _total(metrics)

    return with_fast_convolutions(step)


def step_of(
    config: config.Config,
    task: Task,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    steps: int = 1,
    weights: Mapping[str, Any] | None = None,
    teacher: ApplyFn | None = None,
) -> Callable[..., tuple[State, Metrics]]:
    """Return the `train_step` of a run.

    Args:
      config: of the run.
      task: on its data set, if batches hold pixels.
      model: its network.
      optimizer: its optimiser.
      steps: that the whole run has.
      weights, teacher: see `train_step`.
    """
    return train_step(
        task,
        model,
        optimizer,
        config.loss,
        levels=config.model.levels,
        weights=weights,
        accumulate=config.optimizer.accumulate,
        teacher=teacher,
        direct=config.direct if config.direct.method else None,
        steps=steps,
        binary=bool(config.binary.method),
    )


def _forward(model, mutable, direct, *, binary=False):
    """Return (variables, inputs, key, progress) -> (outputs, updates), in training."""

    def forward(variables, inputs, key, progress):
        moment = {"progress": progress} if direct or binary else {}
        return model.apply(
            variables,
            inputs,
            train=True,
            mutable=mutable,
            rngs={"dropout": key},
            **moment,
        )

    if direct and direct.remat == "layer":
        kept = jax.checkpoint_policies.save_only_these_names(SPIKES)
        return jax.checkpoint(forward, policy=kept)
    return forward


def eval_step(
    task: Task, model: nn.Module, *, levels: int
) -> Callable[[dict, dict], tuple[Metrics, tuple[dict, jax.Array]]]:
    """Return the pure function (variables, batch) -> (metrics, rows), to be mapped.

    Rows whose `mask` is False count for nothing. The loss is that of the task alone.
    `rows` are the evidence of all devices and the masks, [devices, n, ...].
    """

    def step(variables, batch):
        outputs, sown = model.apply(
            variables, task.inputs(batch), train=False, mutable=["activations"]
        )
        each = task.loss(outputs, batch)
        counts = layer_counts(sown, levels=levels)
        spikes = example_sums(counts, examples=_rows(batch))
        counted, mask = task.counts(outputs, batch), batch["mask"].astype(jnp.float32)
        metrics = _sums(each, counted, spikes, neurons(counts), mask)
        rows = task.evidence(outputs, batch), batch["mask"]
        return _total(metrics), jax.lax.all_gather(rows, AXIS)

    return with_fast_convolutions(step)


def _rows(batch):
    return len(jax.tree.leaves(batch)[0])


def _sums(each, counted, spikes, num_neurons, mask):
    def total(x):
        return jnp.sum(x.astype(jnp.float32) * along(mask, x), axis=0)

    return Metrics(
        loss=total(each),
        examples=mask.sum(),
        counts=jax.tree.map(total, counted),
        spikes=total(spikes),
        neurons=num_neurons * mask.sum(),
    )


def _total(metrics):
    return jax.lax.psum(metrics, AXIS)
