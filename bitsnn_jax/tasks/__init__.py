"""Tasks by name: what is learnt, and how it is judged."""

from bitsnn_jax.config import Config
from bitsnn_jax.tasks.detection import Detection
from bitsnn_jax.tasks.image_classification import ImageClassification
from bitsnn_jax.tasks.sentence_classification import SentenceClassification
from bitsnn_jax.tasks.task import (
    Batch,
    Batches,
    Deviation,
    Distance,
    Examples,
    Numbers,
    Task,
)

__all__ = [
    "TASKS",
    "Batch",
    "Batches",
    "Deviation",
    "Distance",
    "Examples",
    "Numbers",
    "Task",
    "task_of",
]

TASKS: dict[str, Task] = {
    "detection": Detection(),
    "image_classification": ImageClassification(),
    "sentence_classification": SentenceClassification(),
}


def task_of(config: Config) -> Task:
    """Return the task of a run.

    Raises:
      ValueError: no task has the name that `config.task` has.
    """
    if config.task not in TASKS:
        raise ValueError(
            f"task must be one of {', '.join(sorted(TASKS))}; got {config.task!r}"
        )
    return TASKS[config.task]
