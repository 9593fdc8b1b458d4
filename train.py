"""The command `bitsnn-train`, which bitsnn_jax/scripts/train.py holds."""

import signal

if __name__ == "__main__":
    # Until the package is there nothing has to be closed, and nothing said.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from bitsnn_jax.scripts.train import run

__all__ = ["run"]

if __name__ == "__main__":
    run()
