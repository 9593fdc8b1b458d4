"""What a config may hold, and what is said when it holds something else."""

import importlib.util
from pathlib import Path

import pytest

from bitsnn_jax.config import Config, differences, from_dict, to_dict
from bitsnn_jax.training.validation import validate

FILES = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))


def with_field(path, value):
    config = Config()
    *parents, name = path.split(".")
    owner = config
    for parent in parents:
        owner = getattr(owner, parent)
    setattr(owner, name, value)
    return config


def test_the_default_config_is_valid():
    validate(Config())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_config_file_is_valid_and_named_after_itself(file):
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    validate(config)
    assert config.name == file.stem


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "a/b"),
        ("seed", -1),
        ("steps", 0),
        ("steps", 31),
        ("data.name", "mnist-1"),
        ("data.crop", -1),
        ("data.batch_size", 0),
        ("data.eval_batch_size", 0),
        ("model.name", "resnet21"),
        ("model.num_classes", 0),
        ("model.width", 0.0),
        ("model.stem", "7x7"),
        ("model.pool", "avg"),
        ("model.levels", 0),
        ("model.theta_init", 0.0),
        ("model.theta_init", float("nan")),
        ("optimizer.learning_rate", float("inf")),
        ("optimizer.learning_rate", -0.1),
        ("optimizer.warmup_epochs", -1.0),
        ("optimizer.warmup_epochs", 20.0),
        ("optimizer.momentum", 1.0),
        ("optimizer.weight_decay", -1e-4),
        ("optimizer.epochs", 0),
        ("optimizer.name", "adam"),
        ("optimizer.schedule", "step"),
        ("optimizer.b2", 1.0),
        ("optimizer.b1", 0.8),  # of AdamW, and SGD is the default
        ("optimizer.epsilon", 0.0),
        ("optimizer.clip_norm", -1.0),
        ("loss.spike_lambda", -1e-8),
        ("loss.spike_target", 0.2),  # without a lambda
        ("loss.label_smoothing", 1.0),
        ("loss.distillation", 0.5),  # of no teacher
        ("loss.temperature", 2.0),
        ("data.max_length", 3),
        ("checkpoint_every_steps", -1),
        ("log_every_steps", 0),
        # Of another type.
        ("seed", 1.0),
        ("data.flip", 1),
        ("model.levels", True),
        ("optimizer.epochs", "3"),
        ("model", None),
        # No such field: plain Python would accept it.
        ("optimizer.lr", 0.1),
        ("data.batchsize", 64),
    ],
)
def test_a_field_out_of_range_is_named_in_one_line_with_its_value(field, value):
    with pytest.raises(ValueError) as caught:
        validate(with_field(field, value))
    message = str(caught.value)
    assert message.startswith(field)
    assert "\n" not in message
    assert repr(value) in message or "not a field" in message or "below" in message


def test_names_that_are_allowed_are_listed():
    with pytest.raises(ValueError, match="resnet18, resnet20, .*vgg16"):
        validate(with_field("model.name", "resnet21"))


def test_from_dict_is_the_inverse_of_to_dict():
    config = with_field("optimizer.learning_rate", 0.3)
    config.model.levels = 7
    assert from_dict(to_dict(config)) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"modle": {"levels": 3}}, "modle.levels is not a field"),
        ({"model": {"level": 3}}, "model.level is not a field"),
        ({"model": 3}, "model must be of type Model"),
        ({"model": {"levels": "3"}}, "model.levels must be of type int"),
    ],
)
def test_from_dict_rejects_what_it_does_not_know(values, message):
    with pytest.raises(ValueError, match=message):
        from_dict(values)


def test_differences_names_the_fields_that_change_the_training():
    saved = to_dict(Config())
    wanted = to_dict(with_field("optimizer.momentum", 0.8))
    assert differences(saved, wanted) == ["optimizer.momentum (0.9, now 0.8)"]
    # Where files are, or how often is logged, has no part in the outcome.
    wanted = to_dict(with_field("data.directory", "elsewhere"))
    wanted["log_every_steps"] = 7
    assert differences(saved, wanted) == []
    # A config that was saved before there was a field has its default.
    del saved["model"]["norm"], saved["task"]
    assert from_dict(saved) == Config()
    assert differences(saved, wanted) == []
    wanted["model"]["norm"] = "none"
    assert differences(saved, wanted) == ["model.norm ('batch', now 'none')"]
