"""What a conversion, or a card, needs to know of a training."""

from typing import Any

from msgspec import Struct


class TestMetrics(Struct, frozen=True, kw_only=True):
    """What the best checkpoint reached on the test split."""

    __test__ = False  # nothing for pytest

    accuracy: float


class TrainingResult(Struct, frozen=True, kw_only=True):
    """`result.json`, as far as it is read again.

    Attributes:
      test: of the best checkpoint.
      step: of that checkpoint.
      config: of the run, as `config.to_dict` writes it.
      seconds: that the training took.
      device: it ran on.
      num_devices: how many of them.
      validation_accuracy: of that checkpoint; None where there was no split for it.
    """

    test: TestMetrics
    step: int
    config: dict[str, Any]
    seconds: float
    device: str
    num_devices: int
    validation_accuracy: float | None = None
