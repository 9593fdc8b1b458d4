"""The training step against its equations, and the loop against its promises."""

import json

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitsnn_jax import data
from bitsnn_jax.config import Config, Loss, Optimizer
from bitsnn_jax.models import build_model
from bitsnn_jax.numerics.layers import QCFS
from bitsnn_jax.runs.checkpoint import CheckpointError, Checkpoints, load_run
from bitsnn_jax.runtime.devices import AXIS, data_parallel
from bitsnn_jax.tasks import TASKS
from bitsnn_jax.training import train_and_evaluate
from bitsnn_jax.training.log import metrics_log
from bitsnn_jax.training.metrics import Metrics, Window
from bitsnn_jax.training.optimizer import (
    THETA_FLOOR,
    keep_theta_positive,
    learning_rate,
    make_optimizer,
    sgd,
)
from bitsnn_jax.training.step import (
    eval_step,
    init_state,
    train_step,
)

SHAPE = (8, 8, 1)
IMAGES = TASKS["image_classification"]
LEVELS = 15


# Metrics


counts = st.integers(0, 1000).map(float)


@given(st.lists(st.tuples(counts, counts, counts, counts, counts), max_size=6))
def test_metrics_merge_to_the_same_total_however_they_are_grouped(rows):
    parts = [
        Metrics(loss, examples, {"correct": correct}, spikes, neurons)
        for loss, examples, correct, spikes, neurons in rows
    ]
    total = Metrics.merge(*parts)
    for cut in range(len(parts) + 1):
        left, right = Metrics.merge(*parts[:cut]), Metrics.merge(*parts[cut:])
        # Exact: whole numbers far below 2**53.
        assert Metrics.merge(right, left) == total
    assert Metrics.merge(total, Metrics()) == total


def test_the_mean_of_unequal_batches_weighs_examples_and_not_batches():
    full = Metrics(loss=8.0, counts={"correct": 4.0}, examples=4.0)
    rest = Metrics(loss=0.0, counts={"correct": 0.0}, examples=1.0)
    # 8 / 5 and 4 / 5; the mean of means would be 1 and 1/2.
    means = Metrics.merge(full, rest).compute(IMAGES.measures)
    assert means == {"loss": 1.6, "accuracy": 0.8}


def on_device(loss):
    metrics = Metrics(loss=loss, counts={"correct": 1.0}, examples=2.0)
    return jax.tree.map(lambda x: jnp.full(1, x), metrics)


def test_a_window_writes_each_step_once_and_one_behind():
    lines = []
    window = Window(
        lambda step, means: lines.append((step, means["loss"])),
        IMAGES.measures,
        every=2,
    )
    for step, loss in enumerate([2.0, 4.0, 6.0], start=1):
        window.push(step, on_device(loss))
    assert lines == [(2, 1.5)]  # (2 + 4) / (2 + 2); step 3 is still in flight
    window.push(4, on_device(8.0))
    window.push(5, on_device(10.0))
    window.flush()
    assert lines == [(2, 1.5), (4, 3.5), (5, 5.0)]
    window.flush()
    assert len(lines) == 3


@pytest.mark.parametrize("loss", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_is_named_by_its_step(loss):
    window = Window(lambda step, means: None, IMAGES.measures, every=10)
    window.push(7, on_device(1.0))
    window.push(8, on_device(loss))
    with pytest.raises(FloatingPointError, match="the loss of step 8 is"):
        window.push(9, on_device(1.0))


# Optimiser


def test_the_rate_rises_linearly_and_falls_to_zero_along_a_cosine():
    rate = learning_rate(
        Optimizer(learning_rate=0.4, epochs=6, warmup_epochs=2.0), steps_per_epoch=5
    )
    # Ten steps up, twenty down; half-way down is half the peak. float32.
    want = {0: 0.0, 5: 0.2, 10: 0.4, 20: 0.2, 30: 0.0}
    got = [float(rate(step)) for step in want]
    np.testing.assert_allclose(got, list(want.values()), atol=1e-7)


def test_sgd_is_momentum_on_gradient_plus_decay():
    config = Optimizer(learning_rate=0.1, momentum=0.9, weight_decay=0.01, epochs=4)
    optimizer = sgd(config, steps_per_epoch=1)
    params = {"kernel": jnp.array([1.0, -2.0]), "scale": jnp.array([3.0])}
    state = optimizer.init(params)
    p, m = np.array([1.0, -2.0, 3.0]), np.zeros(3)
    for step in range(4):
        g = np.array([0.5, -1.0, 2.0]) * (step + 1)
        grads = {"kernel": jnp.array(g[:2]), "scale": jnp.array(g[2:])}
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        m = 0.9 * m + g + 0.01 * p
        p = p - 0.05 * (1 + np.cos(np.pi * step / 4)) * m
    got = np.concatenate([params["kernel"], params["scale"]])
    np.testing.assert_allclose(got, p, rtol=1e-5)  # float32, a dozen operations


def test_the_rate_may_fall_to_zero_along_a_line():
    settings = Optimizer(
        learning_rate=0.4, epochs=6, warmup_epochs=2.0, schedule="linear"
    )
    rate = learning_rate(settings, steps_per_epoch=5)
    want = {0: 0.0, 5: 0.2, 10: 0.4, 15: 0.3, 30: 0.0}
    got = [float(rate(step)) for step in want]
    np.testing.assert_allclose(got, list(want.values()), atol=1e-7)


def test_adamw_is_adam_and_a_decay_of_weights_alone():
    settings = Optimizer(
        name="adamw", learning_rate=0.1, weight_decay=0.01, epochs=4, schedule="linear"
    )
    optimizer = make_optimizer(settings, steps_per_epoch=1)
    names = ("kernel", "embedding", "bias", "scale", "theta", "vector")
    decay = np.array([0.01, 0.01, 0, 0, 0, 0])[:, None, None]
    p = np.arange(1.0, 13.0).reshape(6, 1, 2)  # heads have a bias of two axes
    params = dict(zip(names, jnp.array(p), strict=True))
    params["vector"] = params["vector"][0]
    state = optimizer.init(params)
    m, v = np.zeros_like(p), np.zeros_like(p)
    for step in range(1, 4):
        g = step * np.linspace(-1, 2, 12).reshape(6, 1, 2)
        grads = dict(zip(names, jnp.array(g), strict=True))
        grads["vector"] = grads["vector"][0]
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        adam = (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
        p = p - 0.1 * (1 - (step - 1) / 4) * (adam + decay * p)
    got = np.stack([params[name].reshape(1, 2) for name in names])
    np.testing.assert_allclose(got, p, rtol=1e-5)  # float32, a dozen operations


def test_a_gradient_is_clipped_as_a_whole_and_a_short_one_not_at_all():
    settings = Optimizer(learning_rate=1.0, momentum=0.0, weight_decay=0.0)
    settings.clip_norm = 5.0
    optimizer = make_optimizer(settings, steps_per_epoch=1)
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    for scale in (0.5, 2.0):  # of a gradient of norm 5
        grads = {"a": jnp.array([3 * scale]), "b": jnp.array([4 * scale])}
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
        want = -min(scale, 1) * np.array([3, 4])
        got = np.concatenate([updates["a"], updates["b"]])
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_the_projection_keeps_theta_positive_and_nothing_else():
    params = {
        "act": {"theta": jnp.array([0.5, 2.0])},
        "theta_like": {"kernel": jnp.array([0.5, 2.0])},
    }
    updates = jax.tree.map(lambda p: jnp.array([-3.0, -1.0]), params)
    optimizer = keep_theta_positive()
    projected, _ = optimizer.update(updates, optimizer.init(params), params)
    moved = optax.apply_updates(params, projected)
    # p + (floor - p) rounds in float32.
    np.testing.assert_allclose(
        moved["act"]["theta"], [THETA_FLOOR, 1.0], atol=2 * np.finfo(np.float32).eps
    )
    np.testing.assert_array_equal(moved["theta_like"]["kernel"], [-2.5, 1.0])


# Steps


class Tiny(nn.Module):
    """One QCFS layer between two dense ones, used twice."""

    @nn.compact
    def __call__(self, x, *, train):
        act = QCFS(levels=LEVELS, theta_init=1.0, name="act")
        x = act(nn.Dense(6, name="first")(x))
        x = act(nn.Dense(6, name="second")(x))
        return nn.Dense(3, name="head")(x)


def tiny_batch(n=8):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(1, n, 5)).astype(np.float32)
    label = rng.integers(3, size=(1, n)).astype(np.int32)
    return {"image": image, "label": label}


def replicate(tree, n):
    return jax.tree.map(lambda x: np.broadcast_to(x, (n, *np.shape(x))), tree)


def first(tree):
    return jax.tree.map(lambda x: np.asarray(x)[0], tree)


def run_steps(model, state, batches, loss, *, devices, config=None, task=IMAGES):
    config = config or Optimizer(
        learning_rate=1.0, momentum=0.0, weight_decay=0.0, epochs=10**6
    )
    step = data_parallel(
        train_step(task, model, sgd(config, steps_per_epoch=1), loss, levels=LEVELS),
        in_axes=(0, 0, None),
        devices=jax.devices()[:devices],
    )
    state, total = replicate(state, devices), Metrics()
    for batch in batches:
        state, metrics = step(state, batch, jax.random.key(1))
        total = Metrics.merge(total, first(metrics))
    return first(state), total


@pytest.mark.parametrize("spike_lambda, target", [(0.0, 0), (0.05, 0), (0.05, 0.8)])
def test_the_step_descends_the_gradient_of_eq_11(spike_lambda, target):
    model, batch = Tiny(), tiny_batch()
    optimizer = sgd(Optimizer(), steps_per_epoch=1)
    state = init_state(model, optimizer, jnp.zeros((1, 5)), jax.random.key(0))
    x, labels = batch["image"][0], batch["label"][0]

    def by_hand(params):
        """Mean of CE, and of the spikes by their surrogate: T per unit of a inside.

        Of the examples that send `target` spikes a neuron or more.
        """
        logits, sown = model.apply(
            {"params": params}, x, train=True, mutable=["activations"]
        )
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
        spikes = sum(
            jnp.where((a > 0) & (a < theta), 4 * a, 0).sum(1)
            for a, theta in sown["activations"]["act"]["a"]
        )
        return (-picked.sum() + spike_lambda * spikes[many].sum()) / len(x)

    _, sown = model.apply(
        {"params": state.params}, x, train=True, mutable=["activations"]
    )
    sent = sum(
        np.bitwise_count(np.rint(a * LEVELS / theta).astype(int)).sum(1)
        for a, theta in sown["activations"]["act"]["a"]
    )
    many = sent >= target * 12  # neurons
    assert 0 < many.sum() < len(x) or target == 0
    grads = jax.grad(by_hand)(state.params)
    want = jax.tree.map(lambda p, g: p - g, state.params, grads)
    # keep_theta_positive has no part in this: both thetas stay far above its floor.
    assert want["act"]["theta"] > 0.5
    loss = Loss(spike_lambda=spike_lambda, spike_target=target)
    got, _ = run_steps(model, state, [batch], loss, devices=1)
    assert got.step == 1
    # float32 sums of 8 x 12 terms of order one, in another order.
    chex.assert_trees_all_close(got.params, want, atol=2e-6)


def test_the_reported_loss_is_cross_entropy_plus_lambda_spikes_per_example():
    model, batch = Tiny(), tiny_batch()
    state = init_state(
        model, sgd(Optimizer(), steps_per_epoch=1), jnp.zeros((1, 5)), jax.random.key(0)
    )
    _, plain = run_steps(model, state, [batch], Loss(), devices=1)
    _, sparse = run_steps(model, state, [batch], Loss(spike_lambda=0.1), devices=1)
    assert plain.neurons == 0  # not counted where they are no part of the loss
    assert sparse.neurons == 8 * 2 * 6
    assert 0 < sparse.spikes < 4 * sparse.neurons
    np.testing.assert_allclose(
        sparse.loss, plain.loss + 0.1 * sparse.spikes, rtol=1e-6
    )  # float32


def test_label_smoothing_moves_the_target_towards_all_classes():
    model, batch = Tiny(), tiny_batch()
    state = init_state(
        model, sgd(Optimizer(), steps_per_epoch=1), jnp.zeros((1, 5)), jax.random.key(0)
    )
    logits = model.apply({"params": state.params}, batch["image"][0], train=True)
    target = 0.7 * np.eye(3)[batch["label"][0]] + 0.1
    want = -(target * jax.nn.log_softmax(logits)).sum()
    _, got = run_steps(model, state, [batch], Loss(label_smoothing=0.3), devices=1)
    np.testing.assert_allclose(got.loss, want, rtol=1e-6)  # float32


def test_a_taught_loss_is_a_mean_of_labels_and_distance_from_the_teacher():
    model, batch = Tiny(), tiny_batch()
    optimizer = sgd(Optimizer(), steps_per_epoch=1)
    state, other = (
        init_state(model, optimizer, jnp.zeros((1, 5)), jax.random.key(seed))
        for seed in (0, 1)
    )

    def teacher(variables, x):
        return model.apply({"params": variables["params"]}, x, train=False)

    x, labels = batch["image"][0], batch["label"][0]
    ours, theirs = (np.asarray(teacher(s.variables, x), float) for s in (state, other))
    p, q = (np.exp(z / 2) / np.exp(z / 2).sum(1, keepdims=True) for z in (theirs, ours))
    distance = 4 * (p * np.log(p / q)).sum()
    cross_entropy = -jax.nn.log_softmax(ours)[np.arange(len(x)), labels].sum()
    loss = Loss(teacher="a", distillation=0.25, temperature=2.0)
    step = data_parallel(
        train_step(IMAGES, model, optimizer, loss, levels=LEVELS, teacher=teacher),
        in_axes=(0, 0, None, 0),
        devices=jax.devices()[:1],
    )
    variables = replicate(other.variables, 1)
    _, got = step(replicate(state, 1), batch, jax.random.key(1), variables)
    want = 0.75 * cross_entropy + 0.25 * distance
    np.testing.assert_allclose(got.loss[0], want, rtol=1e-5)  # float32
    # Two ways to the same logarithm, in float32.
    np.testing.assert_allclose(IMAGES.distance(ours, ours, loss), 0, atol=1e-6)


def small(**fields):
    config = Config(name="test", log_every_steps=5)
    config.model.name = "small"
    config.data.batch_size, config.data.eval_batch_size = 64, 36
    config.optimizer.epochs = 2
    for path, value in fields.items():
        part, _, name = path.rpartition("__")
        setattr(getattr(config, part) if part else config, name, value)
    return config


def test_four_devices_train_as_one_does():
    config = small()
    model = build_model(config.model, image_shape=SHAPE, axis_name=AXIS)
    optimizer = sgd(config.optimizer, steps_per_epoch=10)
    state = init_state(model, optimizer, jnp.zeros((1, *SHAPE)), jax.random.key(0))
    examples = data.load(config.data, "train")
    stream = data.train_batches(config.data, examples, seed=0)
    batches = [next(stream) for _ in range(3)]
    results = {}
    for n in (1, 4):
        split = [
            {k: v.reshape(n, -1, *v.shape[1:]) for k, v in batch.items()}
            for batch in batches
        ]
        results[n] = run_steps(
            model,
            state,
            split,
            Loss(spike_lambda=1e-6),
            devices=n,
            config=config.optimizer,
            task=IMAGES.on(examples),
        )
    (one, one_total), (four, four_total) = results[1], results[4]
    # Means of 64 examples in another order, three steps; the codes are the same.
    chex.assert_trees_all_close(four.variables, one.variables, atol=1e-5)
    chex.assert_trees_all_close(four.opt_state, one.opt_state, atol=1e-5)
    assert four_total.spikes == one_total.spikes
    assert four_total.examples == one_total.examples == 3 * 64
    np.testing.assert_allclose(four_total.loss, one_total.loss, rtol=1e-5)


def test_rows_that_are_masked_count_for_nothing():
    model, batch = Tiny(), tiny_batch()
    state = init_state(
        model, sgd(Optimizer(), steps_per_epoch=1), jnp.zeros((1, 5)), jax.random.key(0)
    )
    step = data_parallel(
        eval_step(IMAGES, model, levels=LEVELS), devices=jax.devices()[:1]
    )
    variables = replicate(state.variables, 1)
    mask = np.arange(8)[None] < 5
    batch["image"][:, 5:] = 7.0
    got, rows = first(step(variables, {**batch, "mask": mask}))
    batch = {name: x[:, :5] for name, x in batch.items()}
    want, _ = first(step(variables, {**batch, "mask": mask[:, :5]}))
    assert rows[0] == {} and got.examples == 5
    # Sums of the same numbers and zeros, in float32, perhaps in another order.
    chex.assert_trees_all_close(got, want, rtol=1e-6)


# The loop


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained")
    return workdir, train_and_evaluate(small(), workdir)


def lines_of(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").open()]


def test_the_result_is_the_best_checkpoint_on_every_test_example(trained):
    workdir, result = trained
    assert json.loads((workdir / "result.json").read_text()) == result
    run = load_run(workdir)
    model = build_model(run.config.model, image_shape=SHAPE)
    test = data.load(run.config.data, "test")
    images = data.normalise(test.images, test)
    logits = jax.jit(lambda v, x: model.apply(v, x, train=False))(run.variables, images)
    # 360 examples in batches of 36 on four devices; accuracy is a count of labels.
    assert result["test"]["accuracy"] == (logits.argmax(-1) == test.labels).mean()
    assert (result["step"], result["seed"]) == (run.step, 0)
    assert result["num_devices"] == jax.device_count()


def test_the_choice_is_made_on_the_validation_split(trained):
    workdir, result = trained
    validation = [row for row in lines_of(workdir) if row["split"] == "validation"]
    best = max(validation, key=lambda row: (row["accuracy"], row["step"]))
    assert result["step"] == best["step"]
    assert result["validation_accuracy"] == best["accuracy"]
    assert {row["split"] for row in lines_of(workdir)} == {"train", "validation"}


def test_a_finished_run_is_not_trained_or_tested_again(trained, monkeypatch):
    workdir, result = trained
    before = (workdir / "metrics.jsonl").read_bytes()
    monkeypatch.setattr(data.TrainBatches, "__next__", None)  # any batch would fail
    monkeypatch.setattr(data, "eval_batches", None)
    assert train_and_evaluate(small(), workdir) == result
    assert (workdir / "metrics.jsonl").read_bytes() == before


def test_a_run_with_another_config_is_not_continued(trained):
    workdir, _ = trained
    with pytest.raises(CheckpointError, match=r"optimizer.epochs \(2, now 3\)"):
        train_and_evaluate(small(optimizer__epochs=3), workdir)


def test_a_loss_that_is_not_finite_stops_and_leaves_the_last_good_checkpoint(
    tmp_path, monkeypatch
):
    class Poisoned:
        """Batches whose 25th has a pixel that is not a number."""

        def __init__(self, *args, **kwargs):
            self.batches, self.step = train_batches(*args, **kwargs), 0

        def __next__(self):
            self.step += 1
            batch = next(self.batches)
            if self.step == 25:
                # Pixels have no such number; floats are taken as they are.
                batch["image"] = np.full(batch["image"].shape, np.nan, np.float32)
            return batch

        def get_state(self):
            return self.batches.get_state()

        def close(self):
            self.batches.close()

    train_batches = data.train_batches
    monkeypatch.setattr(data, "train_batches", Poisoned)
    with pytest.raises(FloatingPointError, match="the loss of step 25 is nan"):
        train_and_evaluate(small(checkpoint_every_steps=12), tmp_path)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest == 24
    assert load_run(tmp_path).step == 20  # the end of an epoch: it was evaluated
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data__batch_size": 62}, "data.batch_size .* multiple of the 4 devices"),
        ({"data__eval_batch_size": 9}, "data.eval_batch_size .* of the 4 devices"),
        ({"model__num_classes": 7}, "model.num_classes must be 10"),
        ({"model__name": "large"}, "model.name must be one of"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_written(
    tmp_path, fields, message
):
    with pytest.raises(ValueError, match=message):
        train_and_evaluate(small(**fields), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@settings(max_examples=25)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(0, 30))
def test_a_resumed_log_has_the_steps_up_to_the_checkpoint_and_no_more(
    tmp_path_factory, steps, restored
):
    workdir = tmp_path_factory.mktemp("log")
    with metrics_log(workdir, step=0) as write:
        for step in steps:
            write(step, "train", {"loss": 1.0})
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1, "sp')  # killed in the middle of a line
    with metrics_log(workdir, step=restored) as write:
        write(31, "train", {"loss": 2.0})
    want = [step for step in steps if step <= restored] + [31]
    assert [row["step"] for row in lines_of(workdir)] == want
