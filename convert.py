"""The command `bitsnn-convert`, which bitsnn_jax/scripts/convert.py holds."""

from bitsnn_jax.scripts.convert import main, run

__all__ = ["main", "run"]

if __name__ == "__main__":
    run()
