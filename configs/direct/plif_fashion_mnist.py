"""PLIF: its own network on Fashion-MNIST, trained through T = 8 steps.

apt install dataset-fashion-mnist
python train.py --config configs/direct/plif_fashion_mnist.py

Batch, rate and dropout are those of the authors' code, which trains for 1,024 epochs
with a rate that falls and rises again every 64. It reports 94.38 %, the best of all
epochs on the test split, and 93.85 % with the epoch chosen on validation images.
"""

from bitsnn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="plif_fashion_mnist",
        steps=8,
        data=config.Data(
            name="idx",
            # Where the Debian package dataset-fashion-mnist puts the four files.
            directory="/usr/share/datasets/fashion-mnist",
            batch_size=16,
            eval_batch_size=500,
        ),
        model=config.Model(
            name="plif_net", activation="spiking", pool="max", dropout=0.5
        ),
        direct=config.Direct(method="plif"),
        optimizer=config.Optimizer(
            name="adamw", learning_rate=1e-3, weight_decay=0.0, epochs=64
        ),
    )
