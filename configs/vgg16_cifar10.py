"""VGG-16 on CIFAR-10, as in the paper.

pip install -e '.[prepare]'
tfds build cifar10 --data_dir=DIR --file_format=array_record
python train.py --config configs/vgg16_cifar10.py --config.data.directory=DIR

Hardware: the paper's is a V100 with 16 GB. Time: not measured here.
Accuracy, ANN and SNN at T = 4: 95.82 % (Table 1) in the paper; not measured here.
"""

from bitsnn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="vgg16_cifar10",
        data=config.Data(
            name="cifar10",
            crop=4,
            flip=True,
            autoaugment=True,
            cutout=16,
            batch_size=128,
            eval_batch_size=512,
        ),
        model=config.Model(name="vgg16", theta_init=8.0),
        optimizer=config.Optimizer(learning_rate=0.02, weight_decay=5e-4, epochs=600),
        # The paper's 1e-8, summed over a batch of 128 as in the authors' code.
        loss=config.Loss(spike_lambda=1.28e-6),
    )
