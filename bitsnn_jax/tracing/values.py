"""What a traced program computes with: constants, analog values, currents."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.extend.core import JaxprEqn


class Step(NamedTuple):
    """An operation, what it was given, and the modules that it stands in."""

    eqn: JaxprEqn
    values: "Sequence[Waiting]"
    scope: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Constant:
    """Made of parameters only.

    Attributes:
      value: the array.
      origin: where a reading has taken the value from, if it keeps track.
      number: what each of its entries is, if the program itself says so.
      sizes: its shape, with 1 for axes along which it was broadcast; None if unknown.
    """

    value: Any
    origin: Any = None
    number: np.ndarray | None = None
    sizes: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Analog:
    """Depends on the input and has no time: what comes before the first neuron.

    Attributes:
      value: up to the reading.
      channels: the axis of the channels, for readings that keep track of it.
      made: the operation, if it works element by element.
    """

    value: Any
    channels: int | None = None
    made: Step | None = None


@dataclasses.dataclass(frozen=True)
class Current:
    """Has time.

    Attributes:
      value: what is carried for it, up to the reading.
      sizes: the shape of the thresholds while this is one train of spikes: () if all
        are equal, else of as many axes as the value, each 1 or the value's.
      driven: whether it is made of spikes only: of trains that were moved, added up
        and scaled, without weights and constants.
      made: the operation, if it works element by element.
    """

    value: Any
    sizes: tuple[int, ...] | None = None
    driven: bool = False
    made: Step | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Pointwise:
    """An operation element by element that is not affine, and waits for what comes.

    With `qcfs` behind it, a function of one current is a neuron with a table of
    thresholds. With a maximum over places behind it, a train times a gate is the gate
    times the maximum. Anything else that uses it has it computed.
    """

    made: Step


Value = Constant | Analog | Current
Waiting = Value | Pointwise
