"""The score of a network whose outputs come batch by batch, on one host."""

from typing import Any

import jax
import numpy as np

from bitsnn_jax.runtime.devices import unpadded
from bitsnn_jax.tasks import Batch, Task


class Tally:
    """What a task makes of outputs; the outputs themselves are not kept.

    Attributes:
      examples: that were added.
    """

    def __init__(self, task: Task):
        self.task, self.examples = task, 0
        self._counts: list[dict[str, Any]] = []
        self._rows: list[Any] = []  # predictions and evidence

    def add(self, outputs: Any, batch: Batch) -> None:
        """Add a batch, without its rows that are padding."""
        outputs, batch = unpadded((outputs, dict(batch)), np.asarray(batch["mask"]))
        counted = self.task.counts(outputs, batch)
        self._counts.append({name: np.sum(rows, 0) for name, rows in counted.items()})
        rows = self.task.predictions(outputs), self.task.evidence(outputs, batch)
        self._rows.append(jax.tree.map(np.asarray, rows))
        self.examples += len(batch["mask"])

    @property
    def predictions(self) -> Any:
        """Return those of all examples, in their order."""
        return self._joined()[0]

    @property
    def score(self) -> float:
        """Return the score of the task."""
        names = self._counts[0]
        sums = {name: sum(each[name] for each in self._counts) for name in names}
        _, evidence = self._joined()
        return self.task.judged(sums, self.examples, evidence)[self.task.score]

    def agreement(self, predictions: Any) -> float:
        """Return the share of examples on which these say the same."""
        unlike = self.task.deviation(self.predictions, predictions)
        return (self.examples - unlike.total) / self.examples

    def _joined(self):
        return jax.tree.map(lambda *rows: np.concatenate(rows), *self._rows)
