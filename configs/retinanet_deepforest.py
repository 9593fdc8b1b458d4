"""RetinaNet over ResNet-20 on four aerial pictures of forests, learnt by heart.

pip download --no-deps deepforest==2.1.0
python experiments/deepforest_scenes.py deepforest-2.1.0-py3-none-any.whl
python train.py --config configs/retinanet_deepforest.py

Training and test pictures are the same tiles: a check that reader, losses and decoding
work on real pictures, and nothing more.

Hardware: one core of an AMD EPYC (Zen 4). Time: 85 minutes, beside other trainings.
Accuracy, AP50 at L = 15: 98.6 %, seed 0, on the tiles that it was trained on.
"""

from bitsnn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="retinanet_deepforest",
        task="detection",
        data=config.Data(
            name="coco",
            directory="runs/deepforest",
            image_size=256,
            batch_size=8,
            eval_batch_size=41,
        ),
        model=config.Model(name="retinanet_resnet20", stem="imagenet", num_classes=1),
        optimizer=config.Optimizer(
            name="adamw",
            learning_rate=1e-3,
            weight_decay=0.0,
            warmup_epochs=1.0,
            clip_norm=10.0,
            epochs=30,
        ),
    )
