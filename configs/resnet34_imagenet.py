"""ResNet-34 on ImageNet.

Images are read from folders, DIR/train/<class>/*.JPEG and DIR/val/<class>/*.JPEG.

python train.py --config configs/resnet34_imagenet.py --config.data.directory=DIR

For --config.data.name=imagenet2012, DIR is what `tfds build imagenet2012` prepared as
array_record. --config.data.name=fake_imagenet is noise, to measure time with.

The stem is the usual one, 7x7 with stride 2 and pooling. The authors' code has 3x3 with
stride 1 and no pooling: --config.model.stem=cifar, at 16 times the work.

Hardware: the paper's is a V100 with 16 GB. Time: not measured here. If a batch does
not fit into memory, --config.optimizer.accumulate=4 processes it in four parts.
Accuracy, ANN and SNN at T = 4: 75.12 % in the paper (Table 2), with the authors' stem;
not measured here.
"""

from bitsnn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="resnet34_imagenet",
        data=config.Data(
            name="image_folder",
            image_size=224,
            random_resized_crop=True,
            flip=True,
            color_jitter=0.4,
            workers=8,
            batch_size=256,
            eval_batch_size=256,
        ),
        model=config.Model(
            name="resnet34", num_classes=1000, stem="imagenet", theta_init=8.0
        ),
        optimizer=config.Optimizer(learning_rate=0.1, weight_decay=1e-4, epochs=300),
        # The paper's 5e-10, summed over a batch of 256; the paper states no size.
        loss=config.Loss(spike_lambda=1.28e-7),
    )
