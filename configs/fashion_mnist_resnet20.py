"""ResNet-20 on Fashion-MNIST."""

from bitsnn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="fashion_mnist_resnet20",
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
        optimizer=config.Optimizer(learning_rate=0.1, epochs=20),
    )
