"""What a run is: typed, nested dataclasses. `training.validation` checks their values.

A config file (`configs/*.py`) has a `get_config()` that returns a `Config`. Fields are
set on the command line as `--config.optimizer.epochs=3`. The choices of a field stand
in its type, and nowhere else.
"""

import dataclasses
import os
import traceback
import types
from dataclasses import dataclass, field
from functools import reduce
from importlib.util import decode_source
from inspect import signature
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

Activation = Literal[
    "qcfs",
    "clipped_relu",
    "slip_relu",
    "step_relu",
    "rate_norm",
    "relu",
    "relu6",
    "gelu",
    "spiking",
    "binary",
]
DType = Literal["float32", "bfloat16"]
Stem = Literal["cifar", "imagenet"]
Pyramid = Literal["spikes", "currents"]

# Fields that may change between a run and its continuation: they train the same.
_WITHOUT_EFFECT = {
    "name",
    "data.directory",
    "data.vocabulary",
    "data.eval_batch_size",
    "data.workers",
    "checkpoint_every_steps",
    "log_every_steps",
}


@dataclass
class Data:
    """Which examples, and how they are augmented."""

    name: str = "digits"  # one of the sources of the task
    directory: str = ""  # where the files are; "" for sets that need none
    image_size: int = 0  # side that images of any size are brought to; 0: as stored
    max_length: int = 64  # word pieces of a sentence or a pair; longer ones are cut
    vocabulary: str = ""  # vocab.txt of the word pieces
    unreadable: Literal["error", "skip"] = "error"  # what to do with a damaged example
    # Of images, in training only, in this order:
    random_resized_crop: bool = False  # of 8 to 100 % of the area, to image_size
    crop: int = 0  # random crop after padding by this many pixels
    flip: bool = False  # random horizontal flip
    # Of pictures with boxes: scaled by 1 / (1 + s) .. 1 + s, then cropped or padded.
    scale_jitter: float = 0.0
    autoaugment: bool = False  # the policy found on CIFAR-10
    color_jitter: float = 0.0  # of brightness, contrast and saturation
    cutout: int = 0  # side of a square that is blanked out
    workers: int = 0  # processes that decode and augment; 0: threads of this one
    batch_size: int = 64  # over all devices of all hosts
    eval_batch_size: int = 200


@dataclass
class Model:
    """Which network, and its activations."""

    name: str = "resnet20"  # one of the models of the task
    num_classes: int = 10
    width: float = 1.0  # multiplies the channels of every layer
    # The first five have a theta. spiking: the neurons of direct.method; binary: the
    # signs of binary.method
    activation: Activation = "qcfs"
    stem: Stem = "cifar"  # full resolution, or reduced at once
    pool: Literal["average", "max"] = "average"
    # none, of VGG-16: biases instead; layer, of transformers: LayerNorm
    norm: Literal["batch", "none", "layer"] = "batch"
    levels: int = 15  # 2**T - 1 converts without loss at T steps
    theta_init: float = 8.0
    per_channel: bool = False  # one theta a channel in place of one a layer
    bottleneck: Literal["linear", "qcfs"] = "linear"  # of MobileNetV2; qcfs: all spikes
    dtype: DType = "float32"  # of convolutions; QCFS and norms stay wide
    # Of transformers: the function in front of the hidden code of activation="qcfs";
    # relu is of scores divided by the number of tokens.
    hidden_act: Literal["gelu", "relu"] = "gelu"
    attention: Literal["softmax", "relu"] = "softmax"
    dropout: float = 0.0
    # Of detectors: what the maps that the heads look at are; a norm inside the heads.
    pyramid: Pyramid = "spikes"
    head_norm: Literal["none", "batch"] = "none"


@dataclass
class Optimizer:
    """What turns gradients into updates, and how far they go."""

    name: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.02  # at its peak
    schedule: Literal["cosine", "linear"] = "cosine"  # from the peak to 0
    warmup_epochs: float = 0.0  # in which the rate rises from 0 to its peak
    momentum: float = 0.9  # of SGD
    b1: float = 0.9  # of AdamW: its mean gradient
    b2: float = 0.999  # of AdamW: its mean squared gradient
    epsilon: float = 1e-8  # of AdamW
    # SGD: part of the gradient, of every parameter. AdamW: apart from it, of weights.
    weight_decay: float = 5e-4
    clip_norm: float = 0.0  # largest norm of the whole gradient; 0: any
    epochs: int = 20
    accumulate: int = 1  # parts that a device works a batch off in, one by one


@dataclass
class Loss:
    """The loss of the task plus the bit-sparsity loss, Eq. (11)."""

    # Weight of the spikes of an example; the loss is averaged over the batch. The
    # authors' code sums the paper's 1e-8 over a batch of 128, which is 1.28e-6 here.
    spike_lambda: float = 0.0
    spike_surrogate: str = "paper"  # a name in spikes.SURROGATES
    spike_weights: Literal["neurons", "fan_out"] = "neurons"  # 1 each, or its synapses
    spike_target: float = 0.0  # spikes a neuron that an example sends at no cost
    label_smoothing: float = 0.0
    boxes: Literal["smooth_l1", "giou"] = "smooth_l1"  # loss of the offsets of boxes
    teacher: str = ""  # run of a network that this one is to answer like; "" for none
    distillation: float = 0.0  # share of the loss that is distance from the teacher
    temperature: float = 1.0  # that both networks' logits are divided by for it


@dataclass
class Direct:
    """Training through time, of a network that spikes from the beginning."""

    method: str = ""  # a name in direct.METHODS; "" for a network to convert
    surrogate: str = ""  # a name in direct.SURROGATES; "" for that of the method
    # What the backward pass computes again: nothing, what a neuron did in each step, or
    # all of a layer but its spikes.
    remat: Literal["none", "step", "layer"] = "none"
    unroll: bool = True  # write T steps out in the program, in place of a loop


@dataclass
class Binary:
    """A network of signs, which is no spiking network and does not become one."""

    method: str = ""  # a name in binary.METHODS; "" for any other network


@dataclass
class Config:
    """One run."""

    name: str = "digits_resnet"
    seed: int = 0
    steps: int = 4  # T of the conversion that the run is made for, or of direct.method
    task: str = "image_classification"  # a name in tasks.TASKS
    # Run, or folder of Hugging Face's, whose network training starts from; "": random.
    start_from: str = ""
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    optimizer: Optimizer = field(default_factory=Optimizer)
    loss: Loss = field(default_factory=Loss)
    direct: Direct = field(default_factory=Direct)
    binary: Binary = field(default_factory=Binary)
    checkpoint_every_steps: int = 0  # 0: at the end of each epoch
    log_every_steps: int = 20


def to_dict(config: Config) -> dict:
    """Return nested dictionaries of plain values, as saved beside a checkpoint."""
    return dataclasses.asdict(config)


def from_dict(values: dict) -> Config:
    """Return the config of `to_dict`. A field that is not there keeps its default.

    Raises:
      ValueError: a field that is unknown, or a value of the wrong type.

    >>> from_dict({"seed": 3, "model": {"levels": 7}}).model.levels
    7
    """
    config = Config()
    for path, value in flatten(values).items():
        *parents, name = path.split(".")
        owner = reduce(lambda part, key: getattr(part, key, None), parents, config)
        if name not in getattr(owner, "__dataclass_fields__", ()):
            raise ValueError(f"{path} is not a field of a config")
        setattr(owner, name, value)
    check_types(config)
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
        refused = (
            argument and callable(get_config) and not signature(get_config).parameters
        )
        config = get_config(*argument) if callable(get_config) and not refused else None
    except (Exception, SystemExit) as error:
        lines = [f.lineno for f in _frames(error) if f.filename == file]
        place = f" in line {lines[-1]}" if lines else ""
        raise ValueError(
            f"{file} cannot be run ({type(error).__name__}{place}: {error!s:.200}): "
            f"expected {_A_CONFIG_FILE}"
        ) from error
    if refused:
        raise ValueError(
            f"{path}: expected a file whose get_config() takes a text, as "
            f"configs/direct/fashion_mnist.py is one; leave out :{argument[0]}"
        )
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
    """List the fields in which two configs, as dictionaries, would train differently.

    One that is not there has its default: the config was saved before there was one.

    >>> differences({"seed": 0, "name": "a"}, {"seed": 1, "name": "b"})
    ['seed (0, now 1)']
    """
    defaults = flatten(to_dict(Config()))
    saved, wanted = defaults | flatten(saved), defaults | flatten(wanted)
    # T is of the conversion, if it is not trained with.
    without = _WITHOUT_EFFECT if saved["direct.method"] else _WITHOUT_EFFECT | {"steps"}
    return [
        f"{path} ({saved.get(path)!r}, now {wanted.get(path)!r})"
        for path in sorted((saved.keys() | wanted.keys()) - without)
        if saved.get(path) != wanted.get(path)
    ]


def flatten(values: dict, prefix: str = "") -> dict[str, Any]:
    """Return the values of nested dictionaries by their paths, as in "model.levels"."""
    flat = {}
    for key, value in values.items():
        nested = isinstance(value, dict)
        flat |= flatten(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return flat


def check_types(part: Any, prefix: str = "") -> None:
    """Compare the fields of a config with their types, choices included.

    Args:
      part: a `Config`, or one of the dataclasses in it.
      prefix: of the names of its fields in messages.

    Raises:
      ValueError: the first field that has another type, or is none of its choices; or
        an attribute that is no field.
    """
    for name, expected in get_type_hints(type(part)).items():
        value = getattr(part, name)
        _check_type(prefix + name, value, expected)
        if dataclasses.is_dataclass(value):
            check_types(value, f"{prefix}{name}.")
    # Python would take `config.model.level = 3` without a word.
    for name in vars(part).keys() - part.__dataclass_fields__.keys():
        raise ValueError(f"{prefix}{name} is not a field of a config")


def _check_type(path, value, expected):
    if get_origin(expected) is Literal:
        choices = get_args(expected)
        if not (isinstance(value, str) and value in choices):
            raise ValueError(
                f"{path} must be one of {', '.join(sorted(choices))}; got {value!r}"
            )
        return
    # A whole number is a fine float, but True is no number.
    allowed = (int, float) if expected is float else expected
    wrong_bool = isinstance(value, bool) and expected is not bool
    if wrong_bool or not isinstance(value, allowed):
        raise ValueError(f"{path} must be of type {expected.__name__}, got {value!r}")
