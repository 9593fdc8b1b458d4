"""Processes that make batches ahead, each with a pipe of its own to this one.

A worker holds nothing that others wait for, no lock and no shared memory. It may die at
any time, while it starts too: its pipe ends then, and the run with one line. When this
process dies, its ends of the pipes are gone and the workers end.
"""

import atexit
import multiprocessing
import os
import pickle
import queue
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Protocol

import numpy as np

_READY = 2  # batches of each worker that wait here
_SIGNALS = {signal.SIGINT, signal.SIGTERM}
_PROCESSES = multiprocessing.get_context("spawn")  # forks of a process with JAX hang


class Items(Protocol):
    """A sequence of dictionaries of arrays."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class Ahead(Iterator[dict]):
    """The items of a sequence in order, made by processes.

    Worker i of n makes the items i, i + n, i + 2n, ...

    Args:
      items: that can be pickled.
      workers: how many, at least 1.

    Raises, by `next`:
      ChildProcessError: a worker died.
      Exception: whatever making an item raised.
    """

    def __init__(self, items: Items, *, workers: int):
        self._length, self._position = len(items), 0
        self._workers: list[_Worker] = []
        # Before those of `multiprocessing`, which would wait for the workers.
        atexit.register(self.close)
        pickled = pickle.dumps(items)
        try:
            for i in range(workers):
                indices = range(i, self._length, workers)
                self._workers.append(_start(pickled, indices))
        except BaseException:
            self.close()
            raise

    def __next__(self) -> dict:
        if self._position == self._length or not self._workers:
            self.close()
            raise StopIteration
        number = self._position % len(self._workers)
        worker = self._workers[number]
        item = worker.arrived.get()
        if item is None:
            message = _died(worker.process, number, len(self._workers))
            self.close()
            raise ChildProcessError(message)
        if isinstance(item, Exception):
            self.close()
            raise item
        worker.places.release()
        self._position += 1
        return item

    def close(self) -> None:
        """End the workers, whatever they do."""
        atexit.unregister(self.close)
        for worker in self._workers:
            worker.process.kill()
            worker.closing.set()
            worker.places.release()
        for worker in self._workers:
            worker.reader.join()  # its pipe has ended
            worker.pipe.close()
            worker.process.join()
        self._workers = []


class _Worker(NamedTuple):
    process: Any
    pipe: Connection
    reader: threading.Thread
    arrived: queue.SimpleQueue  # items, an exception, or None for a death
    places: threading.Semaphore  # for items that wait
    closing: threading.Event


def _start(pickled: bytes, indices: range) -> _Worker:
    ours, theirs = _PROCESSES.Pipe()
    # What is handed over here must be small: until a process reads, its start blocks,
    # and for ever if it dies before that.
    process = _PROCESSES.Process(target=_work, args=(theirs,), daemon=True)
    with _signals_blocked():
        process.start()
    theirs.close()
    arrived, closing = queue.SimpleQueue(), threading.Event()
    places = threading.Semaphore(_READY)
    reader = threading.Thread(
        target=_read,
        args=(ours, pickled, indices, arrived, places, closing),
        daemon=True,
    )
    reader.start()
    return _Worker(process, ours, reader, arrived, places, closing)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Start processes here that SIGINT and SIGTERM never reach.

    A signal to the whole job must leave the batches of a last step, which saves; the
    process that started the workers ends them.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # it would unblock them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _read(pipe, pickled, indices, arrived, places, closing):
    """Serve a worker by a thread, which tells it what to do and takes what it makes."""
    try:
        pipe.send_bytes(pickled)
        pipe.send(indices)
        for _ in indices:
            places.acquire()
            if closing.is_set():
                return
            arrived.put(_received(pipe))
    except (EOFError, OSError):
        arrived.put(None)


def _work(pipe):
    """Run the worker."""
    try:
        items, indices = pickle.loads(pipe.recv_bytes()), pipe.recv()
        for i in indices:
            try:
                item = items[i]
            except Exception as error:  # to be raised where the item was asked for
                _send(pipe, _portable(error))
                return
            _send(pipe, item)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the process that started this one is gone, or done


def _send(pipe, item):
    """Send arrays after the rest, without a copy of them."""
    buffers: list[pickle.PickleBuffer] = []
    rest = pickle.dumps(item, protocol=5, buffer_callback=buffers.append)
    raw = [buffer.raw() for buffer in buffers]
    pipe.send((rest, [len(array) for array in raw]))
    for array in raw:
        _write(pipe, array)


def _received(pipe):
    rest, sizes = pipe.recv()
    buffers = [np.empty(size, np.uint8) for size in sizes]
    for buffer in buffers:
        _read_into(buffer, pipe)
    return pickle.loads(rest, buffers=buffers)


if hasattr(os, "readv"):

    def _write(pipe, array):
        while array:
            array = array[os.write(pipe.fileno(), array) :]

    def _read_into(buffer, pipe):
        """Fill a buffer from the pipe; `recv_bytes_into` copies twice on the way."""
        rest = memoryview(buffer)
        while rest:
            count = os.readv(pipe.fileno(), [rest])
            if not count:
                raise EOFError
            rest = rest[count:]

else:  # Windows

    def _write(pipe, array):
        pipe.send_bytes(array)

    def _read_into(buffer, pipe):
        pipe.recv_bytes_into(buffer)


def _portable(error: Exception) -> Exception:
    """Return the error, or its words if it does not survive the journey."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _died(process, number, workers):
    process.join(timeout=1)
    code = process.exitcode
    if code is None:
        how = "closed its pipe"
    else:
        how = (
            f"was ended by {signal.Signals(-code).name}"
            if code < 0
            else f"ended with status {code}"
        )
    return (
        f"data worker {number + 1} of {workers} (process {process.pid}) {how}: see "
        "what it wrote. The system kills so where memory ran out: fewer data.workers, "
        "or a smaller data.batch_size, need less"
    )
