"""SEW ResNet-20 on Fashion-MNIST, trained through T = 4 steps.

apt install dataset-fashion-mnist
python train.py --config configs/direct/sew_resnet20_fashion_mnist.py

With the other two ways to join the branches of a block:

python train.py --config configs/direct/sew_resnet20_fashion_mnist.py \\
    --config.name=sew_and_resnet20_fashion_mnist --config.direct.method=sew_and
python train.py --config configs/direct/sew_resnet20_fashion_mnist.py \\
    --config.name=sew_iand_resnet20_fashion_mnist --config.direct.method=sew_iand
"""

from bitsnn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="sew_resnet20_fashion_mnist",
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
        model=config.Model(name="resnet20", activation="spiking"),
        direct=config.Direct(method="sew_add"),
        optimizer=config.Optimizer(learning_rate=0.1, weight_decay=0.0, epochs=20),
    )
