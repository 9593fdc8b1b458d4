"""Examples that a comparison shows: to calibrate with, and in batches to test on."""

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np

from bitsnn_jax import config
from bitsnn_jax.runs.checkpoint import Run
from bitsnn_jax.tasks import Batch, Examples, Task, task_of

BATCH = 50  # of examples over all devices: a layer's trains of all steps are in memory
CALIBRATION, CALIBRATION_BATCH = 512, 64  # training examples


def calibration_inputs(main: Run, train: Examples, *, seed: int) -> list[Any]:
    """Return inputs of training examples in batches, not augmented: the first, or by
    seed.

    Those that cannot be read are left out with `data.unreadable="skip"`.

    Raises:
      ValueError: none can be read.
    """
    settings, task = main.config.data, task_of(main.config).on(train)
    count = min(CALIBRATION, len(train))
    order = np.arange(len(train))
    if seed:
        order = np.random.default_rng(seed).permutation(order)
    shown = (task.shown(settings, train, int(i))[0] for i in order[:count])
    whole = [batch for batch in shown if np.all(task.whole(batch))]
    if not whole:
        raise ValueError(
            f"data.directory {settings.directory}: expected training {task.noun} to "
            f"calibrate with, got {count} of which none can be read"
        )
    joined = jax.tree.map(lambda *rows: np.concatenate(rows), *whole)
    inputs = task.inputs(joined)
    return [
        jax.tree.map(lambda rows, i=i: rows[i : i + CALIBRATION_BATCH], inputs)
        for i in range(0, len(whole), CALIBRATION_BATCH)
    ]


Shown = Callable[[], Iterator[tuple[Any, Batch]]]


def batches(
    task: Task, settings: config.Data, test: Examples, *, size: int = BATCH
) -> Iterator[tuple[Any, Batch]]:
    """Return (inputs, batch) of every example once; the last batch may be smaller.

    Args:
      task: on its data set.
      settings: of the data.
      test: the examples.
      size: of a batch.
    """
    for padded in task.eval_batches(settings, test, batch_size=min(size, len(test))):
        kept = np.asarray(padded["mask"])
        batch = {name: rows[kept] for name, rows in padded.items()}
        yield task.inputs(batch), batch


def each_batch(
    run: Callable[[Any, Any], Any],
    variables: Any,
    shown: Iterable[tuple[Any, Batch]],
    take: Callable[[Any, Batch], None],
) -> float:
    """Run all batches, and return the median seconds an example.

    A batch of a new size compiles and is not timed, unless there are no others: the
    last is run again then.

    Args:
      run: (variables, inputs) -> results.
      variables: that it is given.
      shown: inputs of each batch, and the batch.
      take: is given the results of each batch, and the batch.
    """
    seconds: list[float] = []
    compiled: set[int] = set()
    again: Callable[[], Any] = list
    for inputs, batch in shown:
        again = partial(_timed, run, variables, inputs, len(batch["mask"]))
        result, taken = again()
        take(result, batch)
        if len(batch["mask"]) in compiled:
            seconds.append(taken)
        compiled.add(len(batch["mask"]))
    return float(np.median(seconds or again()[1]))


def of_all_devices(parts: Any, *, axis: int = 0) -> Any:
    """Join arrays [devices, ...] of a pytree along an axis of the parts."""
    return jax.tree.map(lambda each: np.concatenate(each, axis), parts)


def _timed(run, variables, inputs, count):
    started = time.perf_counter()
    result = jax.block_until_ready(run(variables, inputs))
    return result, (time.perf_counter() - started) / count
