"""What a step of training costs: seconds, and memory for temporaries."""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax

from bitsnn_jax.config import Config
from bitsnn_jax.runtime.devices import AXIS, data_parallel
from bitsnn_jax.tasks import Batch, Task
from bitsnn_jax.training.optimizer import make_optimizer
from bitsnn_jax.training.step import init_state, step_of
from bitsnn_jax.training.teacher import find_teacher

_STEPS_PER_EPOCH = 100  # of the learning rate, on which the cost does not depend


class TimedStep(NamedTuple):
    """A step of training that is compiled.

    Attributes:
      take: takes a step and returns its seconds.
      megabytes: of temporaries; NaN where XLA does not say.
    """

    take: Callable[[], float]
    megabytes: float


def timed_step(
    config: Config, task: Task, batch: Batch, *, input_shape: tuple[int, ...]
) -> TimedStep:
    """Compile the step that `train.py` takes with a config, on one device.

    It begins with random weights and is shown the same batch again and again. The loss
    on spikes counts each neuron once, whatever `loss.spike_weights`.

    Args:
      config: of the run.
      task: on its data set, if the batch holds pixels.
      batch: of training examples.
      input_shape: of one.

    Raises:
      ValueError: a teacher that is not there.
    """
    mapped, (state, batch, key, known) = _prepared(config, task, batch, input_shape)
    on_device = data_parallel(lambda x: x)
    state, batch, known = on_device((state, batch, known))
    compiled = mapped.lower(state, batch, key, known).compile()

    def take() -> float:
        nonlocal state
        started = time.perf_counter()
        state, _ = jax.block_until_ready(compiled(state, batch, key, known))
        return time.perf_counter() - started

    return TimedStep(take, _megabytes(compiled))


def temporaries(
    config: Config, task: Task, batch: Batch, *, input_shape: tuple[int, ...]
) -> float:
    """Return the megabytes that a step of `timed_step` needs besides its arguments.

    Compiles quickly and runs nothing. XLA plans the memory before it optimises code.
    """
    mapped, arguments = _prepared(config, task, batch, input_shape)
    quickly = {"xla_backend_optimization_level": 0}
    return _megabytes(mapped.lower(*arguments).compile(quickly))


def _prepared(config, task, batch, input_shape):
    """Make a mapped step, and its arguments for one device, [1, ...]."""
    model = task.build(config, input_shape, axis_name=AXIS)
    optimizer = make_optimizer(config.optimizer, steps_per_epoch=_STEPS_PER_EPOCH)
    state = init_state(
        model, optimizer, task.placeholder(input_shape), jax.random.key(0)
    )
    teacher = find_teacher(config, input_shape)
    step = step_of(
        config,
        task,
        model,
        optimizer,
        steps=config.optimizer.epochs * _STEPS_PER_EPOCH,
        teacher=teacher.apply_fn if teacher else None,
    )
    mapped = data_parallel(step, in_axes=(0, 0, None, 0), donate_argnums=0)
    known = teacher.variables if teacher else None
    state, batch, known = jax.tree.map(lambda x: x[None], (state, batch, known))
    return mapped, (state, batch, jax.random.key(1), known)


def _megabytes(compiled):
    memory = compiled.memory_analysis()
    return memory.temp_size_in_bytes / 1e6 if memory else float("nan")
