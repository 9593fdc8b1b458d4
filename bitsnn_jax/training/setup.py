"""What a run needs before its first step, checked before anything is written."""

import os
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import optax

from bitsnn_jax.config import Config
from bitsnn_jax.data import steps_per_epoch
from bitsnn_jax.runtime.devices import AXIS
from bitsnn_jax.tasks import Examples, Task, task_of
from bitsnn_jax.training.optimizer import learning_rate, make_optimizer
from bitsnn_jax.training.start import check_memory, check_source
from bitsnn_jax.training.teacher import Teacher, find_teacher
from bitsnn_jax.training.validation import validate


@dataclass(frozen=True)
class Setup:
    """A run that fits its data, its devices and its memory.

    Attributes:
      config: of the run.
      task: what is learnt.
      train: examples to learn from.
      validation: examples that choose the checkpoint.
      test: examples that are met once, at the end.
      model: the network.
      placeholder: shapes and types of its inputs, of one example.
      teacher: that it learns from as well; or None.
    """

    config: Config
    task: Task
    train: Examples
    validation: Examples
    test: Examples
    model: nn.Module
    placeholder: Any
    teacher: Teacher | None = None

    @property
    def steps_per_epoch(self) -> int:
        return steps_per_epoch(self.config.data, self.train)

    @property
    def steps(self) -> int:
        """Return how many the whole run has."""
        return self.config.optimizer.epochs * self.steps_per_epoch

    @property
    def learning_rate(self) -> optax.Schedule:
        settings = self.config.optimizer
        return learning_rate(settings, steps_per_epoch=self.steps_per_epoch)

    @property
    def optimizer(self) -> optax.GradientTransformation:
        settings = self.config.optimizer
        return make_optimizer(settings, steps_per_epoch=self.steps_per_epoch)


def set_up(config: Config, workdir: str | os.PathLike) -> Setup:
    """Load the data and build the network of a run.

    Raises:
      ValueError: a field that is out of range, or does not fit the data, the devices or
        the memory of this machine; a run to start from, or a teacher, that is not
        there.
      OSError: data that cannot be read.
    """
    validate(config)
    check_source(config, workdir)
    task = task_of(config)
    train, validation, test = (
        task.load(config.data, split) for split in ("train", "validation", "test")
    )
    _check_shares(config)
    task.check(config, train)
    task = task.on(train)
    model = task.build(config, train.input_shape, axis_name=AXIS)
    placeholder = task.placeholder(train.input_shape)
    check_memory(model, config, placeholder)
    teacher = find_teacher(config, train.input_shape)
    return Setup(config, task, train, validation, test, model, placeholder, teacher)


def _check_shares(config):
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
