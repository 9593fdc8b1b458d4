"""The library against `reference.py`: the same spikes, neuron by neuron, step by step.

In float64 sums in another order differ by some 1e-15 of a threshold, so that none of
these few thousand neurons, drawn at random, lies close enough to one to be decided by
the order.
"""

from functools import partial, reduce
from operator import getitem

import flax.linen as nn
import jax
import numpy as np
import pytest
import reference

from bitsnn_jax import QCFS, convert, spike_planes
from bitsnn_jax.conversion.readings import Stepped, run
from bitsnn_jax.models.resnet import ResNet

STEPS = (1, 2, 3, 4, 6, 8)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


class PlainVGG(nn.Module):
    """Convolutions with bias and no norm: see `reference.vgg`."""

    act: partial

    @nn.compact
    def __call__(self, x, *, train):
        x = self.act(name="act_1")(nn.Conv(4, (3, 3), name="conv_1")(x))
        x = self.act(name="act_2")(nn.Conv(5, (3, 3), name="conv_2")(x))
        x = nn.avg_pool(x, (2, 2), (2, 2))
        x = self.act(name="act_3")(nn.Conv(6, (3, 3), name="conv_3")(x))
        x = nn.avg_pool(x, (2, 2), (2, 2)).reshape(len(x), -1)
        x = self.act(name="act_4")(nn.Dense(8, name="hidden")(x))
        return nn.Dense(10, name="head")(x)


def network(name, steps, *, per_channel):
    act = partial(QCFS, levels=2**steps - 1, per_channel=per_channel)
    if name == "vgg":
        return PlainVGG(act)
    return ResNet((1, 1), (4, 6), num_classes=10, act=act, norm=nn.BatchNorm)


def randomised(variables, rng):
    """Random leaves, as trained ones may be: any mean, and both signs of gamma."""
    draw = {
        "kernel": lambda n: rng.normal(size=n) / np.sqrt(np.prod(n[:-1]) / 4),
        "bias": lambda n: rng.normal(0, 0.5, n),
        "scale": lambda n: rng.uniform(0.5, 1.5, n) * rng.choice([-1, 1], n),
        "mean": lambda n: rng.normal(size=n),
        "var": lambda n: rng.uniform(0.3, 2.0, n),
        "theta": lambda n: rng.uniform(1.0, 3.0, n),
    }
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.asarray(draw[path[-1].key](leaf.shape)), variables
    )


def case(name, steps, *, per_channel=False):
    """apply_fn, float64 variables and images of a network of random numbers."""
    model = network(name, steps, per_channel=per_channel)
    apply_fn = partial(model.apply, train=False)
    rng = np.random.default_rng(steps + 100 * per_channel)
    image = rng.normal(size=(3, 8, 8, 3))
    shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), image)
    shapes = {k: v for k, v in shapes.items() if k in ("params", "batch_stats")}
    return apply_fn, randomised(shapes, rng), image


class Watched(Stepped):
    """The stepped reading, which keeps every spike."""

    def __init__(self, **options):
        super().__init__(**options)
        self.spikes = {}

    def observe(self, site, membrane, code, delta):
        self.spikes[site.path] = spike_planes(code, steps=self.steps)


@partial(jax.jit, static_argnames=("apply_fn", "steps"))
def simulate(apply_fn, variables, image, steps):
    reading = Watched(steps=steps)
    output = run(reading, apply_fn, variables, image)
    return output, reading.spikes


def converted(apply_fn, variables, image, steps):
    return convert(apply_fn, variables, image, steps=steps).variables


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", ["resnet", "vgg"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_every_spike_is_that_of_the_reference(name, steps, per_channel):
    apply_fn, variables, image = case(name, steps, per_channel=per_channel)
    snn_variables = converted(apply_fn, variables, image, steps)
    logits, spikes = simulate(apply_fn, snn_variables, image, steps)
    expected_logits, expected = getattr(reference, name)(variables, image, steps=steps)

    assert spikes.keys() == expected.keys()
    for path, train in expected.items():
        assert spikes[path].shape == (steps, *train.shape[1:])
        assert np.array_equal(spikes[path], train), path
        assert 0.02 < train.mean() < 0.98  # a layer that says something
    # The same spikes, added up by other sums.
    np.testing.assert_allclose(logits, expected_logits, rtol=1e-12, atol=1e-12)
    # And they are what the network itself says, in one pass and without time.
    ann_logits = jax.jit(apply_fn)(variables, image)
    np.testing.assert_allclose(ann_logits, expected_logits, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", ["resnet", "vgg"])
def test_converted_biases_are_those_of_the_closed_formulas(name, steps):
    apply_fn, variables, image = case(name, steps)
    expected = expected_variables(variables, steps)
    actual = converted(apply_fn, variables, image, steps)
    # To some roundings of numbers around 1.
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=0, atol=1e-12), actual, expected
    )


def expected_variables(variables, steps):
    """Each bias behind a layer of neurons shifted, everything else as it is."""

    def expected(path, leaf):
        names = [part.key for part in path]
        sees_the_image = names[1] in ("stem", "conv_1")
        if names[-1] != "bias" or sees_the_image:
            return leaf
        if names[-2] != "norm":
            return reference.bias_of_sum(leaf, steps)
        norm = reduce(getitem, names[:-1], variables)
        stats = reduce(getitem, names[1:-1], variables["batch_stats"])
        return reference.bias_of_norm(norm, stats, steps)

    return jax.tree_util.tree_map_with_path(expected, variables)
