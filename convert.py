"""The command `bitsnn-convert`, which bitsnn_jax/scripts/convert.py holds."""

import signal

if __name__ == "__main__":
    # Until the package is there nothing has to be closed, and nothing said.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from bitsnn_jax.scripts.convert import main, run

__all__ = ["main", "run"]

if __name__ == "__main__":
    run()
