"""A detector that starts from a classifier: its backbone is taken over, no more."""

from functools import cache, partial

import jax
import numpy as np
import pytest
from saved_runs import SHAPE, save_state

from bitsnn_jax import config, data
from bitsnn_jax.models import build_model
from bitsnn_jax.runs.checkpoint import Checkpoints
from bitsnn_jax.training.optimizer import sgd
from bitsnn_jax.training.start import check_source, start
from bitsnn_jax.training.step import State

RANDOM = ["boxes", "classes", "pyramid"]


def settings(activation, *, name="retinanet_resnet20", start_from="", **fields):
    return config.Config(
        name=activation,
        start_from=str(start_from),
        data=config.Data(name="digits"),
        model=config.Model(name=name, width=0.1, activation=activation, **fields),
    )


classifier = partial(settings, name="resnet20")


def random_state(settings, seed):
    """A state as training begins with, less that nothing is compiled for it."""
    leaves, tree = jax.tree.flatten(shapes(tuple(vars(settings.model).items())))
    rng = np.random.default_rng(seed)

    def value(leaf):
        fan_in = np.prod(leaf.shape[:-1])  # so that values stay of one size
        return np.asarray(rng.uniform(1, 2, leaf.shape) / fan_in, leaf.dtype)

    return tree.unflatten(value(leaf) for leaf in leaves)


@cache
def shapes(fields):
    model = build_model(config.Model(**dict(fields)), image_shape=SHAPE)
    optimizer = sgd(config.Optimizer(), steps_per_epoch=1)

    def begin(key):
        x = jax.numpy.zeros((1, *SHAPE))
        variables = model.init(key, x, train=False)
        return State(0, **variables, opt_state=optimizer.init(variables["params"]))

    return jax.eval_shape(begin, jax.random.key(0))


def save_run(folder, settings):
    return save_state(folder, settings, random_state(settings, seed=1))


def started(settings, folder):
    examples = data.load(config.Data(name="digits"), "train").first(64)
    with Checkpoints(folder) as checkpoints:
        return start(random_state(settings, seed=2), settings, examples, checkpoints)


def assert_same(found, wanted):
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


@pytest.mark.parametrize(
    "head_norm", ["none", pytest.param("batch", marks=pytest.mark.slow)]
)
def test_stem_and_stages_are_the_backbone_and_all_else_stays_random(
    head_norm, tmp_path, capsys
):
    theirs = save_run(tmp_path / "a", classifier("qcfs"))
    wanted = settings("qcfs", start_from=tmp_path / "a", head_norm=head_norm)
    state, origin = started(wanted, tmp_path / "run")
    ours = random_state(wanted, seed=2).variables
    assert state.variables.keys() == ours.keys() == theirs.keys()
    for collection, modules in state.variables.items():
        random = {name: x for name, x in modules.items() if name != "backbone"}
        assert_same(random, {name: ours[collection][name] for name in random})
        taken = {name: x for name, x in theirs[collection].items() if name != "head"}
        assert_same(modules["backbone"], taken)
    assert origin["start"] == {
        "run": "qcfs",
        "step": 7,
        "commit": "abc",
        "version": "0",
        "random": RANDOM,
    }
    [line] = capsys.readouterr().out.splitlines()
    assert line.endswith(
        "is a classifier: its stem and stages are the backbone, its head is left out; "
        "boxes, classes, pyramid stay random"
    )


@pytest.mark.slow
def test_of_a_classifier_with_thetas_a_detector_with_relu_takes_none(tmp_path):
    save_run(tmp_path / "a", classifier("qcfs"))
    wanted = settings("relu", start_from=tmp_path / "a")
    state, _ = started(wanted, tmp_path / "run")
    assert jax.tree.structure(state) == jax.tree.structure(random_state(wanted, 2))


@pytest.mark.slow
def test_of_a_classifier_with_relu_all_thetas_are_calibrated(tmp_path):
    theirs = save_run(tmp_path / "a", classifier("relu"))
    wanted = settings("qcfs", start_from=tmp_path / "a", levels=3)
    state, _ = started(wanted, tmp_path / "run")
    ours = random_state(wanted, seed=2)
    assert jax.tree.structure(state) == jax.tree.structure(ours)
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        was_random = ours.params
        for key in path:
            was_random = was_random[key.key]
        assert (path[-1].key == "theta") <= (leaf != was_random).all()
    backbone = state.params["backbone"]
    assert_same(backbone["stem"], theirs["params"]["stem"])


@pytest.mark.parametrize(
    ("source", "fields", "words"),
    [
        (
            config.Model(name="small"),
            {},
            "start_from: expected a run of retinanet_resnet20, or of resnet20, whose "
            ".*; got one of small",
        ),
        (
            config.Model(name="resnet20", width=0.1),
            {"stem": "imagenet"},
            r"params/backbone/stem/conv/kernel has shape \(3, 3, 1, 2\) there, "
            r"\(7, 7, 1, 2\) in this run",
        ),
    ],
    ids=["another network", "stem"],
)
def test_a_classifier_that_does_not_fit_is_refused(source, fields, words, tmp_path):
    other = classifier("qcfs")
    other.model = source
    save_run(tmp_path / "a", other)
    wanted = settings("qcfs", start_from=tmp_path / "a", **fields)
    with pytest.raises(ValueError, match=words):
        check_source(wanted, tmp_path / "run")
        started(wanted, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()
