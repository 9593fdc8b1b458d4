"""The command `bitsnn-compare`, which bitsnn_jax/scripts/compare.py holds."""

from bitsnn_jax.scripts.compare import main, run

__all__ = ["main", "run"]

if __name__ == "__main__":
    run()
