"""What runs cost to train: their seconds, and seconds and memory of a step."""

import dataclasses
import math
import multiprocessing
import os
import statistics
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import jax

from bitsnn_jax.comparators.structure import Structure
from bitsnn_jax.config import Config
from bitsnn_jax.results.comparison import StepCost, TrainedRun
from bitsnn_jax.results.training import TrainingResult
from bitsnn_jax.runs.checkpoint import Run
from bitsnn_jax.runs.provenance import about_run, commit, machine
from bitsnn_jax.runtime.reading import read_typed
from bitsnn_jax.runtime.timing import in_turns, ratio
from bitsnn_jax.tasks import Batch, Examples, Task, task_of
from bitsnn_jax.training.step_cost import timed_step

ROUNDS = 5
QCFS = "QCFS"  # what all others are measured in


class Trainee(NamedTuple):
    """What a step of a run needs: its config, its task and a batch."""

    config: Config
    task: Task
    batch: Batch
    input_shape: tuple[int, ...]


def trained_run(run: Run, source: str, structure: Structure) -> TrainedRun:
    """Describe a run, as far as that is known without a measurement.

    Args:
      run: which.
      source: what it was found by; the folder may have a `result.json`.
      structure: of its network.
    """
    config, file = run.config, Path(source) / "result.json"
    result = None
    if file.exists():
        result = read_typed(file, TrainingResult, advice="train to the end again")
    return TrainedRun(
        run=about_run(run, ""),
        method=config.direct.method or None,
        steps=config.steps,
        neurons=structure.neurons,
        depth=structure.depth,
        multiply_accumulates=structure.multiply_accumulates,
        epochs=config.optimizer.epochs,
        batch=config.data.batch_size,
        seconds=result.seconds if result else None,
        device=f"{result.num_devices} x {result.device}" if result else "",
    )


def trainee(run: Run, train: Examples, where: Config) -> Trainee:
    """Collect what a step of a run needs, on examples that others train on as well.

    Args:
      run: which.
      train: the training examples.
      where: the config of which the data are read.
    """
    data = dataclasses.replace(
        run.config.data,
        directory=where.data.directory,
        vocabulary=where.data.vocabulary,
        workers=0,
    )
    config = dataclasses.replace(run.config, data=data)
    task = task_of(config).on(train)
    with closing(task.train_batches(data, train, seed=config.seed)) as batches:
        return Trainee(config, task, next(batches), run.input_shape)


def step_costs(
    trainees: Mapping[str, Trainee], *, rounds: int = ROUNDS
) -> dict[str, StepCost]:
    """Measure a step of each run in turns with all others.

    On a CPU they run in a process of their own, where XLA orders operations as
    `train.py` has them and not for little memory (`one_after_the_other`).

    Args:
      trainees: by name; the reference is called `QCFS`.
      rounds: how often each has its turn.
    """
    if jax.default_backend() != "cpu":
        return _measured(trainees, rounds)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_plain) as process:
        return process.submit(_measured, dict(trainees), rounds).result()


def _plain():
    """Take back the order of operations, before JAX starts in this process."""
    flags = os.environ.get("XLA_FLAGS", "").split()
    kept = [f for f in flags if "concurrency_optimized_scheduler" not in f]
    os.environ["XLA_FLAGS"] = " ".join(kept)


def _measured(trainees: Mapping[str, Trainee], rounds: int) -> dict[str, StepCost]:
    steps = {
        name: timed_step(
            each.config, each.task, each.batch, input_shape=each.input_shape
        )
        for name, each in trainees.items()
    }
    seconds = in_turns({name: step.take for name, step in steps.items()}, rounds=rounds)
    where: dict[str, Any] = {"commit": commit(), "machine": machine()}
    return {
        name: StepCost(
            milliseconds=1e3 * statistics.median(seconds[name]),
            megabytes=None if math.isnan(step.megabytes) else step.megabytes,
            qcfs_steps=ratio(seconds[name], seconds[QCFS]),
            **where,
        )
        for name, step in steps.items()
    }
