"""Metrics over every example of a split, on all devices, while a run trains."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np

from bitsnn_jax.runtime.devices import (
    by_device,
    data_parallel,
    first_replica,
    share_of_host,
    unpadded,
)
from bitsnn_jax.tasks import Examples
from bitsnn_jax.training.metrics import Metrics, fetch
from bitsnn_jax.training.setup import Setup
from bitsnn_jax.training.step import eval_step

Evaluate = Callable[[Any, Examples], dict[str, float]]


def evaluator(setup: Setup) -> Evaluate:
    """Return a function (replicated variables, examples) -> means over all of them."""
    config, task = setup.config, setup.task
    step_fn = data_parallel(eval_step(task, setup.model, levels=config.model.levels))

    def evaluate(variables, examples):
        batches = task.eval_batches(config.data, examples, **share_of_host())
        total, evidence = Metrics(), []
        for metrics, rows in _one_behind(
            step_fn(variables, by_device(batch)) for batch in batches
        ):
            total = Metrics.merge(total, fetch(metrics))
            evidence.append(unpadded(*first_replica(rows)))
        assert total.examples == len(examples), (total.examples, len(examples))
        joined = jax.tree.map(lambda *parts: np.concatenate(parts), *evidence)
        return total.compute(partial(task.judged, evidence=joined))

    return evaluate


def _one_behind(items: Iterator) -> Iterator:
    """Give out each item after the next was asked for."""
    previous = next(items)
    for item in items:
        yield previous
        previous = item
    yield previous
