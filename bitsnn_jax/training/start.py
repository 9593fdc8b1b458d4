"""Start training from the network of another run in place of a random one.

The paper's cheap way to a quantised network (A.10): train with ReLU, then 30 epochs
with QCFS. `config.start_from` names the first run, `conversion.calibration` finds the
thresholds that it does not have.
"""

import dataclasses
import os
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from bitsnn_jax.config import Config
from bitsnn_jax.conversion.calibration import CAPS, calibrate_network
from bitsnn_jax.data.memory import check_fits
from bitsnn_jax.runs.checkpoint import FOLDER, CheckpointError, Checkpoints
from bitsnn_jax.runs.loading import ann_fn, find_run
from bitsnn_jax.tasks import Examples, task_of
from bitsnn_jax.training.step import State

# Training examples that thetas are calibrated with: 8 batches of 64.
BATCHES, BATCH_SIZE = 8, 64


def check_source(config: Config, workdir: str | os.PathLike) -> None:
    """Look for the run to start from, before anything is written.

    Raises:
      ValueError: no such run. One that has checkpoints of its own does not ask for it.
    """
    if config.start_from and not (Path(workdir) / FOLDER).is_dir():
        _source(config)


def check_memory(model: nn.Module, config: Config, placeholder: Any) -> None:
    """Compare a network with the memory of this machine, before it takes any.

    Each device holds weights, their gradients and momenta at least.

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
        3 * weights * shared,
    )


def start(
    state: State, config: Config, examples: Examples, checkpoints: Checkpoints
) -> tuple[State, dict]:
    """Return the state to begin with, and its origin as metadata.

    Thetas are those of the run that `config.start_from` names. Where it has none, being
    trained with ReLU, they are calibrated with the first training examples, as
    evaluation sees them, so that quantisation loses least. A run that has checkpoints
    goes on from them and keeps the origin that they tell of; the other run is not asked
    for.

    Args:
      state: with random variables.
      config: of this run.
      examples: the training split.
      checkpoints: of this run.

    Returns:
      The state, and {} or {"start": {"run", "step", "commit", "version", ...}} with
      the origin of that run, if it had one, inside.

    Raises:
      ValueError: no such run, or the first of its arrays that does not fit the model.
    """
    if not config.start_from:
        return state, {}
    if checkpoints.latest is not None:
        (saved,) = checkpoints.read(checkpoints.latest, "metadata")
        return state, {key: saved[key] for key in {"start"} & saved.keys()}
    source = _source(config)
    variables = fitted(source.variables, state.variables, name=config.start_from)
    if _thetas(variables) != _thetas(state.variables):
        apply_fn = ann_fn(config, examples.input_shape)
        cap = CAPS.get(source.config.model.activation)
        batches = list(_inputs(config, examples))  # gone through twice
        variables = calibrate_network(apply_fn, variables, batches, cap=cap)
    origin = {"run": source.config.name, "step": source.step} | {
        key: source.metadata[key]
        for key in ("commit", "version", "start")
        if key in source.metadata
    }
    return dataclasses.replace(state, **variables), {"start": origin}


def _source(config):
    try:
        return find_run(config.start_from)
    except CheckpointError as error:
        raise CheckpointError(f"start_from: {error}") from error


def fitted(source: dict, target: dict, *, name: str) -> dict:
    """Return the variables `source` with the names of `target`, less missing thetas.

    Thetas that `target` has no place for are left out.

    Raises:
      ValueError: the first other leaf that is in one tree only or differs in shape.
    """
    have, want = _leaves(source), _leaves(target)
    # Parameters first: they say more than statistics.
    for path in sorted(have.keys() | want.keys(), key=lambda p: (p[:6] != "params", p)):
        if path in _thetas(source) ^ _thetas(target):
            continue
        theirs, ours = (
            np.shape(tree[path]) if path in tree else "none" for tree in (have, want)
        )
        if theirs != ours:
            raise ValueError(
                f"start_from {name} does not fit model: {path} has shape {theirs} "
                f"there, {ours} in this run"
            )
    kept = {
        path: np.asarray(have[path], leaf.dtype)
        for path, leaf in want.items()
        if path in have
    }
    # A collection may have no leaves, such as the statistics without batch norm.
    return dict.fromkeys(target, {}) | unflatten_dict(kept, sep="/")


def _inputs(config, examples):
    """Return the first training examples in batches, as evaluation sees them."""
    task, examples = task_of(config).on(examples), examples.first(BATCHES * BATCH_SIZE)
    for batch in task.eval_batches(config.data, examples, batch_size=BATCH_SIZE):
        rows = task.whole(batch)
        yield jax.tree.map(lambda x, rows=rows: x[rows], task.inputs(batch))


def _leaves(tree) -> dict[str, Any]:
    return flatten_dict(tree, sep="/")


def _thetas(tree):
    return {path for path in _leaves(tree) if path.endswith("/theta")}
