"""SIGTERM and Ctrl-C: one way for all commands, and a status that a shell would show.

Outside the training loop either is an exception: files are closed, locks released,
workers stopped. Inside it (`training/stop.py`) the step is saved first.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_MOMENT = 0.02  # seconds
GRACE = 60.0  # seconds to come to an end in, after a signal


class Interrupted(KeyboardInterrupt):
    """One of `SIGNALS` came."""

    def __init__(self, number: int):
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.number = number
        self.status = status(number)


def status(number: int) -> int:
    """Return what a shell shows for a process that a signal has ended.

    >>> status(signal.SIGTERM), status(signal.SIGINT)
    (143, 130)
    """
    return 128 + number


def status_of(error: BaseException) -> int:
    """Return the status to end with, for an `Interrupted` or a `KeyboardInterrupt`."""
    return getattr(error, "status", status(signal.SIGINT))


@contextmanager
def handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Let a handler take `SIGNALS` inside; do nothing in threads but the first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [signal.signal(number, handler) for number in SIGNALS]
    try:
        yield
    finally:
        for number, old in zip(SIGNALS, before, strict=True):
            if signal.getsignal(number) is handler:  # else `no_more` came in between
                signal.signal(number, old)


def no_more() -> None:
    """Let nothing disturb the end that a first signal has begun.

    Ignores further SIGTERMs, since schedulers send several. Another Ctrl-C ends the
    process at once.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def raised() -> Iterator[None]:
    """Let the first of `SIGNALS` inside raise `Interrupted`.

    Later signals do what `no_more` says. A timer ends the process if its end takes
    longer than `GRACE`.
    """
    with handled(_raise):
        yield


def _raise(number, _):
    no_more()
    # Python drops what is raised inside a finaliser or a callback of C++.
    timer = threading.Timer(GRACE, _give_up, [number])
    timer.daemon = True
    timer.start()
    raise Interrupted(number)


def again(error: Interrupted) -> None:
    """Raise what was dropped a moment later, when other code is running.

    JAX frees arrays in a callback of Python's garbage collector, from which nothing can
    be raised. Without this the signal would be lost there.
    """

    def handler(number, _):
        no_more()
        raise Interrupted(number)

    signal.signal(error.number, handler)
    timer = threading.Timer(_MOMENT, os.kill, [os.getpid(), error.number])
    timer.daemon = True
    timer.start()


def _give_up(number):
    print(
        f"error: still not at an end after {GRACE:.0f} s", file=sys.stderr, flush=True
    )
    os._exit(status(number))
