"""Signals while training: all hosts save the same step, and end with a status for it.

143 after SIGTERM, with which schedulers requeue a job; 130 after Ctrl-C.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
import numpy as np

from bitsnn_jax.runtime.devices import AXIS
from bitsnn_jax.runtime.interrupts import Interrupted, handled, no_more, status

STATUS = status(signal.SIGTERM)


class Stop:
    """A vote on stopping, taken along by each step of training.

    A host that was asked to stop votes in its next step. Votes are added up over all
    devices in that step, and looked at one step later, when the devices have work
    again: every host learns of it after the same step, and none waits for another.
    """

    def __init__(self, asked: Callable[[], int]):
        """Take `asked`, which gives the number of the signal that came, or 0."""
        self._asked = asked
        self._in_flight = None

    def votes(self) -> np.ndarray:
        """Return the votes [local devices] for the next step to be dispatched.

        They are float32 as the metrics are, so that XLA sends both together.
        """
        return np.full(jax.local_device_count(), bool(self._asked()), np.float32)

    @property
    def status(self) -> int:
        """Return that of the signal, or where another host had it, `STATUS`."""
        number = self._asked()
        return status(number) if number else STATUS

    def agreed(self, total: jax.Array) -> bool:
        """Tell whether the step before the one that gave `total` was told to stop."""
        arrived, self._in_flight = self._in_flight, total
        return arrived is not None and arrived.addressable_shards[0].data.item() > 0


def with_votes(step: Callable) -> Callable:
    """Extend a step to (state, batch, key, votes) -> (its result, sum of all votes).

    Further arguments are the step's.
    """

    def voting(state, batch, key, votes, *more):
        return step(state, batch, key, *more), jax.lax.psum(votes, AXIS)

    return voting


@contextmanager
def on_signals() -> Iterator[Stop]:
    """Give a `Stop` for SIGTERM and Ctrl-C, which then do not end the process.

    A body that comes to its end all the same, since the signal came after the last
    step, is followed by `Interrupted`.
    """
    came: list[int] = []

    def handler(number, _):
        no_more()
        came.append(number)

    with handled(handler):
        yield Stop(lambda: came[0] if came else 0)
    if came:
        raise Interrupted(came[0])
