"""What a run is: typed, nested dataclasses, and `validate`, which checks them.

A config file (`configs/*.py`) has a `get_config()` that returns a `Config`. Fields are
set on the command line as `--config.optimizer.epochs=3`.
"""

import dataclasses
import os
import traceback
import types
from dataclasses import dataclass, field
from functools import reduce
from importlib.util import decode_source
from pathlib import Path
from typing import get_type_hints

# Fields that may change between a run and its continuation: they train the same.
_WITHOUT_EFFECT = {
    "name",
    "steps",
    "data.directory",
    "data.eval_batch_size",
    "data.workers",
    "checkpoint_every_steps",
    "log_every_steps",
}


@dataclass
class Data:
    """Which examples, and how they are augmented."""

    name: str = "digits"  # a name in data.SOURCES
    directory: str = ""  # where the files are; "" for sets that need none
    image_size: int = 0  # side that images of any size are brought to; 0: as stored
    unreadable: str = "error"  # or "skip": what to do with an image that is damaged
    # Training only, in this order:
    random_resized_crop: bool = False  # of 8 to 100 % of the area, to image_size
    crop: int = 0  # random crop after padding by this many pixels
    flip: bool = False  # random horizontal flip
    autoaugment: bool = False  # the policy found on CIFAR-10
    color_jitter: float = 0.0  # of brightness, contrast and saturation
    cutout: int = 0  # side of a square that is blanked out
    workers: int = 0  # processes that decode and augment; 0: threads of this one
    batch_size: int = 64  # over all devices of all hosts
    eval_batch_size: int = 200


@dataclass
class Model:
    """Which network, and its activations."""

    name: str = "resnet20"  # a name in models.MODELS
    num_classes: int = 10
    width: float = 1.0  # multiplies the channels of every layer
    activation: str = "qcfs"  # or "clipped_relu" (with theta), "relu", "relu6"
    stem: str = "cifar"  # "cifar" (full resolution) or "imagenet" (reduced at once)
    pool: str = "average"  # "average" or "max"
    norm: str = "batch"  # or "none", of VGG-16: convolutions with biases
    levels: int = 15  # 2**T - 1 converts without loss at T steps
    theta_init: float = 8.0
    per_channel: bool = False  # one theta a channel in place of one a layer
    bottleneck: str = "linear"  # of MobileNetV2: "linear" or "qcfs" (all-spiking)
    dtype: str = "float32"  # of convolutions: or "bfloat16"; QCFS and norms stay wide


@dataclass
class Optimizer:
    """SGD with momentum and a cosine schedule."""

    learning_rate: float = 0.02
    warmup_epochs: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    epochs: int = 20
    accumulate: int = 1  # parts that a device works a batch off in, one by one


@dataclass
class Loss:
    """Cross-entropy plus the bit-sparsity loss, Eq. (11)."""

    # Weight of the spikes per example, averaged over the batch. The paper's 1e-8 is
    # summed over a batch of 128, which is 1.28e-6 here.
    spike_lambda: float = 0.0
    spike_surrogate: str = "paper"  # a name in spikes.SURROGATES
    spike_weights: str = "neurons"  # each counts 1; or "fan_out": its synapses
    label_smoothing: float = 0.0


@dataclass
class Config:
    """One run."""

    name: str = "digits_resnet"
    seed: int = 0
    steps: int = 4  # T of the conversion that the run is made for
    start_from: str = ""  # run whose network training starts from; "" for random
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    optimizer: Optimizer = field(default_factory=Optimizer)
    loss: Loss = field(default_factory=Loss)
    checkpoint_every_steps: int = 0  # 0: at the end of each epoch
    log_every_steps: int = 20


def to_dict(config: Config) -> dict:
    """Nested dictionaries of plain values, as saved beside a checkpoint."""
    return dataclasses.asdict(config)


def from_dict(values: dict) -> Config:
    """The inverse of `to_dict`. A field that is not there keeps its default.

    Raises:
      ValueError: a field that is unknown, or a value of the wrong type.

    >>> from_dict({"seed": 3, "model": {"levels": 7}}).model.levels
    7
    """
    config = Config()
    for path, value in _flatten(values).items():
        *parents, name = path.split(".")
        owner = reduce(lambda part, key: getattr(part, key, None), parents, config)
        if name not in getattr(owner, "__dataclass_fields__", ()):
            raise ValueError(f"{path} is not a field of a config")
        setattr(owner, name, value)
    _check_types(config)
    return config


def read_config(path: str | os.PathLike) -> Config:
    """Return the config that the `get_config` of a Python file gives.

    Args:
      path: of the file. Of FILE:TEXT, as ml_collections has it, the text behind the
        colon is the argument of `get_config`.

    Raises:
      ValueError: the file cannot be run, or gives no config. It is a program, and may
        raise whatever it likes: all of that is one line that names the file.
      OSError: no such file.
    """
    file, *argument = str(path).split(":", 1)
    source = Path(file).read_bytes()
    module = types.ModuleType("config_file")
    module.__file__ = file
    try:
        exec(compile(decode_source(source), file, "exec"), vars(module))
        get_config = getattr(module, "get_config", None)
        config = get_config(*argument) if callable(get_config) else None
    except (Exception, SystemExit) as error:
        lines = [f.lineno for f in _frames(error) if f.filename == file]
        place = f" in line {lines[-1]}" if lines else ""
        raise ValueError(
            f"{file} cannot be run ({type(error).__name__}{place}: {error!s:.200}): "
            f"expected {_A_CONFIG_FILE}"
        ) from error
    if get_config is None or not callable(get_config):
        raise ValueError(f"{file} has no get_config(): expected {_A_CONFIG_FILE}")
    if not isinstance(config, Config):
        raise ValueError(
            f"{file}: get_config() gives a {type(config).__name__}: expected "
            f"{_A_CONFIG_FILE}"
        )
    return config


_A_CONFIG_FILE = (
    "a Python file with a get_config() that returns a bitsnn_jax.config.Config, as "
    "configs/digits_small.py is one"
)


def _frames(error):
    return traceback.extract_tb(error.__traceback__)


def differences(saved: dict, wanted: dict) -> list[str]:
    """Fields in which two configs, as dictionaries, would train differently.

    One that is not there has its default: the config was saved before there was one.

    >>> differences({"seed": 0, "name": "a"}, {"seed": 1, "name": "b"})
    ['seed (0, now 1)']
    """
    defaults = _flatten(to_dict(Config()))
    saved, wanted = defaults | _flatten(saved), defaults | _flatten(wanted)
    return [
        f"{path} ({saved.get(path)!r}, now {wanted.get(path)!r})"
        for path in sorted((saved.keys() | wanted.keys()) - _WITHOUT_EFFECT)
        if saved.get(path) != wanted.get(path)
    ]


def validate(config: Config) -> None:
    """Checks every field by itself; no device is touched.

    What depends on the data (classes, image size) or on the machine (devices that
    share a batch) is checked where it is known, at the start of training.

    Raises:
      ValueError: the first field that is not as it should be: its name, what was
        expected and what came.
    """
    # Imported here, because two of them import this file.
    from bitsnn_jax.data import SOURCES
    from bitsnn_jax.models import MODELS
    from bitsnn_jax.spikes import SURROGATES

    _check_types(config)
    rules = _RULES | {
        "data.name": _one_of(SOURCES),
        "model.name": _one_of(MODELS),
        "loss.spike_surrogate": _one_of(SURROGATES),
    }
    for path, value in _flatten(to_dict(config)).items():
        if isinstance(value, str):
            _check_text(path, value)
        expected, holds = rules.get(path, ("anything", lambda value: True))
        if not holds(value):
            raise ValueError(f"{path} must be {expected}, got {value!r}")
    epochs, warmup = config.optimizer.epochs, config.optimizer.warmup_epochs
    if warmup >= epochs:
        raise ValueError(
            f"optimizer.warmup_epochs must be below optimizer.epochs, got {warmup} and "
            f"{epochs}"
        )
    if config.data.random_resized_crop and not config.data.image_size:
        raise ValueError(
            "data.image_size must be at least 1 for data.random_resized_crop, got 0"
        )
    if config.loss.spike_lambda and config.model.activation != "qcfs":
        raise ValueError(
            f"loss.spike_lambda must be 0 for model.activation="
            f"{config.model.activation}, which has no spikes; got "
            f"{config.loss.spike_lambda}"
        )


def _flatten(values, prefix=""):
    flat = {}
    for key, value in values.items():
        nested = isinstance(value, dict)
        flat |= _flatten(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return flat


def _check_types(part, prefix=""):
    for name, expected in get_type_hints(type(part)).items():
        value, path = getattr(part, name), prefix + name
        # A whole number is a fine float, but True is no number.
        allowed = (int, float) if expected is float else expected
        wrong_bool = isinstance(value, bool) and expected is not bool
        if wrong_bool or not isinstance(value, allowed):
            raise ValueError(
                f"{path} must be of type {expected.__name__}, got {value!r}"
            )
        if dataclasses.is_dataclass(value):
            _check_types(value, f"{path}.")
    # Python would take `config.model.level = 3` without a word.
    for name in vars(part).keys() - part.__dataclass_fields__.keys():
        raise ValueError(f"{prefix}{name} is not a field of a config")


def _check_text(path, value):
    """What is written down about a run holds its names, for others to read."""
    if not (value.isprintable() and value == value.strip()):
        raise ValueError(
            f"{path} must be text that can be printed, without spaces around it, got "
            f"{value!a:.80}"
        )


def _within(low, high):
    words = f"at least {low:,} and at most {high:,}"
    return words, lambda value: low <= value <= high


def _one_of(names):
    return f"one of {', '.join(sorted(names))}", lambda value: value in names


def _positive(high):
    return f"positive and at most {high:,}", lambda value: 0 < value <= high


_BELOW_ONE = ("at least 0 and below 1", lambda value: 0 <= value < 1)

# What a field must be, and whether a value is that; else its type decides.
_RULES = {
    "name": (
        "a name of at most 200 letters, without slashes",
        lambda v: v not in ("", ".", "..") and "/" not in v and len(v.encode()) <= 200,
    ),
    "seed": ("in 0..2**32 - 1", lambda value: 0 <= value < 2**32),
    "steps": ("in 1..30", lambda value: 1 <= value <= 30),
    "data.image_size": _within(0, 4096),
    "data.unreadable": _one_of(("error", "skip")),
    "data.crop": _within(0, 4096),
    "data.color_jitter": _BELOW_ONE,
    "data.cutout": _within(0, 4096),
    "data.workers": _within(0, 1024),
    "data.batch_size": _within(1, 2**17),
    "data.eval_batch_size": _within(1, 2**17),
    "model.num_classes": _within(1, 10**6),
    "model.width": _within(0.01, 64),
    "model.activation": _one_of(("qcfs", "clipped_relu", "relu", "relu6")),
    "model.stem": _one_of(("cifar", "imagenet")),
    "model.pool": _one_of(("average", "max")),
    "model.norm": _one_of(("batch", "none")),
    "model.levels": ("in 1..2**30 - 1", lambda value: 1 <= value < 2**30),
    "model.theta_init": _positive(10**6),
    "model.bottleneck": _one_of(("linear", "qcfs")),
    "model.dtype": _one_of(("float32", "bfloat16")),
    "optimizer.learning_rate": _positive(1000),
    "optimizer.warmup_epochs": _within(0, 10**5),
    "optimizer.momentum": _BELOW_ONE,
    "optimizer.weight_decay": _within(0, 1),
    "optimizer.epochs": _within(1, 10**5),
    "optimizer.accumulate": _within(1, 2**17),
    "loss.spike_lambda": _within(0, 10**6),
    "loss.spike_weights": _one_of(("neurons", "fan_out")),
    "loss.label_smoothing": _BELOW_ONE,
    "checkpoint_every_steps": _within(0, 2**31 - 1),
    "log_every_steps": _within(1, 2**31 - 1),
}
