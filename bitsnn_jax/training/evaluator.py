"""Means over every example of a split, on all devices, while a run trains."""

from collections.abc import Callable, Iterator
from typing import Any

from bitsnn_jax.runtime.devices import by_device, data_parallel, share_of_host
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
        parts = (step_fn(variables, by_device(batch)) for batch in batches)
        total = Metrics.merge(*map(fetch, _one_behind(parts)))
        assert total.examples == len(examples), (total.examples, len(examples))
        return total.compute(task.measures)

    return evaluate


def _one_behind(items: Iterator) -> Iterator:
    """Give out each item after the next was asked for."""
    previous = next(items)
    for item in items:
        yield previous
        previous = item
    yield previous
