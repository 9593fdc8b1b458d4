"""Any method of direct training on Fashion-MNIST, by its name behind a colon.

apt install dataset-fashion-mnist
python train.py --config configs/direct/fashion_mnist.py:dspike

All train the network of tet_small_fashion_mnist.py as that does, but for what `RECIPES`
says. PLIF's own network, as published but for its epochs:

python train.py --config configs/direct/fashion_mnist.py:plif_net

The authors train it for 1,024 epochs with a rate that falls and rises again every 64,
and report 94.38 %, the best of all epochs on the test split, and 93.85 % with the epoch
chosen on validation images.

`qcfs` and `relu` are the network without time. Methods that go on from a trained one
look for them in runs/; `starts_from` in the file of a method says which it takes:

python train.py --config configs/direct/fashion_mnist.py:qcfs
python train.py --config configs/direct/fashion_mnist.py:bit_serial
python train.py --config configs/direct/fashion_mnist.py:relu
python train.py --config configs/direct/fashion_mnist.py:diet_snn

Another network, of which sew_and and sew_iand are variants too:

python train.py --config configs/direct/fashion_mnist.py:tebn \\
    --config.name=tebn_resnet20_fashion_mnist --config.model.name=resnet20

Hardware: one core of an AMD EPYC (Zen 4). Time: 0.2 s a step of most methods with
`small`, 430 steps an epoch: 8 minutes. ResNet-20 takes ten times as long.
Accuracy on the test split, seed 0: docs/direct_training.md.
"""

from pathlib import Path
from typing import Any

from bitsnn_jax import config

ADAM = {
    "optimizer.name": "adamw",
    "optimizer.learning_rate": 1e-3,
    "optimizer.weight_decay": 0.0,
}
TRANSFORMER = ADAM | {
    "optimizer.weight_decay": 0.05,
    "optimizer.warmup_epochs": 1.0,
    "optimizer.epochs": 8,
}
SEW = {
    "model.name": "resnet20",
    "optimizer.weight_decay": 0.0,
    "optimizer.epochs": 20,
}
# What goes on from a trained network takes smaller steps.
GOES_ON = {
    "start_from": "runs/qcfs_small_fashion_mnist",
    "optimizer.learning_rate": 0.01,
}
WITHOUT_TIME = {"direct.method": ""}
RECIPES: dict[str, dict[str, Any]] = {
    "qcfs": WITHOUT_TIME | {"model.activation": "qcfs"},
    "relu": WITHOUT_TIME | {"model.activation": "relu"},
    # The loss is a squared error, whose gradient is far smaller than a cross-entropy's.
    "plif": ADAM,
    "plif_net": ADAM
    | {
        "steps": 8,
        "data.batch_size": 16,
        "model.name": "plif_net",
        "model.pool": "max",
        "model.dropout": 0.5,
        "direct.method": "plif",
        "optimizer.epochs": 64,
    },
    **dict.fromkeys(("sew_add", "sew_and", "sew_iand"), SEW),
    **dict.fromkeys(("bit_serial", "bit_serial_detached", "dual_phase"), GOES_ON),
    "diet_snn": ADAM | {"start_from": "runs/relu_small_fashion_mnist"},
    "spikformer": TRANSFORMER | {"model.name": "spikformer_small", "model.pool": "max"},
    "sdt_v2": TRANSFORMER | {"model.name": "sdt_v2_small"},
}


def get_config(method: str = "tet") -> config.Config:
    like = Path(__file__).with_name("tet_small_fashion_mnist.py")
    fields = config.flatten(config.to_dict(config.read_config(like)))
    fields |= {"direct.method": method, **RECIPES.get(method, {})}
    words = [method, fields["model.name"], "fashion_mnist"]
    if words[1].startswith(method):  # a network of its own
        del words[0]
    return config.from_dict(fields | {"name": "_".join(words)})
