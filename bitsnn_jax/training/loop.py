"""The loop over steps: from a set-up and a folder to a trained network in it."""

from contextlib import closing
from pathlib import Path

import jax
import numpy as np

from bitsnn_jax.runs.checkpoint import Checkpoints
from bitsnn_jax.runs.loading import with_qcfs
from bitsnn_jax.runtime.devices import (
    by_device,
    data_parallel,
    replicate,
    share_of_host,
)
from bitsnn_jax.training.evaluator import Evaluate
from bitsnn_jax.training.log import metrics_log, progress
from bitsnn_jax.training.metrics import Window
from bitsnn_jax.training.milestones import Milestones
from bitsnn_jax.training.resume import begin
from bitsnn_jax.training.setup import Setup
from bitsnn_jax.training.sparsity import synaptic_weights
from bitsnn_jax.training.step import init_state, step_of
from bitsnn_jax.training.stop import on_signals, with_votes


def train(
    setup: Setup, workdir: Path, checkpoints: Checkpoints, evaluate: Evaluate
) -> tuple[int, float]:
    """Train to the end, from the newest checkpoint if there is one.

    Args:
      setup: of the run.
      workdir: where the log goes.
      checkpoints: where states are saved.
      evaluate: (variables, examples) -> means.

    Returns:
      The number of steps done here, and the seconds of all steps.

    Raises:
      ValueError: see `resume.begin`.
      FloatingPointError: the loss or a variable is not finite any more.
      SystemExit: a signal came, and the state is saved.
    """
    config, task = setup.config, setup.task
    init_key, key = jax.random.split(jax.random.key(config.seed))
    state = init_state(setup.model, setup.optimizer, setup.placeholder, init_key)
    step_fn = _mapped_step(setup, state)
    batches = task.train_batches(
        config.data, setup.train, seed=config.seed, **share_of_host()
    )
    begun = begin(setup, state, batches, checkpoints)
    first, state = int(begun.state.step) + 1, replicate(begun.state)
    known = replicate(setup.teacher.variables) if setup.teacher else None
    with (
        metrics_log(workdir, step=first - 1) as write,
        on_signals() as stop,
        closing(batches),
    ):
        schedule = setup.learning_rate

        def write_train(step, means):
            rate = np.asarray(schedule(step)).item()
            write(step, "train", {**means, "learning_rate": rate})

        window = Window(write_train, task.measures, every=config.log_every_steps)
        milestones = Milestones(setup, checkpoints, evaluate, write, begun)
        for step in progress(first, setup.steps):
            batch = by_device(next(batches))
            (state, metrics), votes = step_fn(state, batch, key, stop.votes(), known)
            window.push(step, metrics)
            stopped = stop.agreed(votes)
            if stopped or milestones.due(step):
                window.flush()
                milestones.reached(step, state, batches, window.means["loss"])
            if stopped:
                raise SystemExit(stop.status)
    return setup.steps - first + 1, milestones.seconds


def _mapped_step(setup, state):
    """Map a step with votes, and the teacher's variables, to every device."""
    step = step_of(
        setup.config,
        setup.task,
        setup.model,
        setup.optimizer,
        steps=setup.steps,
        weights=_spike_weights(setup),
        teacher=setup.teacher and setup.teacher.apply_fn,
    )
    in_axes = (0, 0, None, 0, 0)
    return data_parallel(with_votes(step), in_axes=in_axes, donate_argnums=0)


def _spike_weights(setup):
    loss = setup.config.loss
    if not loss.spike_lambda or loss.spike_weights == "neurons":
        return None
    shape = setup.train.input_shape
    return synaptic_weights(*with_qcfs(setup.config, shape, setup.task))
