"""SIGTERM: all hosts save the same step, and end with a status that is requeued."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
import numpy as np

from bitsnn_jax.devices import AXIS

STATUS = 128 + signal.SIGTERM  # what a shell shows for a process that SIGTERM ended


class Stop:
    """A vote on stopping, taken along by each step of training.

    A host that was asked to stop votes in its next step. Votes are added up over all
    devices in that step, and looked at one step later, when the devices have work
    again: every host learns of it after the same step, and none waits for another.
    """

    def __init__(self, asked: Callable[[], bool]):
        self._asked = asked
        self._in_flight = None

    def votes(self) -> np.ndarray:
        """[local devices], for the step to be dispatched; float32 as the metrics are,
        so that XLA sends both together."""
        return np.full(jax.local_device_count(), self._asked(), np.float32)

    def agreed(self, total: jax.Array) -> bool:
        """Whether the step before the one that gave `total` was told to stop."""
        arrived, self._in_flight = self._in_flight, total
        return arrived is not None and arrived.addressable_shards[0].data.item() > 0


def with_votes(step: Callable) -> Callable:
    """(state, batch, key, votes) -> (what `step` gives, sum of all votes)."""

    def voting(state, batch, key, votes):
        return step(state, batch, key), jax.lax.psum(votes, AXIS)

    return voting


@contextmanager
def on_sigterm() -> Iterator[Stop]:
    """A `Stop` that SIGTERM asks for, instead of ending the process."""
    asked = threading.Event()
    stop = Stop(asked.is_set)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
