"""A batch in parts gives what the whole batch gives."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitsnn_jax.config import Config, Loss, Model
from bitsnn_jax.models import build_model
from bitsnn_jax.runtime.devices import AXIS, data_parallel
from bitsnn_jax.tasks import TASKS
from bitsnn_jax.training import train_and_evaluate
from bitsnn_jax.training.accumulate import in_parts
from bitsnn_jax.training.optimizer import sgd
from bitsnn_jax.training.step import init_state, train_step

SHAPE = (8, 8, 1)
MODEL = Model(name="small", theta_init=2.0)
IMAGES = TASKS["image_classification"]
ROWS = 32  # of a device


def stepped(*, batch_norm, parts):
    """A step on two devices, and its arguments."""
    model = build_model(MODEL, image_shape=SHAPE, axis_name=AXIS)
    if not batch_norm:  # statistics as they are: each row by itself
        model = model.clone(
            norm=lambda use_running_average, name: nn.BatchNorm(
                use_running_average=True, name=name
            )
        )
    optimizer = sgd(Config().optimizer, steps_per_epoch=10)
    step = data_parallel(
        train_step(IMAGES, model, optimizer, Loss(), levels=15, accumulate=parts),
        in_axes=(0, 0, None),
        devices=jax.devices()[:2],
    )
    state = init_state(model, optimizer, jnp.zeros((1, *SHAPE)), jax.random.key(0))
    state = jax.tree.map(lambda x: np.broadcast_to(x, (2, *x.shape)), state)
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, ROWS, *SHAPE)).astype(np.float32)
    label = rng.integers(10, size=(2, ROWS)).astype(np.int32)
    return step, (state, {"image": image, "label": label}, jax.random.key(1))


@pytest.mark.parametrize("parts", [2, 4])
def test_a_step_in_parts_is_the_step_where_rows_are_by_themselves(parts):
    (whole, arguments), (cut, _) = (
        stepped(batch_norm=False, parts=n) for n in (1, parts)
    )
    (want, want_sums), (got, got_sums) = whole(*arguments), cut(*arguments)
    before = arguments[0].params["head"]["kernel"]
    assert np.abs(want.params["head"]["kernel"] - before).max() > 1e-4  # it moved
    # Means of 64 rows of order one in another order, in float32; the rate is 0.02.
    chex.assert_trees_all_close(got, want, atol=2e-6)
    chex.assert_trees_all_close(got_sums, want_sums, rtol=1e-5)
    assert got_sums.examples[0] == 2 * ROWS


def test_batch_norm_sees_the_statistics_of_each_part():
    x = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)

    def statistics(rows, key):
        return (rows.mean(0), rows.var(0)), len(rows)

    (mean, var), count = in_parts(statistics, x, jax.random.key(0), parts=3)
    means = x.reshape(3, 4, 3).mean(1)
    # float32 means of a dozen numbers of order one.
    np.testing.assert_allclose(mean, x.mean(0), atol=1e-6)
    np.testing.assert_allclose(var, x.var(0) - means.var(0), atol=1e-6)
    assert count == 12


def test_parts_draw_different_random_numbers():
    def draw(rows, key):
        return (), jax.random.uniform(key)

    key = jax.random.key(0)
    (_, one), (_, two) = (in_parts(draw, jnp.zeros(4), key, parts=n) for n in (1, 2))
    assert one == jax.random.uniform(key)  # as without parts
    assert two == sum(jax.random.uniform(k) for k in jax.random.split(key))


def test_parts_take_less_memory():
    def temporaries(parts):
        step, arguments = stepped(batch_norm=True, parts=parts)
        return step.lower(*arguments).compile().memory_analysis().temp_size_in_bytes

    whole, cut = temporaries(1), temporaries(8)
    # Activations shrink to an eighth; gradients are held twice.
    assert cut < whole / 2


def test_parts_must_be_equal(tmp_path):
    config = Config()
    config.model.name, config.data.eval_batch_size = "small", 36
    config.optimizer.accumulate = 3  # 64 rows over four devices are 16
    with pytest.raises(
        ValueError, match="optimizer.accumulate must divide the 16 rows"
    ):
        train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
