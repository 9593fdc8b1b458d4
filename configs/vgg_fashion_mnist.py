"""VGG-16 of an eighth of the width on Fashion-MNIST.

apt install dataset-fashion-mnist
python train.py --config configs/vgg_fashion_mnist.py

Hardware: 2 CPU cores. Time: 75 ms of CPU time a step, 430 steps an epoch:
11 minutes of one core.
Accuracy on the test split, seed 0: 91.57 %.
"""

from bitsnn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="vgg_fashion_mnist",
        data=config.Data(
            name="idx",
            # Where the Debian package dataset-fashion-mnist puts the four files.
            directory="/usr/share/datasets/fashion-mnist",
            crop=2,
            flip=True,
            batch_size=128,
            eval_batch_size=500,
        ),
        model=config.Model(name="vgg16", width=0.125),
        optimizer=config.Optimizer(learning_rate=0.02, epochs=20),
    )
