"""RetinaNet over ResNet-34 on COCO.

DIR holds annotations/instances_train2017.json, annotations/instances_val2017.json,
train2017/ and val2017/.

python train.py --config configs/retinanet_resnet34_coco.py --config.data.directory=DIR

It starts from a classifier of ImageNet: from the run of configs/resnet34_imagenet.py,
or from torchvision's weights,

python convert.py --torch resnet34-b627a593.pth --model resnet34 --calibrate IMAGES

with --config.start_from=runs/resnet34_torch/ann --config.model.pool=max. The paper
quantises a network trained with ReLU, and does not retrain it. To fine-tune such a one:

python train.py --config configs/retinanet_resnet34_coco.py \\
    --config.name=retinanet_resnet34_coco_relu --config.model.activation=relu \\
    --config.data.directory=DIR
python train.py --config configs/retinanet_resnet34_coco.py \\
    --config.start_from=runs/retinanet_resnet34_coco_relu \\
    --config.optimizer.learning_rate=0.001 --config.optimizer.epochs=3 \\
    --config.data.directory=DIR

The schedule is the usual one of RetinaNet, 12 epochs at 0.01 for a batch of 16, with a
cosine in place of its two steps. Pictures are brought to 512x512; the usual shorter
side is 800.

Hardware: the paper does not say. Time: not measured here. If a batch does not fit into
memory, --config.optimizer.accumulate=4 processes it in four parts.
Accuracy, mAP: the paper (Table 13) has 30.1 with ReLU, 28.7 with QCFS and 28.7 as an
SNN at T = 4; not measured here.
"""

from bitsnn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="retinanet_resnet34_coco",
        task="detection",
        start_from="runs/resnet34_imagenet",
        data=config.Data(
            name="coco",
            image_size=512,
            flip=True,
            scale_jitter=0.25,
            workers=8,
            batch_size=16,
            eval_batch_size=16,
        ),
        model=config.Model(name="retinanet_resnet34", num_classes=80, stem="imagenet"),
        optimizer=config.Optimizer(
            learning_rate=0.01, weight_decay=1e-4, warmup_epochs=0.1, epochs=12
        ),
    )
