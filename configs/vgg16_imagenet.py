"""VGG-16 on ImageNet.

Images are read from folders, DIR/train/<class>/*.JPEG and DIR/val/<class>/*.JPEG.

python train.py --config configs/vgg16_imagenet.py --config.data.directory=DIR

For --config.data.name=imagenet2012, DIR is what `tfds build imagenet2012` prepared as
array_record. --config.data.name=fake_imagenet is noise, to measure time with.

Hardware: the paper's is a V100 with 16 GB. Time: not measured here. If a batch does
not fit into memory, --config.optimizer.accumulate=4 processes it in four parts.
Accuracy: not in the paper's Table 2; not measured here.
"""

from bitsnn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="vgg16_imagenet",
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
            name="vgg16", num_classes=1000, stem="imagenet", theta_init=8.0
        ),
        optimizer=config.Optimizer(learning_rate=0.1, weight_decay=1e-4, epochs=300),
        # The paper's 5e-10, summed over a batch of 256; the paper states no size.
        loss=config.Loss(spike_lambda=1.28e-7),
    )
