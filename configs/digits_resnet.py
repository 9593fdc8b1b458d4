"""ResNet-20 on the digits of scikit-learn."""

from bitsnn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="digits_resnet",
        data=config.Data(name="digits", crop=1, batch_size=64, eval_batch_size=180),
        model=config.Model(name="resnet20", theta_init=4.0),
        optimizer=config.Optimizer(learning_rate=0.1, epochs=25),
    )
