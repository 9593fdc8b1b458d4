"""From the fields of a config to a method, and to the network that it trains."""

import flax.linen as nn

from bitsnn_jax.binary.method import Method, Sizes
from bitsnn_jax.binary.methods import METHODS
from bitsnn_jax.config import Binary, Model
from bitsnn_jax.models import POOLS, batch_norm, size_of_small

MODELS = ("small",)  # whose sizes the networks have


def binary_method(settings: Binary) -> Method:
    """Return the method of a config.

    Raises:
      ValueError: unknown.
    """
    if settings.method not in METHODS:
        raise ValueError(
            f"binary.method must be one of {', '.join(sorted(METHODS))}; got "
            f"{settings.method!r}"
        )
    return METHODS[settings.method]


def check_model(settings: Binary, model: Model) -> None:
    """Raise ValueError for a model whose sizes no binary network has."""
    if model.name not in MODELS:
        raise ValueError(
            f"model.name must be {' or '.join(MODELS)} for binary.method="
            f"{settings.method}, got {model.name}"
        )


def binary_network(
    settings: Binary,
    model: Model,
    *,
    image_shape: tuple[int, int, int],
    axis_name: str | None = None,
) -> nn.Module:
    """Build the binary network of a config.

    Args:
      settings: of the config, with the method.
      model: of the config, with the sizes.
      image_shape: height, width and channels; says how often the network can pool.
      axis_name: of the `pmap` whose replicas share batch statistics; None for one.

    Raises:
      ValueError: unknown method, or a model that is none of `MODELS`.
    """
    check_model(settings, model)
    widths, pools = size_of_small(model, image_shape)
    sizes = Sizes(
        widths,
        model.num_classes,
        pools,
        POOLS[model.pool],
        batch_norm(axis_name=axis_name),
    )
    return binary_method(settings).network(sizes)
