"""The command `bitsnn-train`, which bitsnn_jax/scripts/train.py holds."""

from bitsnn_jax.scripts.train import run

__all__ = ["run"]

if __name__ == "__main__":
    run()
