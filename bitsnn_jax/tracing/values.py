"""What a traced program computes with: constants, analog values, currents."""

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Constant:
    """Made of parameters only.

    `number` is what each of its entries is, if the program itself says so.
    """

    value: Any
    origin: Any = None  # where a reading has taken the value from, if it keeps track
    number: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Analog:
    """Depends on the input and has no time: what comes before the first neuron.

    `channels` is their axis, for readings that keep track of it.
    """

    value: Any
    channels: int | None = None


@dataclasses.dataclass(frozen=True)
class Current:
    """Has time. What is carried for it is up to the reading.

    `sizes` is the shape of the thresholds while this is a layer's spike train.
    """

    value: Any
    sizes: tuple[int, ...] | None = None


Value = Constant | Analog | Current
