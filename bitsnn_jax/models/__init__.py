"""Networks by name. The architectures know no data set; sizes come from the caller."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn

from bitsnn_jax import config as configuration
from bitsnn_jax.layers import QCFS
from bitsnn_jax.models.resnet import ResNet
from bitsnn_jax.models.small import Small
from bitsnn_jax.models.vgg import VGG, VGG16

__all__ = ["MODELS", "ResNet", "Small", "VGG", "build_model"]

_POOLS = {"average": nn.avg_pool, "max": nn.max_pool}


def build_model(
    config: configuration.Model,
    *,
    axis_name: str | None = None,
    image_shape: tuple[int, int, int] = (32, 32, 3),
) -> nn.Module:
    """The network of a config, with QCFS activations.

    Args:
      config: what to build.
      axis_name: of the `pmap` whose replicas share batch statistics; None for one.
      image_shape: height, width and channels; says how often a network can pool.

    Returns:
      A module to call as `model.apply(variables, x, train=False)`: float [n, h, w, c]
      images to [n, num_classes] logits.

    Raises:
      ValueError: unknown name, stem or pool, or a width that is not positive.

    >>> model = build_model(configuration.Model(name="vgg16"), image_shape=(28, 28, 1))
    >>> model.pools
    4
    """
    for field, known in (("name", MODELS), ("pool", _POOLS)):
        value = getattr(config, field)
        if value not in known:
            raise ValueError(
                f"model.{field} must be one of {', '.join(sorted(known))}; "
                f"got {value!r}"
            )
    if config.width <= 0:
        raise ValueError(f"model.width must be positive, got {config.width}")
    act = partial(
        QCFS,
        levels=config.levels,
        theta_init=config.theta_init,
        per_channel=config.per_channel,
    )
    norm = partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5, axis_name=axis_name)
    return MODELS[config.name](
        config,
        image_shape=image_shape,
        num_classes=config.num_classes,
        act=act,
        norm=norm,
        pool=_POOLS[config.pool],
    )


def _resnet(config, *, image_shape, blocks, widths, **layers):
    del image_shape  # the global average takes any size
    widths = _scaled(widths, config.width)
    return ResNet(blocks, widths, stem=config.stem, **layers)


def _vgg16(config, *, image_shape, **layers):
    widths = tuple(_scaled(stage, config.width) for stage in VGG16)
    (hidden,) = _scaled((4096,), config.width)
    pools = _pools(image_shape, most=len(widths))
    return VGG(widths, pools=pools, hidden=hidden, **layers)


def _small(config, *, image_shape, **layers):
    widths = _scaled((8, 16, 16), config.width)
    return Small(widths, pools=_pools(image_shape, most=2), **layers)


def _scaled(widths, factor):
    return tuple(max(1, round(factor * width)) for width in widths)


def _pools(image_shape, *, most):
    """How often the shorter side can be halved (rounding down) and leave a pixel."""
    return min(most, min(image_shape[:2]).bit_length() - 1)


MODELS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": partial(_resnet, blocks=(2, 2, 2, 2), widths=(64, 128, 256, 512)),
    "resnet20": partial(_resnet, blocks=(3, 3, 3), widths=(16, 32, 64)),
    "resnet34": partial(_resnet, blocks=(3, 4, 6, 3), widths=(64, 128, 256, 512)),
    "small": _small,
    "vgg16": _vgg16,
}
