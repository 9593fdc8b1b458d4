"""What the scripts share: how they start, and bad input as one line and status 2."""

import argparse
import atexit
import os
import platform
import sys
from typing import NoReturn

from absl import logging

# Memory of glibc's heap in huge pages, and never given back to the system. One arena
# for all threads: others are of 128 MB at most, and what is larger would go back.
_MALLOC = {
    "glibc.malloc.arena_max": 1,
    "glibc.malloc.hugetlb": 1,
    "glibc.malloc.mmap_threshold": 2**34,
    "glibc.malloc.trim_threshold": 2**34,
}


def with_huge_pages() -> None:
    """Starts this process again, once, with settings that glibc reads at the start.

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


class Parser(argparse.ArgumentParser):
    """Of a script's docstring: its first line, and below the options the rest.

    What it is given wrong is one line, as all errors are.
    """

    def __init__(self, doc: str | None, **options):
        about, _, details = (doc or "").partition("\n")
        layout = argparse.RawDescriptionHelpFormatter
        super().__init__(
            description=about, epilog=details, formatter_class=layout, **options
        )

    def add_images(self) -> None:
        """The options of which images to look at."""
        self.add_argument(
            "--limit", type=int, metavar="N", help="first N test images only"
        )
        self.add_argument(
            "--data",
            metavar="DIR",
            help="folder of the data, if not where the run had it",
        )

    def error(self, message: str) -> NoReturn:
        fail(message)


def fail(error: object) -> NoReturn:
    """Ends the process; the traceback with --verbosity=1."""
    logging.debug("Traceback:", exc_info=True)
    print("error:", " ".join(str(error).split()), file=sys.stderr, flush=True)
    atexit.register(_say_no_more)
    sys.exit(2)


def _say_no_more():
    # Readers that outlive the interpreter's hooks write to the descriptor itself.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def only_our_errors() -> None:
    """Keeps to themselves what Orbax and TensorStore say of a checkpoint in pieces.

    Orbax warns of options that it sets itself, and reads that are still under way when
    one fails find their event loop closed, each with a traceback of its own.
    """
    logging.set_verbosity(logging.ERROR)
    show = sys.unraisablehook

    def hook(unraisable):
        if str(unraisable.exc_value) != "Event loop is closed":
            show(unraisable)

    sys.unraisablehook = hook
