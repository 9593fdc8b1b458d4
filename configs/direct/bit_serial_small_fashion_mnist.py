"""The converted network of QCFS, trained on through T = 4 steps, on Fashion-MNIST.

apt install dataset-fashion-mnist
python train.py --config configs/direct/tet_small_fashion_mnist.py \
    --config.name=qcfs_small_fashion_mnist --config.model.activation=qcfs \
    --config.direct.method=
python train.py --config configs/direct/bit_serial_small_fashion_mnist.py

The first command trains the QCFS network, into runs/qcfs_small_fashion_mnist; the
second begins with its outputs, spike by spike.
"""

from bitsnn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="bit_serial_small_fashion_mnist",
        steps=4,
        start_from="runs/qcfs_small_fashion_mnist",
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
        direct=config.Direct(method="bit_serial"),
        optimizer=config.Optimizer(learning_rate=0.01, epochs=5),
    )
