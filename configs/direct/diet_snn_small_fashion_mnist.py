"""DIET-SNN: a network with ReLU, then its spikes through T = 4 steps, Fashion-MNIST.

apt install dataset-fashion-mnist
python train.py --config configs/direct/tet_small_fashion_mnist.py \
    --config.name=relu_small_fashion_mnist --config.model.activation=relu \
    --config.direct.method=
python train.py --config configs/direct/diet_snn_small_fashion_mnist.py

The first command trains the ReLU network, into runs/relu_small_fashion_mnist; the
second finds thresholds for it, and trains them, leaks and weights. The authors train
with Adam, AMSGrad and no weight decay, for 300 epochs.
"""

from bitsnn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="diet_snn_small_fashion_mnist",
        steps=4,
        start_from="runs/relu_small_fashion_mnist",
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
        direct=config.Direct(method="diet_snn"),
        optimizer=config.Optimizer(
            name="adamw", learning_rate=1e-3, weight_decay=0.0, epochs=5
        ),
    )
