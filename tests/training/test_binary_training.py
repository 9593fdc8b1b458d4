"""Binary networks in the loop of the house: devices, penalties, what does not move."""

from functools import cache
from typing import Any

import chex
import flax.linen as nn
import jax
import numpy as np
import pytest

from bitsnn_jax.binary import sakr
from bitsnn_jax.binary.layers import MaskedConv, NormSign
from bitsnn_jax.binary.sakr import DECAY, ClipStep
from bitsnn_jax.config import Binary, Config, Loss, Model, Optimizer
from bitsnn_jax.numerics.layers import batch_norm
from bitsnn_jax.runtime.devices import AXIS, data_parallel
from bitsnn_jax.tasks import task_of
from bitsnn_jax.training.optimizer import make_optimizer
from bitsnn_jax.training.step import init_state, train_step
from bitsnn_jax.training.validation import validate


class Tiny(nn.Module):
    """A masked layer, signs, and a clip that becomes a step."""

    @nn.compact
    def __call__(self, x: Any, *, train: bool, progress: Any = 1.0):
        x = MaskedConv(3, 1, analog=True, name="conv")(x)
        x = NormSign(batch_norm(axis_name=AXIS), name="act")(x, train=train)
        x = nn.Dense(4)(x[:, 0, 0])
        return nn.Dense(3)(ClipStep(until=0.5, name="clip")(x, progress=progress))


@cache
def trained(*, devices):
    """The state before and after a step of 8 examples, and its metrics."""
    config, model = Config(), Tiny()
    optimizer = make_optimizer(Optimizer(weight_decay=0.1), steps_per_epoch=10)
    placeholder = np.zeros((1, 1, 1, 4), np.float32)
    before = init_state(model, optimizer, placeholder, jax.random.key(0))
    step = train_step(
        task_of(config), model, optimizer, Loss(), levels=15, steps=4, binary=True
    )
    mapped = data_parallel(step, in_axes=(0, 0, None), devices=jax.devices()[:devices])
    state = jax.tree.map(lambda x: np.stack([x] * devices), before)
    rng = np.random.default_rng(0)
    image = rng.normal(size=(devices, 8 // devices, 1, 1, 4)).astype(np.float32)
    label = (np.arange(8, dtype=np.int32) % 3).reshape(devices, -1)
    found = mapped(state, {"image": image, "label": label}, jax.random.key(1))
    return before, *jax.tree.map(lambda x: np.asarray(x)[0], found)


@pytest.mark.slow
def test_four_devices_train_as_one_does():
    _, *one = trained(devices=1)
    _, *four = trained(devices=4)
    # Means of 8 examples in another order.
    chex.assert_trees_all_close(four, one, rtol=1e-5, atol=1e-6)


def test_a_frozen_kernel_stays_whatever_the_decay_and_its_scores_move():
    before, after, _ = trained(devices=1)
    for name in ("frozen", "scores"):
        moved = after.params["conv"][name] != before.params["conv"][name]
        assert moved.any() == (name == "scores"), name


def test_a_penalty_is_part_of_the_loss(monkeypatch):
    _, _, metrics = trained(devices=1)
    monkeypatch.setattr(sakr, "DECAY", 1.0)
    _, _, dearer = trained.__wrapped__(devices=1)
    # m starts at 1, so its square is 1.
    more = float(dearer.loss - metrics.loss) / 8
    assert more == pytest.approx(1 - DECAY, rel=1e-5)


def wrong(**fields):
    config = Config(
        model=Model(name="small", activation="binary"), binary=Binary(method="xnor")
    )
    for path, value in fields.items():
        part, _, name = path.partition("_of_")
        setattr(getattr(config, name), part, value)
    return config


WRONG = [
    ({"method_of_binary": "xnorr"}, "binary.method must be one of meliusnet, multi_pr"),
    ({"method_of_binary": ""}, "must be binary with binary.method, and not without"),
    ({"activation_of_model": "qcfs"}, "and not without, got qcfs and 'xnor'"),
    ({"name_of_model": "vgg16"}, "model.name must be small for binary.method=xnor"),
    ({"dtype_of_model": "bfloat16"}, "model.dtype must be float32 for binary.method="),
    ({"method_of_direct": "tet"}, "must be spiking with direct.method, and not"),
    ({"spike_lambda_of_loss": 1e-6}, "loss.spike_lambda must be 0 for model.activatio"),
    ({"name_of_data": "nosuch"}, "data.name must be one of"),
]


@pytest.mark.parametrize(("fields", "line"), WRONG, ids=[line for _, line in WRONG])
def test_what_does_not_fit_a_binary_network_is_one_line(fields, line):
    validate(wrong())
    with pytest.raises(ValueError, match=line.replace("(", r"\(")) as error:
        validate(wrong(**fields))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("task", ["sentence_classification", "detection"])
def test_other_tasks_have_no_binary_networks(task):
    from bitsnn_jax.models import DETECTORS, TEXT_MODELS

    config = wrong()
    config.task = task
    models = TEXT_MODELS if task.startswith("sentence") else DETECTORS
    config.model.name, config.data.name = (
        next(iter(models)),
        ("sst2" if task.startswith("sentence") else "coco"),
    )
    with pytest.raises(ValueError, match=r"binary\.method must be '' for"):
        validate(config)
