"""RetinaNet over ResNet-20 on scenes of Fashion-MNIST's garments.

apt install dataset-fashion-mnist
python -m bitsnn_jax.data.fashion_scenes \\
    --source /usr/share/datasets/fashion-mnist --out runs/fashion_scenes
python train.py --config configs/retinanet_fashion_scenes.py

To start from a classifier of the garments, with the stem that the detector has:

python train.py --config configs/resnet20_fashion_mnist.py \\
    --config.name=resnet20_fashion_mnist_stem --config.model.stem=imagenet
python train.py --config configs/retinanet_fashion_scenes.py \\
    --config.start_from=runs/resnet20_fashion_mnist_stem

Hardware: one core of an AMD EPYC (Zen 4). Time: 1 s a step with ReLU, 282 steps an
epoch: 40 minutes. Accuracy, that is AP50, seed 0: 71 % with ReLU from a classifier,
72 % with QCFS after 4 more epochs from there (experiments/detection.py).
"""

from bitsnn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="retinanet_fashion_scenes",
        task="detection",
        data=config.Data(
            name="coco",
            directory="runs/fashion_scenes",
            image_size=128,
            flip=True,
            batch_size=16,
            eval_batch_size=50,
        ),
        model=config.Model(name="retinanet_resnet20", stem="imagenet", num_classes=10),
        optimizer=config.Optimizer(
            name="adamw",
            learning_rate=1e-3,
            weight_decay=1e-4,
            warmup_epochs=0.5,
            clip_norm=10.0,
            epochs=8,
        ),
    )
