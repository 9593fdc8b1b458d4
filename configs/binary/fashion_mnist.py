"""Any binary network on Fashion-MNIST, by its method behind a colon.

apt install dataset-fashion-mnist
python train.py --config configs/binary/fashion_mnist.py:xnor

All have the size of the network `small`. `qcfs` is that network itself, to be converted
and compared with.

python train.py --config configs/binary/fashion_mnist.py:qcfs

Hardware: one core of an AMD EPYC (Zen 4). Time: 2 to 6 minutes.
Accuracy on the test split, seed 0: docs/binary.md.
"""

from typing import Any

from bitsnn_jax import config

# Latent weights of signs want an optimiser that does not care for their size.
ADAM = {
    "optimizer.name": "adamw",
    "optimizer.learning_rate": 0.01,
    "optimizer.weight_decay": 0.0,
}
RECIPES: dict[str, dict[str, Any]] = {
    "qcfs": {
        "model.activation": "qcfs",
        "model.pool": "average",
        "binary.method": "",
        "optimizer.learning_rate": 0.1,
    },
    "xnor": ADAM,
    "multi_prize": ADAM,
    "pokebnn": ADAM,
    "meliusnet": ADAM,
    "sakr": ADAM,
}


def get_config(method: str = "xnor") -> config.Config:
    fields = {
        "name": f"{method}_small_fashion_mnist",
        "data.name": "idx",
        # Where the Debian package dataset-fashion-mnist puts the four files.
        "data.directory": "/usr/share/datasets/fashion-mnist",
        "data.crop": 2,
        "data.flip": True,
        "data.batch_size": 128,
        "data.eval_batch_size": 500,
        "model.name": "small",
        "model.activation": "binary",
        "model.pool": "max",
        "binary.method": method,
        "optimizer.epochs": 5,
    }
    return config.from_dict(fields | RECIPES.get(method, {}))
