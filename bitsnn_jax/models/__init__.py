"""Networks by name. The architectures know no data set; sizes come from the caller."""

from collections.abc import Callable
from functools import partial
from typing import Any, get_type_hints

import flax.linen as nn
import jax.numpy as jnp

from bitsnn_jax import config as configuration
from bitsnn_jax.models.bert import BERT_SIZES, Bert
from bitsnn_jax.models.encoder import Block, Codes
from bitsnn_jax.models.mobilenet import MOBILENET_V2, MobileNetV2
from bitsnn_jax.models.plif_net import PLIFNet
from bitsnn_jax.models.resnet import ResNet
from bitsnn_jax.models.retinanet import RetinaNet
from bitsnn_jax.models.sdt_v2 import SpikeDrivenTransformer
from bitsnn_jax.models.small import Small
from bitsnn_jax.models.spikformer import Spikformer
from bitsnn_jax.models.vgg import VGG, VGG16
from bitsnn_jax.models.vit import VIT_SIZES, ViT
from bitsnn_jax.numerics.layers import QCFS, ClippedReLU, batch_norm
from bitsnn_jax.numerics.rival_activations import RateNorm, SlipReLU, StepReLU

__all__ = [
    "BACKBONES",
    "DETECTORS",
    "MODELS",
    "POOLS",
    "TEXT_MODELS",
    "Bert",
    "MobileNetV2",
    "PLIFNet",
    "ResNet",
    "RetinaNet",
    "Small",
    "SpikeDrivenTransformer",
    "Spikformer",
    "VGG",
    "ViT",
    "batch_norm",
    "build_model",
    "size_of_small",
]

POOLS = {"average": nn.avg_pool, "max": nn.max_pool}
_NORMS = {
    "batch": batch_norm,
    "none": lambda **options: None,
    "layer": lambda **options: None,  # of transformers, which make their own
}
# None is the type of the input, which may be float64.
_DTYPES = {"float32": None, "bfloat16": jnp.bfloat16}


def build_model(
    config: configuration.Model,
    *,
    axis_name: str | None = None,
    image_shape: tuple[int, int, int] = (32, 32, 3),
    layers: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> nn.Module:
    """Build the network of a config.

    QCFS, clipped ReLU, SlipReLU and StepReLU give the same tree of variables; with rate
    norm layers `theta` is among the batch statistics; with ReLU, ReLU6 and GELU, which
    do not convert as they are, there is none.
    In bfloat16 are the operands of convolutions, hidden layers and products of codes;
    parameters, norms, activations and logits are float32. `pool` is of the poolings
    inside the network, which MobileNetV2 and a ResNet with the "cifar" stem have none
    of.

    Args:
      config: what to build.
      axis_name: of the `pmap` whose replicas share batch statistics; None for one.
      image_shape: height, width and channels; says how often a network can pool.
        Networks of `TEXT_MODELS` have no use for it.
      layers: {"act", "norm", "pool", "dtype"} that the config asks for -> those to take
        in their place. It may add "dropout", and "block", of residual networks.

    Returns:
      A module to call as `model.apply(variables, x, train=False)`: float [n, h, w, c]
      images, or tokens as `Bert` takes them, to [n, num_classes] logits; those of
      `DETECTORS` to what `RetinaNet` returns.

    Raises:
      ValueError: unknown name, a width that is not positive, or a field that the
        network has no use for.

    >>> model = build_model(configuration.Model(name="vgg16"), image_shape=(28, 28, 1))
    >>> model.pools
    4
    """
    configuration.check_types(config, "model.")
    if config.name not in _ALL:
        raise ValueError(
            f"model.name must be one of {', '.join(sorted(_ALL))}; got {config.name!r}"
        )
    for field in get_type_hints(configuration.Model):
        _check_heeded(config, field)
    if config.width <= 0:
        raise ValueError(f"model.width must be positive, got {config.width}")
    if config.activation == "spiking" and layers is None:
        raise ValueError(
            "model.activation=spiking has neurons of direct.method, which is not given"
        )
    if config.activation == "binary":
        raise ValueError(
            "model.activation=binary has layers of binary.method, which is not given"
        )
    own = {
        "act": _activation(config, axis_name),
        "norm": _NORMS[config.norm](axis_name=axis_name),
        "pool": POOLS[config.pool],
        "dtype": _DTYPES[config.dtype],
    }
    made_of = layers(own) if layers else own
    for name, heeding in _LAYERS_OF.items():
        if config.name not in heeding:
            made_of.pop(name, None)
    return _ALL[config.name](
        config, image_shape=image_shape, num_classes=config.num_classes, **made_of
    )


def _check_heeded(config, field):
    """Refuse a value that the network has no use for."""
    value, default = getattr(config, field), getattr(configuration.Model, field)
    heeding = _HEEDED_BY.get((field, value), _HEEDED_BY.get(field, _ALL.keys()))
    if value != default and config.name not in heeding:
        raise ValueError(
            f"model.{field} must be {default!r} for {config.name}, got {value!r}: it "
            f"is for {', '.join(sorted(heeding))}"
        )
    if field == "hidden_act" and value != default and config.activation != "qcfs":
        raise ValueError(
            f"model.hidden_act must be {default!r} for model.activation="
            f"{config.activation}, which is the hidden function itself; got {value!r}"
        )


def _activation(config, axis_name):
    theta = {"theta_init": config.theta_init, "per_channel": config.per_channel}
    if config.activation == "rate_norm" and config.per_channel:
        raise ValueError(
            "model.per_channel must be False for model.activation=rate_norm, whose "
            "theta is of a layer; got True"
        )
    made_by = {
        "qcfs": partial(QCFS, levels=config.levels, **theta),
        "clipped_relu": partial(ClippedReLU, **theta),
        "slip_relu": partial(SlipReLU, levels=config.levels, **theta),
        "step_relu": partial(StepReLU, levels=config.levels, **theta),
        "rate_norm": partial(
            RateNorm, theta_init=config.theta_init, axis_name=axis_name
        ),
        # Those own nothing that could be named.
        "relu": lambda *, name: nn.relu,
        "relu6": lambda *, name: nn.relu6,
        "gelu": lambda *, name: partial(nn.gelu, approximate=False),
        "spiking": None,  # from elsewhere
        "binary": None,
    }
    return made_by[config.activation]


def _resnet(config, *, image_shape, size, **layers):
    del image_shape  # the global average takes any size
    blocks, widths = size
    return ResNet(blocks, _scaled(widths, config.width), stem=config.stem, **layers)


def _retinanet(config, *, image_shape, size, features, num_classes, **layers):
    backbone = _resnet(
        config, image_shape=image_shape, size=size, num_classes=None, **layers
    )
    (features,) = _scaled((features,), config.width)
    return RetinaNet(
        backbone,
        num_classes,
        features,
        act=layers["act"],
        head_norm=layers["norm"] if config.head_norm == "batch" else None,
        pyramid=config.pyramid,
        dtype=layers["dtype"],
    )


def _vgg16(config, *, image_shape, **layers):
    widths = tuple(_scaled(stage, config.width) for stage in VGG16)
    (hidden,) = _scaled((4096,), config.width)
    pools = _pools(image_shape, most=len(widths))
    grid = {"cifar": 0, "imagenet": 7}[config.stem]
    return VGG(widths, pools=pools, grid=grid, hidden=hidden, **layers)


def _mobilenetv2(config, *, image_shape, pool, **layers):
    del image_shape, pool  # the global average takes any size and is the only one
    # With 1 in these two places, the usual form for CIFAR, 32x32 end as 4x4.
    early_strides = {"cifar": 1, "imagenet": 2}[config.stem]
    first, last, *widths = _scaled(
        (32, 1280, *(stage.features for stage in MOBILENET_V2)), config.width
    )
    stages = [
        stage._replace(features=width)
        for stage, width in zip(MOBILENET_V2, widths, strict=True)
    ]
    stages[1] = stages[1]._replace(strides=early_strides)
    return MobileNetV2(
        tuple(stages),
        stem_features=first,
        last_features=last,
        stem_strides=early_strides,
        linear_bottleneck=config.bottleneck == "linear",
        **layers,
    )


def size_of_small(
    config: configuration.Model, image_shape: tuple[int, int, int]
) -> tuple[tuple[int, int, int], int]:
    """Return the channels of the three convolutions of `Small`, and its poolings."""
    first, second, third = _scaled((8, 16, 16), config.width)
    return (first, second, third), _pools(image_shape, most=2)


def _small(config, *, image_shape, **layers):
    widths, pools = size_of_small(config, image_shape)
    return Small(widths, pools=pools, **layers)


def _plif_net(config, *, image_shape, **layers):
    first, second, hidden = _scaled((128, 128, 2048), config.width)
    pools = _pools(image_shape, most=2)
    rate = config.dropout
    return PLIFNet((first, second), hidden, pools=pools, dropout_rate=rate, **layers)


def _spikformer(config, *, image_shape, width, heads, hidden, **layers):
    del image_shape  # the global average takes any size
    # Heads stay as many, so that they share every width out evenly.
    head, hidden = _scaled((width // heads, hidden), config.width)
    return Spikformer(width=head * heads, heads=heads, hidden=hidden, **layers)


def _sdt_v2(config, *, image_shape, pool, width, heads, **layers):
    del image_shape, pool  # strides halve the image
    (head,) = _scaled((width // heads,), config.width)
    width = head * heads
    return SpikeDrivenTransformer(widths=(width // 2, width), heads=heads, **layers)


def _scaled(widths, factor):
    return tuple(max(1, round(factor * width)) for width in widths)


def _pools(image_shape, *, most):
    """Count how often the shorter side can be halved, rounded down, to a pixel."""
    return min(most, min(image_shape[:2]).bit_length() - 1)


def _vit(config, *, size, image_shape, num_classes, **layers):
    del image_shape  # the mean over patches takes any size
    pre_norm = config.norm == "layer"
    width, block = _transformer(config, size, epsilon=1e-6, pre_norm=pre_norm, **layers)
    return ViT(size._replace(width=width), num_classes, block)


def _bert(config, *, size, image_shape, num_classes, **layers):
    del image_shape
    width, block = _transformer(config, size, **layers)
    return Bert(size._replace(width=width), num_classes, block)


def _transformer(config, size, *, act, norm, pool, **options):
    del act, pool  # poolings there are none; codes are of several kinds
    coded = config.activation == "qcfs"
    codes = Codes(
        levels=config.levels if coded else None,
        hidden=config.hidden_act if coded else config.activation,
        theta_init=config.theta_init,
        per_channel=config.per_channel,
    )
    # Heads stay as many, so that they share every width out evenly.
    (head, hidden) = _scaled((size.width // size.heads, size.hidden), config.width)
    block = Block(
        size.heads,
        hidden,
        codes,
        attention=config.attention,
        batch_norm=norm,
        dropout=config.dropout,
        **options,
    )
    return head * size.heads, block


_RESNETS = {  # blocks and channels of each stage
    "resnet18": ((2, 2, 2, 2), (64, 128, 256, 512)),
    "resnet20": ((3, 3, 3), (16, 32, 64)),
    "resnet34": ((3, 4, 6, 3), (64, 128, 256, 512)),
}
MODELS: dict[str, Callable[..., nn.Module]] = {
    "mobilenetv2": _mobilenetv2,
    "plif_net": _plif_net,
    **{name: partial(_resnet, size=size) for name, size in _RESNETS.items()},
    "sdt_v2_small": partial(_sdt_v2, width=64, heads=4),
    "small": _small,
    "spikformer_small": partial(_spikformer, width=64, heads=4, hidden=128),
    "vgg16": _vgg16,
    **{name: partial(_vit, size=size) for name, size in VIT_SIZES.items()},
}
TEXT_MODELS: dict[str, Callable[..., nn.Module]] = {
    name: partial(_bert, size=size) for name, size in BERT_SIZES.items()
}
_FEATURES = {"resnet20": 64, "resnet34": 256}  # of a pyramid over each
DETECTORS: dict[str, Callable[..., nn.Module]] = {
    f"retinanet_{name}": partial(_retinanet, size=_RESNETS[name], features=features)
    for name, features in _FEATURES.items()
}
# The classifier with the same stages.
BACKBONES = {f"retinanet_{name}": name for name in _FEATURES}
_ALL = MODELS | TEXT_MODELS | DETECTORS
_TRANSFORMERS = VIT_SIZES.keys() | TEXT_MODELS.keys()
_CONVOLUTIONAL = MODELS.keys() - _TRANSFORMERS
_OF_ONE_STEM = {"plif_net", "sdt_v2_small", "small", "spikformer_small"}

# Layers that only some networks are made of.
_LAYERS_OF = {
    "block": _RESNETS.keys(),
    "dropout": {"plif_net"},
}

# Fields, or values of them, that are of some networks only; elsewhere a field must be
# left at its default.
_HEEDED_BY = {
    "stem": _CONVOLUTIONAL - _OF_ONE_STEM | DETECTORS.keys(),
    "pool": _CONVOLUTIONAL - {"sdt_v2_small"} | DETECTORS.keys(),
    "bottleneck": {"mobilenetv2"},
    ("norm", "none"): {"vgg16"},
    ("norm", "layer"): _TRANSFORMERS,
    **{
        ("activation", name): _CONVOLUTIONAL | DETECTORS.keys()
        for name in ("clipped_relu", "slip_relu", "step_relu", "rate_norm", "relu6")
    },
    ("activation", "spiking"): _CONVOLUTIONAL,
    "hidden_act": _TRANSFORMERS,
    "attention": _TRANSFORMERS,
    "dropout": _TRANSFORMERS | {"plif_net"},
    "pyramid": DETECTORS.keys(),
    "head_norm": DETECTORS.keys(),
}
