"""Training that starts from another run: what is taken over, and what is refused."""

import shutil
from functools import cache

import jax
import numpy as np
import pytest
from saved_runs import SHAPE, save_state

from bitsnn_jax import config, data
from bitsnn_jax.conversion.calibration import calibrate_network
from bitsnn_jax.models import build_model
from bitsnn_jax.runs.checkpoint import Checkpoints, load_run
from bitsnn_jax.runs.loading import ann_fn
from bitsnn_jax.training import train_and_evaluate
from bitsnn_jax.training.optimizer import sgd
from bitsnn_jax.training.start import start
from bitsnn_jax.training.step import init_state


def settings(activation, *, start_from="", **fields):
    return config.Config(
        name=activation,
        start_from=str(start_from),
        data=config.Data(name="digits", eval_batch_size=180),
        model=config.Model(name="small", activation=activation, **fields),
        optimizer=config.Optimizer(learning_rate=0.05, epochs=1),
    )


def random_state(settings, seed):
    return _random_state(tuple(vars(settings.model).items()), seed)


@cache
def _random_state(fields, seed):
    model = build_model(config.Model(**dict(fields)), image_shape=SHAPE)
    optimizer = sgd(config.Optimizer(), steps_per_epoch=1)
    state = init_state(
        model, optimizer, np.zeros((1, *SHAPE), np.float32), jax.random.key(seed)
    )
    return jax.tree.map(np.asarray, state)


def save_run(folder, settings, **metadata):
    """A run with random weights."""
    return save_state(folder, settings, random_state(settings, seed=1), **metadata)


@pytest.fixture(scope="module")
def train():
    return data.load(config.Data(name="digits"), "train")


def started(settings, examples, folder):
    with Checkpoints(folder) as checkpoints:
        state = random_state(settings, seed=2)
        return start(state, settings, examples, checkpoints)


def without_theta(variables):
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {str(path): leaf for path, leaf in leaves if "theta" not in str(path)}


def test_a_run_with_relu_is_the_start_of_one_with_qcfs(tmp_path):
    relu, fine = tmp_path / "relu", tmp_path / "fine"
    train_and_evaluate(settings("relu"), relu)
    tuned = settings("qcfs", start_from=relu)
    tuned.optimizer.learning_rate = 1e-9
    result = train_and_evaluate(tuned, fine)
    source = load_run(relu)
    assert result["start"]["run"] == "relu"
    assert result["start"]["step"] == source.step
    assert result["start"]["commit"] == source.metadata["commit"]
    # Training in 20 steps of that size goes nowhere: parameters of order 1 are rounded
    # to 6e-8, and steps of 1e-9 leave a float32 as it is but for near 0.
    trained = load_run(fine)
    for kind in ("conv_1", "head"):
        np.testing.assert_allclose(
            trained.variables["params"][kind]["kernel"],
            source.variables["params"][kind]["kernel"],
            atol=1e-6,
        )

    # Once begun, a run goes on without the other.
    shutil.rmtree(relu)
    assert train_and_evaluate(tuned, fine) == result
    examples = data.load(tuned.data, "train")
    state, origin = started(tuned, examples, fine)
    assert origin == {"start": result["start"]}
    jax.tree.map(np.testing.assert_array_equal, state, random_state(tuned, seed=2))


@pytest.mark.parametrize("activation", ["qcfs", "clipped_relu"])
def test_from_relu_thetas_are_calibrated_and_all_else_stays(
    activation, train, tmp_path
):
    variables = save_run(tmp_path / "relu", settings("relu"))
    wanted = settings(activation, start_from=tmp_path / "relu", per_channel=True)
    state, _ = started(wanted, train, tmp_path / "run")
    jax.tree.map(
        np.testing.assert_array_equal,
        without_theta(state.variables),
        without_theta(variables),
    )
    # The first 512 images, as they are.
    images = data.normalise(train.images[:512], train)
    expected = calibrate_network(ann_fn(wanted, SHAPE), variables, [images])
    for name in ("act_1", "act_2", "act_3"):
        theta = state.params[name]["theta"]
        assert theta.shape == random_state(wanted, seed=2).params[name]["theta"].shape
        np.testing.assert_array_equal(theta, expected["params"][name]["theta"])


@pytest.mark.parametrize(
    "activation", ["qcfs", "clipped_relu", "slip_relu", "step_relu"]
)
def test_thetas_that_are_there_carry_over_bit_by_bit(activation, train, tmp_path):
    variables = save_run(tmp_path / "a", settings(activation, theta_init=3.7))
    wanted = settings("qcfs", start_from=tmp_path / "a", levels=3)
    state, _ = started(wanted, train, tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, state.variables, variables)


@pytest.mark.parametrize("first", ["qcfs", "relu"])
def test_peaks_of_rate_norm_layers_start_at_thetas_that_are_there(
    first, train, tmp_path
):
    save_run(tmp_path / "a", settings(first, theta_init=3.5))
    wanted = settings("rate_norm", start_from=tmp_path / "a", theta_init=2.5)
    state, _ = started(wanted, train, tmp_path / "run")
    for i in (1, 2, 3):
        theta = state.batch_stats[f"act_{i}"]["theta"]
        np.testing.assert_array_equal(theta, {"qcfs": 3.5, "relu": 2.5}[first])
    assert "act_1" not in state.params


def test_peaks_of_rate_norm_layers_become_thetas(train, tmp_path):
    save_run(tmp_path / "a", settings("rate_norm", theta_init=3.5))
    wanted = settings("qcfs", start_from=tmp_path / "a", theta_init=2.5)
    state, _ = started(wanted, train, tmp_path / "run")
    np.testing.assert_array_equal(state.params["act_1"]["theta"], 3.5)
    assert "act_1" not in state.batch_stats


def test_a_peak_of_a_layer_is_no_theta_of_channels(train, tmp_path):
    save_run(tmp_path / "a", settings("qcfs", per_channel=True))
    wanted = settings("rate_norm", start_from=tmp_path / "a")
    message = r"batch_stats/act_1/theta has shape \(8,\) there, \(\) in this run"
    with pytest.raises(ValueError, match=message):
        started(wanted, train, tmp_path / "run")


def test_a_network_with_relu_leaves_thetas_behind(train, tmp_path):
    variables = save_run(tmp_path / "a", settings("qcfs"))
    wanted = settings("relu", start_from=tmp_path / "a")
    state, _ = started(wanted, train, tmp_path / "run")
    assert jax.tree.structure(state) == jax.tree.structure(random_state(wanted, seed=2))
    np.testing.assert_array_equal(
        state.params["head"]["kernel"], variables["params"]["head"]["kernel"]
    )


def test_the_origin_goes_back_to_the_first_run(train, tmp_path):
    save_run(tmp_path / "a", settings("qcfs"), start={"run": "first", "step": 3})
    _, origin = started(
        settings("qcfs", start_from=tmp_path / "a"), train, tmp_path / "run"
    )
    assert origin["start"] == {
        "run": "qcfs",
        "step": 7,
        "commit": "abc",
        "version": "0",
        "start": {"run": "first", "step": 3},
    }


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"width": 2.0}, r"params/conv_1/bias has shape \(8,\) there, \(16,\)"),
        ({"num_classes": 5}, r"params/head/bias has shape \(10,\) there, \(5,\)"),
        ({"name": "resnet20"}, r"/conv_1/bias has shape \(8,\) there, none in this"),
        ({"per_channel": True}, r"act_1/theta has shape \(\) there, \(8,\) in this"),
    ],
    ids=["width", "classes", "model", "per_channel"],
)
def test_the_first_array_that_does_not_fit_is_named(fields, words, train, tmp_path):
    save_run(tmp_path / "a", settings("qcfs"))
    wanted = settings("qcfs", start_from=tmp_path / "a")
    for name, value in fields.items():
        setattr(wanted.model, name, value)
    with pytest.raises(ValueError, match=words):
        started(wanted, train, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_an_unknown_run_is_said(train, tmp_path):
    wanted = settings("qcfs", start_from="nowhere")
    with pytest.raises(ValueError, match="start_from: nowhere is not a folder"):
        started(wanted, train, tmp_path / "run")
