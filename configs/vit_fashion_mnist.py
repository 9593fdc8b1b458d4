"""A small ViT on Fashion-MNIST.

apt install dataset-fashion-mnist
python train.py --config configs/vit_fashion_mnist.py

With batch norm and ReLU attention, nothing is left that does not spike:

python train.py --config configs/vit_fashion_mnist.py \\
    --config.name=vit_fashion_mnist_spiking --config.model.norm=batch \\
    --config.model.attention=relu --config.model.hidden_act=relu

Hardware: one core of an AMD EPYC (Zen 4) for each. Time: 0.3 s a step, 430 steps an
epoch: 17 minutes without other work.
Accuracy on the test split, seed 0: 85.82 % with softmax and LayerNorm, 87.97 % where
everything spikes, with 0.654 spikes a neuron. The binomial standard error is 0.33
points.
"""

from bitsnn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="vit_fashion_mnist",
        data=config.Data(
            name="idx",
            # Where the Debian package dataset-fashion-mnist puts the four files.
            directory="/usr/share/datasets/fashion-mnist",
            crop=2,
            flip=True,
            batch_size=128,
            eval_batch_size=500,
        ),
        # 49 tokens of 64 channels, four layers.
        model=config.Model(
            name="vit_small", norm="layer", theta_init=4.0, per_channel=True
        ),
        optimizer=config.Optimizer(
            name="adamw",
            learning_rate=2e-3,
            warmup_epochs=1.0,
            weight_decay=0.05,
            epochs=8,
        ),
    )
