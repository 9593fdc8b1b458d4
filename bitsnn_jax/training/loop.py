"""The run: from a config and a folder to a trained network and its result."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from tqdm import tqdm

from bitsnn_jax import data
from bitsnn_jax.config import Config, differences
from bitsnn_jax.models import build_model
from bitsnn_jax.runs.checkpoint import CheckpointError, Checkpoints, check_values
from bitsnn_jax.runs.loading import ann_fn
from bitsnn_jax.runs.provenance import run_metadata
from bitsnn_jax.runtime.devices import AXIS, data_parallel
from bitsnn_jax.runtime.files import replace_text
from bitsnn_jax.runtime.locks import alone_in
from bitsnn_jax.runtime.reading import read_json
from bitsnn_jax.training.log import metrics_log
from bitsnn_jax.training.metrics import Metrics, Window, fetch
from bitsnn_jax.training.optimizer import learning_rate, sgd
from bitsnn_jax.training.sparsity import synaptic_weights
from bitsnn_jax.training.start import check_memory, check_source, start
from bitsnn_jax.training.step import (
    State,
    eval_step,
    init_state,
    train_step,
)
from bitsnn_jax.training.stop import on_signals, with_votes
from bitsnn_jax.training.validation import validate


@alone_in("workdir", "result.json", "metrics.jsonl")
def train_and_evaluate(config: Config, workdir: str | os.PathLike) -> dict:
    """Trains on all devices of all hosts, from the newest checkpoint if there is one.

    After each epoch the validation split is evaluated and a checkpoint saved. In the
    end the one that was best on it, the later of equals, meets the test split, once,
    and `result.json` is written. A run that was killed and is started again ends with
    the same bits as one that was not, on the same devices; on more or fewer, or other
    hosts, it goes on to rounding. SIGTERM or Ctrl-C on any host makes all of them save
    the same step, then end with status 143 or 130.

    Args:
      config: the run; see `bitsnn_jax.config`.
      workdir: folder for checkpoints, metrics and the result; made if not there.

    Returns:
      What is in `result.json`.

    Raises:
      ValueError: a field that is out of range, or does not fit the data, the devices or
        the checkpoint in `workdir`.
      FloatingPointError: the loss or a parameter is not finite any more. The
        checkpoints before that stay.
      OSError: data that cannot be read, or a folder that cannot be written, or that
        another process works in.
    """
    validate(config)
    check_source(config, workdir)
    train, validation, test = (
        data.load(config.data, split) for split in ("train", "validation", "test")
    )
    _check_shares(config, train)
    model = build_model(config.model, image_shape=train.image_shape, axis_name=AXIS)
    check_memory(model, config, train.image_shape)
    evaluate = _evaluator(model, config)

    workdir = Path(workdir).absolute()
    result_file = workdir / "result.json"
    with Checkpoints(workdir) as checkpoints:
        trained, seconds = _train(
            config,
            workdir,
            model,
            checkpoints,
            train,
            lambda v: evaluate(v, validation),
        )
        # The test split is not looked at again by a run that had come to its end.
        if not trained and result_file.exists():
            return read_json(
                result_file, advice="remove it, and the end is evaluated again"
            )
        best = checkpoints.best
        assert best is not None  # the last step saved, if no step before it
        variables, metadata = checkpoints.read(best, "variables", "metadata")
        means = evaluate(_replicate(variables), test)
        result = {
            "test": means,
            "validation_accuracy": checkpoints.accuracy(best),
            "step": best,
            "seconds": round(seconds, 1),
            "seed": config.seed,
            "device": jax.devices()[0].device_kind,
            "num_devices": jax.device_count(),
            **metadata,
        }
    if jax.process_index() == 0:
        replace_text(result_file, json.dumps(result, indent=2) + "\n")
    _say(f"test accuracy {means['accuracy']:.4f} at step {best}: {result_file}")
    return result


def _train(config, workdir, model, checkpoints, examples, validate_variables):
    """Trains to the end. Returns the number of steps done here, and seconds in all."""
    per_epoch = data.steps_per_epoch(config.data, examples)
    total = config.optimizer.epochs * per_epoch
    rate = learning_rate(config.optimizer, steps_per_epoch=per_epoch)
    optimizer = sgd(config.optimizer, steps_per_epoch=per_epoch)
    init_key, key = jax.random.split(jax.random.key(config.seed))
    state = init_state(model, optimizer, examples.image_shape, init_key)
    step_fn = data_parallel(
        with_votes(
            train_step(
                model,
                optimizer,
                config.loss,
                levels=config.model.levels,
                weights=_spike_weights(config, examples, state),
                accumulate=config.optimizer.accumulate,
            )
        ),
        in_axes=(0, 0, None, 0),
        donate_argnums=0,
    )

    metadata = run_metadata(config, examples.image_shape)
    batches = data.train_batches(
        config.data, examples, seed=config.seed, **_shard_of_host()
    )
    state, origin = start(state, config, examples, checkpoints)
    metadata |= origin
    state, seconds = _resume(checkpoints, state, batches, metadata)
    first = int(state.step) + 1
    state = _replicate(state)
    started = time.monotonic() - seconds

    with (
        metrics_log(workdir, step=first - 1) as write,
        on_signals() as stop,
        closing(batches),
    ):
        window = Window(
            lambda step, means: write(
                step, "train", {**means, "learning_rate": np.asarray(rate(step)).item()}
            ),
            every=config.log_every_steps,
        )
        for step in _progress(first, total):
            batch = _split(next(batches))
            (state, metrics), votes = step_fn(state, batch, key, stop.votes())
            window.push(step, metrics)
            stopped = stop.agreed(votes)

            every = config.checkpoint_every_steps
            epoch_ends = step % per_epoch == 0
            if not (epoch_ends or (every and step % every == 0) or stopped):
                continue
            window.flush()
            host_state = _first_replica(state)
            _check_finite(host_state.variables, step=step)
            seconds, accuracy = time.monotonic() - started, None
            if epoch_ends:
                validation = validate_variables(state.variables)
                accuracy = validation["accuracy"]
                write(step, "validation", validation)
                seconds = time.monotonic() - started
                _say(
                    f"epoch {step // per_epoch}/{config.optimizer.epochs}  "
                    f"step {step}  train loss {window.means['loss']:.4f}  "
                    f"validation accuracy {accuracy:.4f}  {seconds:.0f} s"
                )
            checkpoints.save(
                step,
                variables=host_state.variables,
                optimizer=host_state.opt_state,
                progress={"batches": batches.get_state(), "seconds": seconds},
                metadata=metadata,
                accuracy=accuracy,
            )
            if stopped:
                raise SystemExit(stop.status)
    return total - first + 1, seconds


def _spike_weights(config, examples, state):
    if not config.loss.spike_lambda or config.loss.spike_weights == "neurons":
        return None
    apply_fn = ann_fn(config, examples.image_shape)
    return synaptic_weights(apply_fn, state.variables, examples.image_shape)


def _resume(checkpoints, state, batches, metadata):
    """The newest state and the seconds before it, with `batches` moved to its place."""
    step = checkpoints.latest
    if step is None:
        return state, 0.0
    (saved,) = checkpoints.read(step, "metadata")
    changed = differences(saved["config"], metadata["config"])
    if changed:
        raise CheckpointError(
            f"{checkpoints.folder} belongs to a run with another config: "
            f"{', '.join(changed)}; set them back or choose another --workdir"
        )
    variables, opt_state, progress = checkpoints.read(
        step,
        "variables",
        "optimizer",
        "progress",
        optimizer=jax.tree.map(np.asarray, state.opt_state),
    )
    batches.set_state(progress["batches"])
    return State(np.int32(step), opt_state=opt_state, **variables), progress["seconds"]


def _evaluator(
    model: nn.Module, config: Config
) -> Callable[[Any, data.Examples], dict[str, float]]:
    """A function (replicated variables, examples) -> means over every example."""
    step_fn = data_parallel(eval_step(model, levels=config.model.levels))

    def evaluate(variables, examples):
        batches = data.eval_batches(config.data, examples, **_shard_of_host())
        parts = (step_fn(variables, _split(batch)) for batch in batches)
        total = Metrics.merge(*map(fetch, _one_behind(parts)))
        assert total.examples == len(examples), (total.examples, len(examples))
        return total.compute()

    return evaluate


def _one_behind(items: Iterator) -> Iterator:
    """The items, each given out after the next was asked for."""
    previous = next(items)
    for item in items:
        yield previous
        previous = item
    yield previous


def _check_shares(config, train):
    devices = jax.device_count()
    for field in ("batch_size", "eval_batch_size"):
        size = getattr(config.data, field)
        if size % devices:
            raise ValueError(
                f"data.{field} must be a multiple of the {devices} devices of "
                f"{jax.process_count()} host(s), got {size}"
            )
    rows, parts = config.data.batch_size // devices, config.optimizer.accumulate
    if rows % parts:
        raise ValueError(
            f"optimizer.accumulate must divide the {rows} rows of a device "
            f"(data.batch_size {config.data.batch_size} over {devices} devices), got "
            f"{parts}"
        )
    if config.model.num_classes != train.num_classes:
        raise ValueError(
            f"model.num_classes must be {train.num_classes}, the classes of "
            f"data.name={config.data.name}; got {config.model.num_classes}"
        )


def _check_finite(variables, *, step):
    try:
        check_values(variables, where=f"after step {step}")
    except CheckpointError as error:
        raise FloatingPointError(
            f"{error}: try a lower optimizer.learning_rate"
        ) from error


def _shard_of_host():
    return {"shard_index": jax.process_index(), "num_shards": jax.process_count()}


def _split(batch):
    """[b, ...] of this host to [devices, b / devices, ...]."""
    n = jax.local_device_count()
    return {name: x.reshape(n, -1, *x.shape[1:]) for name, x in batch.items()}


def _replicate(tree):
    # By pmap, so that the first step sees what later steps see and compiles once.
    spread = data_parallel(lambda _, tree: tree, in_axes=(0, None))
    return spread(np.arange(jax.local_device_count()), tree)


def _first_replica(tree):
    # A copy: on a CPU the array would be a view of a buffer that the next step reuses.
    return jax.tree.map(lambda x: np.array(x.addressable_shards[0].data)[0], tree)


def _progress(first, total):
    steps = range(first, total + 1)
    hidden = jax.process_index() > 0 or not sys.stderr.isatty()
    return tqdm(steps, initial=first - 1, total=total, disable=hidden, unit="step")


def _say(line):
    if jax.process_index() == 0:
        tqdm.write(line)
        sys.stdout.flush()
