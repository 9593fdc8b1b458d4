"""VGG-16 of a quarter of the width on the digits of scikit-learn.

python train.py --config configs/digits_vgg.py

Hardware: 2 CPU cores. Time: about a minute, compilation included.
Accuracy on the test split (360 digits): 0.972 for seed 0.
"""

from bitsnn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="digits_vgg",
        data=config.Data(name="digits", crop=1, batch_size=32, eval_batch_size=180),
        model=config.Model(name="vgg16", width=0.25, theta_init=4.0),
        optimizer=config.Optimizer(learning_rate=0.02, weight_decay=2e-3, epochs=25),
    )
