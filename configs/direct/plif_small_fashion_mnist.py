"""PLIF: the small network on Fashion-MNIST, trained through T = 4 steps.

apt install dataset-fashion-mnist
python train.py --config configs/direct/plif_small_fashion_mnist.py
"""

from bitsnn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="plif_small_fashion_mnist",
        steps=4,
        data=config.Data(
            name="idx",
            # Where the Debian package dataset-fashion-mnist puts the four files.
            directory="/usr/share/datasets/fashion-mnist",
            crop=2,
            flip=True,
            batch_size=128,
            eval_batch_size=500,
        ),
        model=config.Model(name="small", activation="spiking"),
        direct=config.Direct(method="plif"),
        optimizer=config.Optimizer(
            name="adamw", learning_rate=1e-3, weight_decay=0.0, epochs=5
        ),
    )
