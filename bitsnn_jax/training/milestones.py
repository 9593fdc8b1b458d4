"""Between two steps: evaluate where an epoch ends, and save."""

import time
from typing import Any

from bitsnn_jax.runs.checkpoint import CheckpointError, Checkpoints, check_values
from bitsnn_jax.runtime.devices import first_replica
from bitsnn_jax.tasks import Batches
from bitsnn_jax.training.evaluator import Evaluate
from bitsnn_jax.training.log import Write, say
from bitsnn_jax.training.resume import Begun
from bitsnn_jax.training.setup import Setup
from bitsnn_jax.training.step import State


class Milestones:
    """Evaluate and save a run while it trains.

    Args:
      setup: of the run.
      checkpoints: where states are saved.
      evaluate: (variables, examples) -> means.
      write: of the log.
      begun: where this process took over.
    """

    def __init__(
        self,
        setup: Setup,
        checkpoints: Checkpoints,
        evaluate: Evaluate,
        write: Write,
        begun: Begun,
    ):
        self._setup, self._checkpoints = setup, checkpoints
        self._evaluate, self._write = evaluate, write
        self._metadata = begun.metadata
        self._started = time.monotonic() - begun.seconds
        self.seconds = begun.seconds  # of training, at the last milestone

    def due(self, step: int) -> bool:
        """Return whether the state after this step is to be saved."""
        every = self._setup.config.checkpoint_every_steps
        return self._ends_epoch(step) or bool(every and step % every == 0)

    def reached(
        self, step: int, state: State, batches: Batches, train_loss: float
    ) -> None:
        """Save the replicated state after a step; evaluate it where an epoch ends.

        Raises:
          FloatingPointError: a variable that is not finite. Nothing is saved.
        """
        host_state = first_replica(state)
        _check_finite(host_state.variables, step=step)
        self.seconds, score = time.monotonic() - self._started, None
        if self._ends_epoch(step):
            score = self._evaluated(step, state.variables, train_loss)
        self._checkpoints.save(
            step,
            variables=host_state.variables,
            optimizer=host_state.opt_state,
            progress={"batches": batches.get_state(), "seconds": self.seconds},
            metadata=self._metadata,
            score=score,
        )

    def _ends_epoch(self, step: int) -> bool:
        return step % self._setup.steps_per_epoch == 0

    def _evaluated(self, step: int, variables: Any, train_loss: float) -> float:
        setup = self._setup
        means = self._evaluate(variables, setup.validation)
        score = means[setup.task.score]
        self._write(step, "validation", means)
        self.seconds = time.monotonic() - self._started
        epoch, epochs = step // setup.steps_per_epoch, setup.config.optimizer.epochs
        say(
            f"epoch {epoch}/{epochs}  step {step}  train loss {train_loss:.4f}  "
            f"validation {setup.task.score} {score:.4f}  {self.seconds:.0f} s"
        )
        return score


def _check_finite(variables, *, step):
    try:
        check_values(variables, where=f"after step {step}")
    except CheckpointError as error:
        raise FloatingPointError(
            f"{error}: try a lower optimizer.learning_rate"
        ) from error
