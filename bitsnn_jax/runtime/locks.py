"""One process per work folder: a lock that names its holder and ends with it.

The lock is the kernel's (`flock`), on the file `.lock` in the folder. It ends with its
process, however that ends; the text in the file is only for people. On a network file
system it reaches as far as `flock` does there: over all hosts on NFS and Lustre as
usually mounted, over one host where it is kept local.
"""

import functools
import inspect
import json
import os
import shlex
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ParamSpec, TypeVar

import jax

from bitsnn_jax.runtime.files import fcntl, make_folder, settle

LOCK = ".lock"  # inside a work folder
_READING = 1.0  # seconds to wait for what the holder writes about itself

_P = ParamSpec("_P")
_T = TypeVar("_T")
_held: dict[Path, int] = {}  # by which thread


class BusyError(OSError):
    """A work folder that another process works in."""


@contextmanager
def work_folder(
    folder: str | os.PathLike, *, replaces: tuple[str, ...] = ()
) -> Iterator[None]:
    """Hold a folder for this process alone; make it where it is missing.

    First finishes what killed processes left half done. Removes a folder that was made
    here and stays empty. Of several hosts, the first holds the folder for all. The same
    thread may ask again inside.

    Args:
      folder: the one to write to.
      replaces: names of the files and folders in it that are written.

    Raises:
      BusyError: another process holds it; one line that names it.
      ValueError: a file stands where the folder must be.
    """
    folder = Path(folder).absolute()
    this_thread = threading.get_ident()
    if jax.process_index() > 0 or _held.get(folder) == this_thread:
        yield
        return
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    descriptor = _acquire(folder)
    _held[folder] = this_thread
    try:
        for name in replaces:
            settle(folder / name)
        yield
    finally:
        del _held[folder]
        # Removed while it is held: see `_acquire`.
        (folder / LOCK).unlink(missing_ok=True)
        os.close(descriptor)
        with suppress(OSError):  # not empty, mostly
            for path in missing:
                path.rmdir()


def alone_in(
    argument: str, *replaces: str
) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Decorate a function that works in the folder that an argument of it names.

    Args:
      argument: its name.
      replaces: as in `work_folder`.
    """

    def decorate(function: Callable[_P, _T]) -> Callable[_P, _T]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def alone(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            folder = signature.bind(*args, **kwargs).arguments[argument]
            with work_folder(folder, replaces=replaces):
                return function(*args, **kwargs)

        return alone

    return decorate


def _acquire(folder: Path) -> int:
    """Take the lock and return the descriptor of its file."""
    path = folder / LOCK
    while True:
        make_folder(folder)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            continue  # a process that ended has just removed the folder that it made
        try:
            if not _locked(descriptor):
                raise BusyError(
                    f"{folder} is in use by {_holder(path)}: wait until it has ended, "
                    "or give another folder (--workdir of train.py, else --out)"
                )
            if _is_file(descriptor, path):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, (json.dumps(_about_us()) + "\n").encode())
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        # The last holder removed the file between our opening and our locking it.
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    """Tell whether it is ours now; it is where there are no locks, with a note."""
    try:
        if fcntl is None:
            raise OSError("no flock on this system")
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        print(
            f"note: a work folder cannot be locked here ({error}): see that no other "
            "process writes to it",
            file=sys.stderr,
        )
    return True


def _is_file(descriptor: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def _about_us() -> dict[str, str | int]:
    return {
        "command": shlex.join(sys.argv),
        "process": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


def _holder(path: Path) -> str:
    """Read the file; it is empty for an instant after it was locked."""
    last = time.monotonic() + _READING
    while time.monotonic() < last:
        with suppress(OSError, ValueError, KeyError, TypeError):
            text = json.loads(path.read_text())
            return (
                f"`{text['command']}` (process {text['process']} on {text['host']}, "
                f"since {text['since']})"
            )
        time.sleep(0.02)
    return f"another process, which {path} does not name"
