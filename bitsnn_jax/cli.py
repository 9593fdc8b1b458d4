"""What the scripts share: bad input is one line on stderr and exit status 2."""

import atexit
import os
import sys
from typing import NoReturn

from absl import logging


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
