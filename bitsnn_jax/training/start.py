"""Start training from the network of another run in place of a random one.

The paper's cheap way to a quantised network (A.10): train with ReLU, then 30 epochs
with QCFS. `config.start_from` names the first run, or a folder of Hugging Face's with
the weights of a transformer; `conversion.calibration` finds the thresholds that it does
not have. A detector also starts from a classifier, whose stages are its backbone.
"""

import dataclasses
import os
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from bitsnn_jax.config import Config
from bitsnn_jax.conversion.calibration import CAPS, calibrate_network
from bitsnn_jax.data.memory import check_fits
from bitsnn_jax.interop.huggingface import (
    check_fit,
    from_huggingface,
    is_huggingface,
)
from bitsnn_jax.runs.checkpoint import FOLDER, CheckpointError, Checkpoints, Run
from bitsnn_jax.runs.loading import ann_fn, find_run
from bitsnn_jax.tasks import Examples, task_of
from bitsnn_jax.training.backbone_start import is_backbone, with_backbone
from bitsnn_jax.training.fitting import fitted, thetas
from bitsnn_jax.training.log import say
from bitsnn_jax.training.spiking_start import check_activation, into_neurons
from bitsnn_jax.training.step import State

# Training examples that thetas are calibrated with: 8 batches of 64.
BATCHES, BATCH_SIZE = 8, 64

_MOMENTA = {"sgd": 1, "adamw": 2}  # arrays as large as the weights


def check_source(config: Config, workdir: str | os.PathLike) -> None:
    """Look for the network to start from, before anything is written.

    Raises:
      ValueError: no such network, or one that `config.direct.method` cannot start
        from. A run that has checkpoints of its own does not ask for it.
    """
    if config.start_from and not (Path(workdir) / FOLDER).is_dir():
        check_activation(_source(config).run, config)


def check_memory(model: nn.Module, config: Config, placeholder: Any) -> None:
    """Compare a network with the memory of this machine, before it takes any.

    Each device holds weights, their gradients and momenta at least, of which AdamW has
    two.

    Raises:
      ValueError: it cannot hold them.
    """
    variables = jax.eval_shape(
        partial(model.init, train=False), jax.random.key(0), placeholder
    )
    weights = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(variables))
    # Devices of another kind have a memory of their own, which says when it is full.
    shared = jax.local_device_count() if jax.default_backend() == "cpu" else 1
    check_fits(
        f"weights, gradients and momenta of model.width={config.model.width} (take a "
        "smaller one)",
        (2 + _MOMENTA[config.optimizer.name]) * weights * shared,
    )


def start(
    state: State, config: Config, examples: Examples, checkpoints: Checkpoints
) -> tuple[State, dict]:
    """Return the state to begin with, and its origin as metadata.

    Thetas are those of the run that `config.start_from` names. Where it has none, being
    trained with ReLU or GELU, they are calibrated with the first training examples, as
    evaluation sees them, so that quantisation loses least. Pooler and classifier stay
    random if a folder of Hugging Face's does not have them. What a network that is
    trained through time starts with, `into_neurons` says. A run that has checkpoints
    goes on from them and keeps the origin that they tell of; the other network is not
    asked for.

    Args:
      state: with random variables.
      config: of this run.
      examples: the training split.
      checkpoints: of this run.

    Returns:
      The state, and {} or {"start": {"run", "step", "commit", "version", ...}} with
      the origin of that run, if it had one, inside; or {"start": {"folder", "sha256",
      "random"}}. "random" lists modules that are; a classifier's run has it too.

    Raises:
      ValueError: no such network, or the first of its arrays that does not fit the
        model.
    """
    if not config.start_from:
        return state, {}
    if checkpoints.latest is not None:
        (saved,) = checkpoints.read(checkpoints.latest, "metadata")
        return state, {key: saved[key] for key in {"start"} & saved.keys()}
    source = _source(config)
    found, origin = source.variables, source.origin
    for module in source.random:
        say(f"{config.start_from} has no {module}, which stays random")
        found = _with_random(found, state.params[module], module)
    if source.is_backbone:
        found, random = with_backbone(found, state.variables)
        origin = {**origin, "random": list(random)}
        say(
            f"{config.start_from} is a classifier: its stem and stages are the "
            f"backbone, its head is left out; {', '.join(random)} stay random"
        )
    if source.run and config.direct.method:
        inputs = partial(_inputs, config, examples)
        variables = into_neurons(
            source.run, state.variables, config, examples.input_shape, inputs
        )
        return dataclasses.replace(state, **variables), {"start": origin}
    variables = fitted(found, state.variables, name=config.start_from)
    if thetas(variables) != thetas(state.variables):
        apply_fn = ann_fn(config, examples.input_shape)
        batches = list(_inputs(config, examples))  # gone through twice
        variables = calibrate_network(apply_fn, variables, batches, cap=source.cap)
    return dataclasses.replace(state, **variables), {"start": origin}


class _Source(NamedTuple):
    """A network to start from.

    Attributes:
      variables: of it.
      origin: where it comes from, for the metadata.
      cap: of its ReLUs, if they have one.
      random: modules that it does not have.
      run: that it is of; None for a folder of Hugging Face's.
      is_backbone: whether it is to be a part of this one, see `backbone_start`.
    """

    variables: dict
    origin: dict
    cap: float | None = None
    random: tuple[str, ...] = ()
    run: Run | None = None
    is_backbone: bool = False


def _source(config: Config) -> _Source:
    try:
        if is_huggingface(config.start_from):
            return _of_huggingface(config)
        run = find_run(config.start_from)
    except ValueError as error:
        other = "" if Path(config.start_from).is_dir() else _OR_HUGGING_FACE
        raise CheckpointError(f"start_from: {error}{other}") from error
    return _of_run(run, config)


_OR_HUGGING_FACE = (
    "; or, for a transformer, a folder of Hugging Face, with config.json and "
    "model.safetensors"
)


def _of_run(run: Run, config: Config) -> _Source:
    origin = {"run": run.config.name, "step": run.step} | {
        key: run.metadata[key]
        for key in ("commit", "version", "start")
        if key in run.metadata
    }
    cap = CAPS.get(run.config.model.activation)
    return _Source(
        run.variables, origin, cap, run=run, is_backbone=is_backbone(run, config)
    )


def _of_huggingface(config: Config) -> _Source:
    found = from_huggingface(config.start_from)
    check_fit(found, config.model)
    variables = {"params": found.params, "batch_stats": {}}
    origin = {
        "folder": found.folder.resolve().name,
        "sha256": found.sha256,
        "random": list(found.missing),
    }
    return _Source(variables, origin, random=found.missing)


def _with_random(variables: dict, random: dict, module: str) -> dict:
    """Add a module with its random weights, less thetas."""
    leaves = flatten_dict({module: random})
    weights = {path: leaf for path, leaf in leaves.items() if path[-1] != "theta"}
    return {**variables, "params": {**variables["params"], **unflatten_dict(weights)}}


def _inputs(config, examples):
    """Return the first training examples in batches, as evaluation sees them."""
    task, examples = task_of(config).on(examples), examples.first(BATCHES * BATCH_SIZE)
    for batch in task.eval_batches(config.data, examples, batch_size=BATCH_SIZE):
        rows = task.whole(batch)
        yield jax.tree.map(lambda x, rows=rows: x[rows], task.inputs(batch))
