"""ResNet-20 on Fashion-MNIST.

apt install dataset-fashion-mnist
python train.py --config configs/resnet20_fashion_mnist.py

Hardware: 2 CPU cores. Time: about 0.6 s a step, 430 steps an epoch: one to two hours.
Accuracy on the test split: not measured yet.
"""

from bitsnn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="resnet20_fashion_mnist",
        data=config.Data(
            name="idx",
            # Where the Debian package dataset-fashion-mnist puts the four files.
            directory="/usr/share/datasets/fashion-mnist",
            crop=2,
            flip=True,
            batch_size=128,
            eval_batch_size=500,
        ),
        model=config.Model(name="resnet20"),
        optimizer=config.Optimizer(learning_rate=0.1, weight_decay=2e-4, epochs=20),
    )
