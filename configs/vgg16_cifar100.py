"""VGG-16 on CIFAR-100, as in the paper.

pip install -e '.[prepare]'
tfds build cifar100 --data_dir=DIR --file_format=array_record
python train.py --config configs/vgg16_cifar100.py --config.data.directory=DIR

Hardware: the paper's is a V100 with 16 GB. Time: not measured here.
Accuracy, ANN and SNN at T = 4: 76.71 % (Table 9) in the paper; not measured here.
"""

from bitsnn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="vgg16_cifar100",
        data=config.Data(
            name="cifar100",
            crop=4,
            flip=True,
            autoaugment=True,
            cutout=8,
            batch_size=128,
            eval_batch_size=512,
        ),
        model=config.Model(name="vgg16", num_classes=100, theta_init=8.0),
        optimizer=config.Optimizer(learning_rate=0.02, weight_decay=5e-4, epochs=600),
        # The paper's 1e-8, summed over a batch of 128 as in the authors' code.
        loss=config.Loss(spike_lambda=1.28e-6),
    )
