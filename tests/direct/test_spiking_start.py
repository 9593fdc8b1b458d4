"""What a network that is trained through time takes over from another run."""

import dataclasses

import jax
import numpy as np
import pytest

from bitsnn_jax.config import Config, Data, Direct, Model, Optimizer
from bitsnn_jax.direct import METHODS
from bitsnn_jax.runs.checkpoint import Run
from bitsnn_jax.tasks import task_of
from bitsnn_jax.training.spiking_start import check_activation, into_neurons

SHAPE = (8, 8, 1)


def settings(activation, method="", start_from="", **fields):
    return Config(
        name=method or activation,
        start_from=str(start_from),
        data=Data(name="digits", eval_batch_size=180),
        model=Model(name="small", activation=activation, **fields),
        optimizer=Optimizer(learning_rate=0.01, epochs=1),
        direct=Direct(method=method),
    )


def variables_of(config, seed):
    """Random variables. Thetas are as they start, those of seed 1 are trained."""
    model = task_of(config).build(config, SHAPE)
    x = np.zeros((1, *SHAPE), np.float32)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False))
    rng = np.random.default_rng(seed)

    def leaf(path, like):
        if path[-1].key == "theta":
            begun = {"dsr": 2.0}.get(config.direct.method, 8.0)
            return np.float32(begun + (seed == 1))
        return rng.uniform(0.1, 1, like.shape).astype(like.dtype)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def started(source, wanted):
    """The variables of a run, and those that another starts with."""
    run = Run(source, variables_of(source, seed=1), 7, {"image_shape": SHAPE})
    wanted.start_from = "runs/source"
    target = variables_of(wanted, seed=2)
    return run.variables, into_neurons(run, target, wanted, SHAPE, lambda: [])


def thetas(variables):
    return [variables["params"][f"act_{i}"]["theta"] for i in (1, 2, 3)]


def equal_weights(a, b):
    for name in ("conv_1", "conv_2", "conv_3", "head"):
        jax.tree.map(
            np.testing.assert_array_equal, a["params"][name], b["params"][name]
        )
    jax.tree.map(np.testing.assert_array_equal, a["batch_stats"], b["batch_stats"])


@pytest.mark.parametrize("activation", ["qcfs", "relu"])
def test_weights_carry_over_and_neurons_keep_their_own_numbers(activation):
    source, wanted = settings(activation), settings("spiking", "dsr")
    before, after = started(source, wanted)
    equal_weights(before, after)
    np.testing.assert_array_equal(thetas(after), 2.0)


def test_thetas_without_a_place_are_left_out():
    before, after = started(settings("qcfs"), settings("spiking", "tet"))
    equal_weights(before, after)
    assert not any(name.startswith("act") for name in after["params"])


def test_a_run_of_the_same_method_is_taken_with_its_neurons():
    source, wanted = settings("spiking", "dsr"), settings("spiking", "dsr")
    wanted.steps = 2
    before, after = started(source, wanted)
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_a_network_of_another_shape_is_refused():
    source = settings("qcfs")
    wanted = settings("spiking", "dsr", width=2.0)
    words = r"does not fit model: params/conv_1/bias has shape \(8,\) there, \(16,\)"
    with pytest.raises(ValueError, match=words):
        started(source, wanted)


def test_an_activation_that_the_method_cannot_go_on_from_is_refused(monkeypatch):
    method = dataclasses.replace(METHODS["dsr"], starts_from=("relu",))
    monkeypatch.setitem(METHODS, "dsr", method)
    wanted = settings("spiking", "dsr", start_from="runs/source")
    run = Run(settings("qcfs"), {}, 7, {})
    words = (
        "start_from runs/source: direct.method=dsr goes on from a run with "
        "model.activation=relu, got one with qcfs"
    )
    with pytest.raises(ValueError, match=f"^{words}$"):
        check_activation(run, wanted)
    check_activation(run, settings("spiking", "tet"))
