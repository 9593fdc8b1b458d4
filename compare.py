"""The command `bitsnn-compare`, which bitsnn_jax/scripts/compare.py holds."""

import signal

if __name__ == "__main__":
    # Until the package is there nothing has to be closed, and nothing said.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from bitsnn_jax.scripts.compare import main, run

__all__ = ["main", "run"]

if __name__ == "__main__":
    run()
