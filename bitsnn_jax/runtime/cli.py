"""What the scripts share: how they start, and bad input as one line and status 2."""

import argparse
import atexit
import errno
import operator
import os
import platform
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import jax
from absl import logging

from bitsnn_jax.runtime import interrupts

STEPS = 4096  # a spiking network of more was published nowhere
SEEDS = 2**32 - 1
_NUMBERS = 2**31 - 1
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# Memory of glibc's heap in huge pages, and never given back to the system. One arena
# for all threads: others are of 128 MB at most, and what is larger would go back.
_MALLOC = {
    "glibc.malloc.arena_max": 1,
    "glibc.malloc.hugetlb": 1,
    "glibc.malloc.mmap_threshold": 2**34,
    "glibc.malloc.trim_threshold": 2**34,
}


def with_huge_pages() -> None:
    """Start this process again, once, with settings that glibc reads at the start.

    XLA takes all temporaries of a step on a CPU from malloc and gives them back after
    it, hundreds of megabytes, whose pages are made anew each time: with these settings
    a step of ResNet-20 takes two thirds of the time. A GLIBC_TUNABLES that is set
    already is left alone, and so is any other system.
    """
    linux = sys.platform == "linux" and "glibc" in platform.libc_ver()
    if not linux or "GLIBC_TUNABLES" in os.environ:
        return
    os.environ["GLIBC_TUNABLES"] = ":".join(f"{k}={v}" for k, v in _MALLOC.items())
    os.execv(sys.executable, sys.orig_argv)


_interrupted = 0  # the status of a signal that ends this process


def own_process() -> None:
    """Begin a command that has its process for itself: `with_huge_pages`, and its end.

    A signal comes while XLA's threads compute. The interpreter cannot wait for them,
    and crashes where it takes away what they use; so it is left when all is closed.
    """
    with_huge_pages()
    # Called before what was registered earlier, by JAX on its import.
    atexit.register(_leave_after_a_signal)


def _leave_after_a_signal():
    if _interrupted:
        sys.stdout.flush()
        os._exit(_interrupted)


class Parser(argparse.ArgumentParser):
    """Parse the options of a command, which its docstring describes.

    The first line of the docstring is the description, the rest stands below the
    options. Wrong options end the process with one line, as all errors do.
    """

    def __init__(self, doc: str | None, **options):
        about, _, details = (doc or "").partition("\n")
        layout = argparse.RawDescriptionHelpFormatter
        super().__init__(
            description=about, epilog=details, formatter_class=layout, **options
        )

    def add_images(self) -> None:
        """Add the options that say which images to look at."""
        self.add_argument(
            "--limit", type=whole(1), metavar="N", help="first N test images only"
        )
        self.add_argument(
            "--data",
            type=filled,
            metavar="DIR",
            help="folder of the data, if not where the run had it",
        )

    def error(self, message: str) -> NoReturn:
        fail(re.sub(r"^argument (\S+): must", r"\1 must", message))


class Distinct(argparse.Action):
    """An option of several values, none of which may be given twice."""

    def __call__(self, parser, namespace, values, option_string=None):
        repeated = [str(v) for v, count in Counter(values or ()).items() if count > 1]
        if repeated:
            raise argparse.ArgumentError(
                self, f"must have each value once, got {', '.join(repeated)} repeatedly"
            )
        setattr(namespace, self.dest, values)


def whole(low: int, high: int = _NUMBERS) -> Callable[[str], int]:
    """Make an option's type: a whole number from `low` to `high`."""

    def parse(text: str) -> int:
        number = int(text)
        _check_range(number, text, low, high)
        return number

    parse.__name__ = "int"  # as argparse calls it in what it says of 1.5
    return parse


def between(
    low: float, high: float, *, low_too: bool = False, high_too: bool = False
) -> Callable[[str], float]:
    """Make an option's type: a number above `low` and below `high`, or equal to it."""
    more, above = (operator.ge, "at least") if low_too else (operator.gt, "above")
    less, below = (operator.le, "at most") if high_too else (operator.lt, "below")

    def parse(text: str) -> float:
        number = float(text)
        if not (more(number, low) and less(number, high)):
            raise argparse.ArgumentTypeError(
                f"must be {above} {low:g} and {below} {high:g}, got {text:.40}"
            )
        return number

    parse.__name__ = "float"
    return parse


def filled(text: str) -> str:
    """Return the text of an option that must not be empty, nor other than UTF-8.

    What is written down about a run holds its names, as text that others can read.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError(f"must not be empty, got {text!r}")
    return readable(text)


def readable(text: str) -> str:
    """Return the text of an option that must be UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(
            f"must be UTF-8, got {text!a}: give the file another name"
        ) from None
    return text


def a_path(text: str) -> Path:
    """Return the path that an option names."""
    return Path(filled(text))


def _check_range(number, text, low, high):
    if number < low:
        raise argparse.ArgumentTypeError(f"must be at least {low}, got {text:.40}")
    if number > high:
        raise argparse.ArgumentTypeError(f"must be at most {high}, got {text:.40}")


@contextmanager
def one_line() -> Iterator[None]:
    """End the process with one line and status 2 where its user can mend the cause.

    That is bad input, a file or a folder that cannot be used, and too little memory.
    SIGTERM and Ctrl-C end it with one line too, and status 143 or 130; so does a
    command that it ran and that failed, with the status of that. What else is raised is
    an error of this program and keeps its traceback. Also a decorator: `@one_line()`.
    """
    try:
        with interrupts.raised():
            yield
    except KeyboardInterrupt as error:
        global _interrupted
        _interrupted = interrupts.status_of(error)
        fail(str(error) or "interrupted", status=_interrupted)
    except subprocess.CalledProcessError as error:  # which has said why
        status = error.returncode
        command = shlex.join(map(str, error.cmd))
        fail(
            f"`{command}` ended with status {status}",
            status=status if status > 0 else 128 - status,  # of a signal
        )
    except (ValueError, OSError, ImportError, FloatingPointError, MemoryError) as error:
        fail(_said(error))
    except jax.errors.JaxRuntimeError as error:
        if _out_of_memory(error):
            fail(_said(error))
        raise


def as_script(main: Callable[[], object]) -> None:
    """Run the `main` of a script: what it is given wrong is one line and status 2."""
    only_our_errors()
    with one_line():
        main()


def _out_of_memory(error):
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def _said(error):
    """Say what is wrong, and what to do where the system's words do not."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return (
            f"{error.filename or 'a file, or the output,'} cannot be written "
            f"({os.strerror(error.errno)}): make room, then start again"
        )
    if _out_of_memory(error):
        first = (str(error).splitlines() or [""])[0]
        details = f" ({first:.200})" if first else ""
        return f"out of memory{details}: take smaller batches, images or networks"
    return error


def fail(error: object, *, status: int = 2) -> NoReturn:
    """End the process with one line; the traceback with --verbosity=1."""
    logging.debug("Traceback:", exc_info=True)
    line = " ".join(str(error).split()) or type(error).__name__
    print("error:", line, file=sys.stderr, flush=True)
    _give_up_output()
    atexit.register(_say_no_more)
    sys.exit(status)


def _give_up_output():
    """Drop output that has no place any more, which Python would try again at exit."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _say_no_more():
    # Readers that outlive the interpreter's hooks write to the descriptor itself.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def only_our_errors() -> None:
    """Silence what Orbax and TensorStore say of a checkpoint in pieces.

    Orbax warns of options that it sets itself, and reads that are still under way when
    one fails find their event loop closed, each with a traceback of its own.

    A signal that came inside a finaliser is raised again behind it.
    """
    logging.set_verbosity(logging.FATAL)
    show = sys.unraisablehook

    def hook(unraisable):
        if isinstance(unraisable.exc_value, interrupts.Interrupted):
            interrupts.again(unraisable.exc_value)
        elif str(unraisable.exc_value) != "Event loop is closed":
            show(unraisable)

    sys.unraisablehook = hook
