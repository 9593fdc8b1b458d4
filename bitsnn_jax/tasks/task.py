"""What a task is: everything about a run that is neither spikes nor the loop.

`training` trains any task, `jobs.evaluation` evaluates any, `runs` keeps and loads the
networks of any. None of them looks into an example, an output or a prediction: they
hand them from one method to the next. A task has no state. What it needs is in the
config, so that one object serves every run, or in the data set that it is put `on`.

A batch is a dictionary of arrays with one row for each example. Outputs are whatever
the network of the task returns: an array, or any pytree, with one row for each example.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple, Protocol, Self

import flax.linen as nn
import jax
import numpy as np

from bitsnn_jax import config

Batch = Mapping[str, Any]


class Examples(Protocol):
    """One split of a data set."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Return the shape that a network is built for; it is saved with a run."""
        ...

    def __len__(self) -> int: ...

    def first(self, limit: int | None) -> Self:
        """Return the first so many of them; all for None."""
        ...


class Batches(Protocol):
    """Batches without end, from a position that can be saved and restored."""

    def __next__(self) -> dict: ...

    def get_state(self) -> dict: ...

    def set_state(self, state: dict) -> None: ...

    def close(self) -> None: ...


class Numbers(NamedTuple):
    """Integers that the examples of a task are stored as, such as pixels.

    Attributes:
      key: their name in a batch.
      white: the largest of each place, see `fixed_point`.
      dtype: that the network takes them in.
      normalised: what the network is shown, of numbers of that type.
      example: numbers of one example that says more than drawn ones, [1, ...], or None.
      calibrated: training examples that weights are rounded for, at most.
    """

    key: str
    white: Any
    dtype: Any
    normalised: Callable[[Any], Any]
    example: Any = None
    calibrated: int = 1024


class Distance(NamedTuple):
    """How far a part of the predictions of two networks is apart.

    Attributes:
      part: in the plural, such as "boxes".
      largest: of each example, [n].
      unit: in the plural, such as "pixels"; "" for none.
    """

    part: str
    largest: np.ndarray
    unit: str = ""


class Deviation(NamedTuple):
    """Where two networks predict differently, and how far equal predictions are apart.

    Attributes:
      differing: of each example whether they do, [n].
      distances: of parts that are real numbers; they say nothing of an example on which
        the networks differ.
    """

    differing: np.ndarray
    distances: tuple[Distance, ...] = ()

    @classmethod
    def merge(cls, *parts: "Deviation") -> Self:
        """Join what was found of different examples."""
        distances = zip(*(part.distances for part in parts), strict=True)
        return cls(
            np.concatenate([part.differing for part in parts]),
            tuple(
                each[0]._replace(largest=np.concatenate([d.largest for d in each]))
                for each in distances
            ),
        )

    @property
    def total(self) -> int:
        """Return on how many examples they differ."""
        return int(np.sum(self.differing))

    def largest(self) -> dict[tuple[str, str], float]:
        """Return the largest distances of examples that do not differ.

        Returns:
          (part, unit) -> distance; 0 where all examples differ.
        """
        alike = ~np.asarray(self.differing, bool)
        return {
            (each.part, each.unit): float(np.max(each.largest[alike], initial=0))
            for each in self.distances
        }


class Task(ABC):
    """Data, model, loss, metrics, predictions and part of the report.

    Attributes:
      noun: what examples are called in messages, in the plural.
      answers: what predictions are called, in the plural.
      sources: the names that `data.name` may be.
      models: the names that `model.name` may be.
      place: what attention looks at in an example, in the singular, such as "word".
      unheeded: fields of a config that it has no use for, such as "data.crop".
    """

    noun: str
    sources: Collection[str]
    models: Collection[str]
    place: str = "place"
    unheeded: Collection[str] = ()
    answers: str = "predictions"

    @property
    @abstractmethod
    def score(self) -> str:
        """Name the measure that chooses the best checkpoint; more is better.

        Once the task is put `on` a data set, which may have one of its own.
        """

    # Data

    @abstractmethod
    def load(self, settings: config.Data, split: str) -> Examples:
        """Return the examples of "train", "validation" or "test"."""

    @abstractmethod
    def train_batches(
        self,
        settings: config.Data,
        examples: Any,
        *,
        seed: int,
        shard_index: int = 0,
        num_shards: int = 1,
    ) -> Batches:
        """Return shuffled batches without end, as `data.shuffled` makes them."""

    @abstractmethod
    def eval_batches(
        self,
        settings: config.Data,
        examples: Any,
        *,
        shard_index: int = 0,
        num_shards: int = 1,
        batch_size: int | None = None,
    ) -> Iterable[dict]:
        """Return every example once, with a "mask", as `data.in_order` makes them."""

    def check(self, config: config.Config, examples: Any) -> None:
        """Compare a config with the training examples.

        Raises:
          ValueError: a field that does not fit them.
        """
        del config, examples

    def check_inputs(self, config: config.Config, examples: Any) -> None:
        """Compare a config with any examples, also those of another folder.

        Raises:
          ValueError: examples that mean something else to the network.
        """
        del config, examples

    # Model

    @abstractmethod
    def build(
        self,
        config: config.Config,
        input_shape: tuple[int, ...],
        *,
        axis_name: str | None = None,
    ) -> nn.Module:
        """Return the network: `model.apply(variables, inputs, train=...)` -> outputs.

        Args:
          config: of the run.
          input_shape: of `Examples`.
          axis_name: of the `pmap` whose replicas share batch statistics.
        """

    def on(self, examples: Any) -> Self:
        """Return the task for one data set, of which `inputs` may need constants.

        Equal for data sets with equal constants, and hashable: compiled programs are
        kept by it. By default the task itself.
        """
        del examples
        return self

    @abstractmethod
    def inputs(self, batch: Batch) -> Any:
        """Return what the network is shown: an array, or any pytree of arrays.

        Inside a compiled step: batches travel to the devices as they are.
        """

    def numbers(self, config: config.Config, examples: Any) -> Numbers:
        """Return the integers that a network in integers is shown.

        Args:
          config: of the run.
          examples: any split.

        Raises:
          ValueError: examples are no integers; by default none are.
        """
        del config, examples
        raise ValueError(f"{self.noun} are no integers, which a network in them needs")

    def placeholder(self, input_shape: tuple[int, ...]) -> Any:
        """Return shapes and types of `inputs`, of one example.

        By default one array of float32.
        """
        return jax.ShapeDtypeStruct((1, *input_shape), np.float32)

    def filled(self, inputs: Any) -> jax.Array | None:
        """Return which places of examples hold something, [n, places] of bool.

        Padding does not. By default None: all do. Inside a compiled step.

        Args:
          inputs: of the network, see `inputs`.
        """
        del inputs
        return None

    # Loss and metrics, inside a compiled step

    @abstractmethod
    def loss(
        self, outputs: Any, batch: Batch, settings: config.Loss | None = None
    ) -> jax.Array:
        """Return the loss of each example, [n]; the step adds what spikes cost.

        Args:
          outputs: of the network.
          batch: what was asked.
          settings: in training; None in evaluation, which wants the loss alone.
        """

    def squared_error(
        self, outputs: Any, batch: Batch, settings: config.Loss | None = None
    ) -> jax.Array:
        """Return the squared error of each example, [n], for outputs that are rates.

        In the place of `loss`, and of the same arguments. By default there is none.

        Raises:
          ValueError: it has no such loss.
        """
        raise ValueError(
            f"direct.method must not be one that is trained with squared errors for "
            f"{self.noun}, which have none"
        )

    def distance(self, outputs: Any, taught: Any, settings: config.Loss) -> jax.Array:
        """Return how far each example's outputs are from those of a teacher, [n].

        0 where they are equal. By default a task cannot be taught.

        Args:
          outputs: of the network.
          taught: of the teacher, for the same inputs.
          settings: in training.

        Raises:
          ValueError: it has no such distance.
        """
        raise ValueError(f"loss.teacher must be '' for {self.noun}, which have none")

    @abstractmethod
    def counts(self, outputs: Any, batch: Batch) -> dict[str, jax.Array]:
        """Return numbers of each example, [n, ...] each, to be summed over examples.

        Sums add up exactly over batches, devices and hosts, means do not. What is no
        sum is a quotient of some (F1, from three counts), is counted in bins, or is
        found by `judge`.
        """

    @abstractmethod
    def measures(self, counts: Mapping[str, Any], examples: float) -> dict[str, float]:
        """Return the metrics, of sums of `counts` over so many examples."""

    def evidence(self, outputs: Any, batch: Batch) -> dict[str, Any]:
        """Return what `judge` needs of each example, [n, ...] in each array.

        It is kept of every example of a split, in memory. By default nothing.
        """
        del outputs, batch
        return {}

    def judge(self, evidence: Mapping[str, Any]) -> dict[str, float]:
        """Return the metrics that are no quotient of sums, on the host.

        Args:
          evidence: of all examples, [examples, ...] in each array of NumPy, in any
            order.
        """
        del evidence
        return {}

    def judged(
        self, counts: Mapping[str, Any], examples: float, evidence: Mapping[str, Any]
    ) -> dict[str, float]:
        """Return all metrics: those of sums, and those of all examples at once."""
        found = {**self.measures(counts, examples), **self.judge(evidence)}
        return {name: float(value) for name, value in found.items()}

    # Predictions and the report

    @abstractmethod
    def predictions(self, outputs: Any) -> Any:
        """Return what the network answers: arrays [n, ...].

        An ANN and the SNN made of it are compared in them, see `deviation`.
        """

    def deviation(self, one: Any, other: Any) -> Deviation:
        """Compare the predictions of two networks, [n, ...] in each array of NumPy.

        By default an example differs if any entry does.
        """
        unlike = jax.tree.map(_rows_differing, one, other)
        return Deviation(np.any(jax.tree.leaves(unlike), axis=0))

    def whole(self, batch: Batch) -> jax.Array:
        """Return which rows, [n], hold examples that were read: no padding."""
        return batch["mask"]

    @abstractmethod
    def shown(
        self, settings: config.Data, examples: Any, index: int
    ) -> tuple[dict, dict]:
        """Return an example for the report.

        Returns:
          (batch, facts): a batch of it alone, as in `eval_batches`; and what the report
          says of it, for JSON: its "label", or "truth", boxes as `results.pictures` has
          them; and what can be drawn of it, as "image", pixels, or as "words", one for
          each place that is `filled`.
        """

    def answer(self, outputs: Any) -> dict:
        """Return what the report says of the outputs for one example, for JSON.

        Its "prediction" and "logits", or "found", boxes with their scores.
        """
        return {"prediction": np.asarray(self.predictions(outputs))[0].tolist()}


def _rows_differing(one, other):
    return (one != other).reshape(len(one), -1).any(1)
