"""What each field of a config must be, checked before any device is touched."""

from bitsnn_jax.binary import binary_method
from bitsnn_jax.binary.chosen import check_model
from bitsnn_jax.config import (
    Config,
    Direct,
    Loss,
    Optimizer,
    check_types,
    flatten,
    to_dict,
)
from bitsnn_jax.direct import method_of
from bitsnn_jax.numerics.spikes import SURROGATES
from bitsnn_jax.tasks import TASKS, task_of


def validate(config: Config) -> None:
    """Check every field by itself; no device is touched.

    Choices are checked by `config.check_types`; names are those of the task and of
    `SURROGATES`. What depends on the data or on the machine (devices that share a
    batch) is checked where it is known, at the start of training.

    Raises:
      ValueError: the first field that is not as it should be: its name, what was
        expected and what came.
    """
    check_types(config)
    task = task_of(config)
    rules = _RULES | {
        "data.name": _one_of(task.sources),
        "model.name": _one_of(task.models),
        "loss.spike_surrogate": _one_of(SURROGATES),
    }
    for path, value in flatten(to_dict(config)).items():
        if isinstance(value, str):
            _check_text(path, value)
        expected, holds = rules.get(path, ("anything", lambda value: True))
        if not holds(value):
            raise ValueError(f"{path} must be {expected}, got {value!r}")
    _check_heeded(config.optimizer)
    _check_task(config, task)
    _check_direct(config)
    _check_binary(config)
    _check_teacher(config.loss)
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
    if config.loss.spike_lambda and config.model.activation not in _SPIKE:
        raise ValueError(
            f"loss.spike_lambda must be 0 for model.activation="
            f"{config.model.activation}, which has no spikes; got "
            f"{config.loss.spike_lambda}"
        )
    if config.loss.spike_target and not config.loss.spike_lambda:
        raise ValueError(
            "loss.spike_target must be 0 without a loss.spike_lambda, got "
            f"{config.loss.spike_target}"
        )


def _check_heeded(optimizer):
    """Refuse a value for a field that the optimiser does not look at."""
    for name, fields in _OF_OPTIMIZERS.items():
        for field in fields:
            value, default = getattr(optimizer, field), getattr(Optimizer, field)
            if name != optimizer.name and value != default:
                raise ValueError(
                    f"optimizer.{field} must be {default!r} for optimizer.name="
                    f"{optimizer.name}, got {value!r}: it is for {name}"
                )


def _check_task(config, task):
    """Refuse a value for a field that the task does not look at."""
    values, defaults = (flatten(to_dict(c)) for c in (config, Config()))
    for path in task.unheeded:
        if values[path] != defaults[path]:
            heeding = [t.noun for t in TASKS.values() if path not in t.unheeded]
            raise ValueError(
                f"{path} must be {defaults[path]!r} for {task.noun}, got "
                f"{values[path]!r}: it is for {' and '.join(heeding)}"
            )


def _check_direct(config):
    """Compare a method of direct training with the network that it is to train."""
    settings, activation = config.direct, config.model.activation
    if bool(settings.method) != (activation == "spiking"):
        raise ValueError(
            "model.activation must be spiking with direct.method, and not without, got "
            f"{activation} and {settings.method!r}"
        )
    if not settings.method:
        if changed := [f for f, v in vars(settings).items() if v != getattr(Direct, f)]:
            raise ValueError(f"direct.{changed[0]} needs a direct.method, got ''")
        return
    method = method_of(settings)
    for field, allowed in (("name", method.models), ("pool", method.pools)):
        value = getattr(config.model, field)
        if allowed and value not in allowed:
            raise ValueError(
                f"model.{field} must be one of {', '.join(allowed)} for direct.method="
                f"{method.name}, got {value}"
            )
    if method.needs_start and not config.start_from:
        raise ValueError(
            f"direct.method={method.name} goes on from a trained network: start_from "
            "must name a run, got ''"
        )


def _check_binary(config):
    """Compare a method of binary networks with the network that it is to train."""
    settings, model = config.binary, config.model
    if bool(settings.method) != (model.activation == "binary"):
        raise ValueError(
            "model.activation must be binary with binary.method, and not without, got "
            f"{model.activation} and {settings.method!r}"
        )
    if not settings.method:
        return
    method = binary_method(settings)
    check_model(settings, model)
    if model.dtype != "float32":
        raise ValueError(
            f"model.dtype must be float32 for binary.method={method.name}, got "
            f"{model.dtype}"
        )


def _check_teacher(loss):
    if bool(loss.teacher) != bool(loss.distillation):
        raise ValueError(
            "loss.distillation must be positive with loss.teacher, and 0 without, got "
            f"{loss.distillation} and {loss.teacher!r}"
        )
    if loss.temperature != Loss.temperature and not loss.teacher:
        raise ValueError(
            f"loss.temperature must be {Loss.temperature} without loss.teacher, got "
            f"{loss.temperature}"
        )


def _check_text(path, value):
    """Refuse names that others could not read in what is written about a run."""
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

_SPIKE = {"qcfs", "spiking"}  # activations whose bits can be counted

_OF_OPTIMIZERS = {"sgd": ("momentum",), "adamw": ("b1", "b2", "epsilon")}

# What a field must be, and whether a value is that; else its type decides.
_RULES = {
    "name": (
        "a name of at most 200 letters, without slashes",
        lambda v: v not in ("", ".", "..") and "/" not in v and len(v.encode()) <= 200,
    ),
    "seed": ("in 0..2**32 - 1", lambda value: 0 <= value < 2**32),
    "steps": ("in 1..30", lambda value: 1 <= value <= 30),
    "data.image_size": _within(0, 4096),
    "data.max_length": _within(4, 2**14),
    "data.crop": _within(0, 4096),
    "data.scale_jitter": _within(0, 10),
    "data.color_jitter": _BELOW_ONE,
    "data.cutout": _within(0, 4096),
    "data.workers": _within(0, 1024),
    "data.batch_size": _within(1, 2**17),
    "data.eval_batch_size": _within(1, 2**17),
    "model.num_classes": _within(1, 10**6),
    "model.width": _within(0.01, 64),
    "model.levels": ("in 1..2**30 - 1", lambda value: 1 <= value < 2**30),
    "model.theta_init": _positive(10**6),
    "model.dropout": _BELOW_ONE,
    "optimizer.learning_rate": _positive(1000),
    "optimizer.warmup_epochs": _within(0, 10**5),
    "optimizer.momentum": _BELOW_ONE,
    "optimizer.b1": _BELOW_ONE,
    "optimizer.b2": _BELOW_ONE,
    "optimizer.epsilon": _positive(1),
    "optimizer.weight_decay": _within(0, 1),
    "optimizer.clip_norm": _within(0, 10**6),
    "optimizer.epochs": _within(1, 10**5),
    "optimizer.accumulate": _within(1, 2**17),
    "loss.spike_lambda": _within(0, 10**6),
    "loss.spike_target": _within(0, 10**6),
    "loss.label_smoothing": _BELOW_ONE,
    "loss.distillation": _within(0, 1),
    "loss.temperature": _positive(1000),
    "checkpoint_every_steps": _within(0, 2**31 - 1),
    "log_every_steps": _within(1, 2**31 - 1),
}
