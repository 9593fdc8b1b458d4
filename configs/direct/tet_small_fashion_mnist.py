"""TET: a small spiking network on Fashion-MNIST, trained through T = 4 steps.

apt install dataset-fashion-mnist
python train.py --config configs/direct/tet_small_fashion_mnist.py

Other methods: fashion_mnist.py beside this file.

Hardware: one core of an AMD EPYC (Zen 4). Time: 0.2 s a step, 430 steps an epoch: 8
minutes.
Accuracy on the test split, seed 0: 87.15 % with 0.857 spikes a neuron. The binomial
standard error is 0.33 points.
"""

from bitsnn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="tet_small_fashion_mnist",
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
        direct=config.Direct(method="tet"),
        optimizer=config.Optimizer(learning_rate=0.1, epochs=5),
    )
