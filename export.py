"""The command `bitsnn-export`, which bitsnn_jax/scripts/export.py holds."""

import os
import signal

if __name__ == "__main__":
    # Until the package is there nothing has to be closed, and nothing said.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: os._exit(128 + number))

from bitsnn_jax.scripts.export import main, run

__all__ = ["main", "run"]

if __name__ == "__main__":
    run()
