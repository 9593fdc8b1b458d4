"""A trained network that another one learns from, besides the right answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bitsnn_jax.config import Config
from bitsnn_jax.runs.checkpoint import CheckpointError
from bitsnn_jax.runs.loading import ann_fn, find_run
from bitsnn_jax.tracing.program import ApplyFn


@dataclass(frozen=True)
class Teacher:
    """The network of a run, in inference.

    Attributes:
      apply_fn: (variables, inputs) -> outputs.
      variables: of it.
      origin: the run and the step that it is from, as metadata.
    """

    apply_fn: ApplyFn
    variables: Any
    origin: dict[str, Any]


def find_teacher(config: Config, input_shape: Sequence[int]) -> Teacher | None:
    """Load the network that `config.loss.teacher` names; None if it names none.

    Args:
      config: of the run that is to be taught.
      input_shape: of its examples.

    Raises:
      ValueError: no such run, or one with other inputs or outputs.
    """
    name = config.loss.teacher
    if not name:
        return None
    try:
        run = find_run(name)
    except CheckpointError as error:
        raise CheckpointError(f"loss.teacher: {error}") from error
    apply_fn = ann_fn(run.config, input_shape)
    ours = _shapes(config, input_shape)
    theirs = _shapes(run.config, run.input_shape)
    if ours != theirs:
        raise ValueError(
            f"loss.teacher {name} must have the inputs and outputs of this run, "
            f"{ours}; got {theirs}"
        )
    origin = {"run": run.config.name, "step": run.step}
    return Teacher(apply_fn, run.variables, origin)


def _shapes(config, input_shape):
    classes = config.model.num_classes
    return f"{config.task} of {tuple(input_shape)} in {classes} classes"
