"""ResNet-20 on CIFAR-10, trained with ReLU and fine-tuned with QCFS for 30 epochs.

The first command runs `resnet20_cifar10.py` with ReLU, which has no spikes to count.
That file says how to get the data.

python train.py --config configs/resnet20_cifar10.py --config.data.directory=DIR \\
    --config.name=resnet20_cifar10_relu --config.model.activation=relu \\
    --config.loss.spike_lambda=0
python train.py --config configs/resnet20_cifar10_from_relu.py \\
    --config.data.directory=DIR

Hardware: the paper's is a V100 with 16 GB. Time: not measured here.
Accuracy of the ANN: 93.51 % in the paper (Table 12); not measured here.
"""

from bitsnn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="resnet20_cifar10_from_relu",
        start_from="runs/resnet20_cifar10_relu",
        data=config.Data(
            name="cifar10",
            crop=4,
            flip=True,
            autoaugment=True,
            cutout=16,
            batch_size=128,
            eval_batch_size=512,
        ),
        model=config.Model(name="resnet20", theta_init=8.0),
        optimizer=config.Optimizer(learning_rate=0.02, weight_decay=5e-4, epochs=30),
        # The paper's 1e-8, summed over a batch of 128 as in the authors' code.
        loss=config.Loss(spike_lambda=1.28e-6),
    )
