"""Thresholds from data: the measure that is minimised, and the networks it is for."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitsnn_jax import QCFS
from bitsnn_jax.config import Model
from bitsnn_jax.conversion.calibration import CALIBRATIONS, calibrate, calibrate_network
from bitsnn_jax.models import build_model


@pytest.fixture(scope="module")
def heavy_tailed():
    """Pre-activations of four channels, a few of them far above the others."""
    z = np.random.RandomState(0).standard_t(df=3, size=(5000, 4))
    return (z * [1.0, 0.5, 4.0, 2.0]).astype(np.float32)


def error_of(theta, z, levels):
    """Mean of (qcfs(z) - relu(z))^2 by NumPy in float64."""
    delta = np.float64(theta) / levels
    a = delta * np.clip(np.floor(z / delta + 0.5), 0, levels)
    return np.mean((a - np.maximum(z, 0)) ** 2)


@pytest.mark.parametrize("levels", [1, 3, 15])
def test_the_error_of_mse_is_the_smallest(heavy_tailed, levels):
    thetas = {m: calibrate(heavy_tailed, levels=levels, method=m) for m in CALIBRATIONS}
    errors = {m: error_of(theta, heavy_tailed, levels) for m, theta in thetas.items()}
    assert errors["mse"] < errors["percentile"]
    assert errors["mse"] < errors["maximum"]
    dense = np.linspace(0.01, heavy_tailed.max(), 3000)
    best = min(error_of(theta, heavy_tailed, levels) for theta in dense)
    # Candidates are 4.4 % apart, and the error is flat at its minimum; 0.3 % was seen.
    assert errors["mse"] < 1.01 * best


def test_maximum_is_the_maximum(heavy_tailed):
    theta = calibrate(heavy_tailed, method="maximum", per_channel=True)
    assert theta.tobytes() == heavy_tailed.max(0).tobytes()


def test_percentile_is_exceeded_by_a_thousandth_and_the_next_by_more(heavy_tailed):
    theta = calibrate(heavy_tailed, method="percentile")
    assert np.mean(heavy_tailed > theta) <= 0.001
    assert np.mean(heavy_tailed > theta * 2 ** (-1 / 16)) > 0.001


@pytest.mark.parametrize("method", CALIBRATIONS)
@pytest.mark.parametrize("scale", [0.3, 8.0])
def test_theta_scales_with_the_pre_activations(heavy_tailed, method, scale):
    theta = calibrate(heavy_tailed, method=method)
    scaled = calibrate(np.float32(scale) * heavy_tailed, method=method)
    # The same candidate is chosen; the scaled maximum is rounded once, theta once.
    np.testing.assert_allclose(scaled, np.float32(scale) * theta, rtol=3e-7)


@pytest.mark.parametrize("method", CALIBRATIONS)
def test_per_channel_is_each_channel_alone(heavy_tailed, method):
    together = calibrate(heavy_tailed, method=method, per_channel=True)
    alone = [calibrate(channel, method=method) for channel in heavy_tailed.T]
    np.testing.assert_array_equal(together, alone)


def test_a_channel_that_never_fires_gets_the_largest_theta():
    z = np.array([[-1.0, 2.0, 1.0], [-3.0, 1.0, 0.5]])
    theta = calibrate(z, method="maximum", per_channel=True)
    np.testing.assert_array_equal(theta, [2, 2, 1])


@pytest.mark.parametrize("method", CALIBRATIONS)
def test_a_cap_is_that_of_the_pre_activations(heavy_tailed, method):
    theta = calibrate(heavy_tailed, method=method, cap=2.5)
    assert theta == calibrate(np.minimum(heavy_tailed, 2.5), method=method)
    assert theta <= 2.5 < calibrate(heavy_tailed, method=method)


def test_a_lower_percentile_is_exceeded_by_more(heavy_tailed):
    theta = calibrate(heavy_tailed, method="percentile", percentile=95)
    assert 0.001 < np.mean(heavy_tailed > theta) <= 0.05
    assert np.mean(heavy_tailed > theta * 2 ** (-1 / 16)) > 0.05


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cap": 0.0}, "cap must be positive"),
        ({"percentile": 0}, "percentile must be above 0"),
        ({"percentile": 101}, "percentile must be above 0, at most 100; got 101"),
    ],
)
def test_bad_options_are_said(options, words):
    with pytest.raises(ValueError, match=words):
        calibrate(np.ones(3), **options)


@pytest.mark.parametrize(
    ("z", "method", "words"),
    [
        ([-1.0, 0.0], "mse", "a positive one"),
        ([1.0, np.nan], "mse", "finite"),
        ([1.0, np.inf], "mse", "finite"),
        ([1.0], "median", "maximum, mse, percentile; got 'median'"),
    ],
)
def test_bad_input_is_said(z, method, words):
    with pytest.raises(ValueError, match=words):
        calibrate(np.array(z), method=method)


def small(activation, **fields):
    config = Model(name="small", activation=activation, **fields)
    model = build_model(config, image_shape=(8, 8, 1))
    return model, lambda v, x: model.apply(v, x, train=False)


@pytest.fixture(scope="module")
def relu():
    """(variables, images, logits) of a network with ReLU, statistics not trivial."""
    model, apply_fn = small("relu")
    x = jax.random.normal(jax.random.key(0), (24, 8, 8, 1))
    variables = model.init(jax.random.key(1), x, train=False)
    _, updates = model.apply(variables, x, train=True, mutable=["batch_stats"])
    variables = {**variables, **updates}
    return variables, x, apply_fn(variables, x)


def test_with_many_levels_the_network_is_that_with_relu(relu):
    variables, x, logits = relu
    _, apply_fn = small("qcfs", levels=2**20)
    found = apply_fn(calibrate_network(apply_fn, variables, [x]), x)
    # Each layer is off by delta/2 = 2^-21 of its largest activation at most, logits of
    # order 1 by a few of these; 2e-6 was seen.
    np.testing.assert_allclose(found, logits, atol=2e-5)


@pytest.mark.parametrize("method", CALIBRATIONS)
@pytest.mark.parametrize("per_channel", [False, True])
def test_batches_count_as_one(relu, method, per_channel):
    variables, x, _ = relu
    _, apply_fn = small("qcfs", per_channel=per_channel)
    whole = calibrate_network(apply_fn, variables, [x], method=method)
    parts = calibrate_network(apply_fn, variables, [x[:8], x[8:]], method=method)
    # Convolutions of 24, 8 and 16 rows round differently, the maximum with them.
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), whole, parts)
    kernels = (tree["params"]["conv_1"]["kernel"] for tree in (variables, whole))
    assert next(kernels) is next(kernels)


class Twice(nn.Module):
    """Two layers whose values can be worked out by hand."""

    def setup(self):
        self.shared = QCFS(levels=3, name="shared")
        self.own = QCFS(levels=3, name="own")

    def __call__(self, x):
        return self.own(10 * self.shared(2 - self.shared(x)) - 1)


def test_layers_are_fed_by_relu_and_a_shared_module_has_one_theta():
    def apply_fn(variables, x):
        return Twice().apply(variables, x)

    x = jnp.array([-0.5, 0.3, 1.5])
    found = calibrate_network(apply_fn, {"params": {}}, [x], method="maximum")
    # shared sees x and 2 - relu(x) = [2, 1.7, 0.5]; own sees 10 * that - 1.
    thetas = {name: float(part["theta"]) for name, part in found["params"].items()}
    assert thetas == {"shared": 2.0, "own": 19.0}


def test_a_theta_that_is_there_stays_and_is_used():
    def apply_fn(variables, x):
        return Twice().apply(variables, x)

    given = {"params": {"shared": {"theta": np.float32(1.5)}}}
    x = jnp.array([-0.5, 0.3, 1.5])
    found = calibrate_network(apply_fn, given, [x], method="maximum")
    assert found["params"]["shared"]["theta"] is given["params"]["shared"]["theta"]
    # shared is clipped at 1.5: own sees 10 * 1.5 - 1 at most.
    assert float(found["params"]["own"]["theta"]) == 14.0


def test_layers_of_a_network_with_a_cap_are_fed_by_capped_activations():
    def apply_fn(variables, x):
        return Twice().apply(variables, x)

    x = jnp.array([-0.5, 0.3, 1.5])
    found = calibrate_network(apply_fn, {"params": {}}, [x], method="maximum", cap=1.75)
    # shared sees x and 2 - relu(x) = [2, 1.7, 0.5], of which 1.75 is left; own sees
    # 10 * 1.75 - 1 at most, of which 1.75 is left.
    thetas = {name: float(part["theta"]) for name, part in found["params"].items()}
    assert thetas == {"shared": 1.75, "own": 1.75}


def test_nothing_to_calibrate_with_is_said(relu):
    variables, x, _ = relu
    _, apply_fn = small("qcfs")
    with pytest.raises(ValueError, match="expected batches"):
        calibrate_network(apply_fn, variables, [])
    with pytest.raises(ValueError, match="act_1 must have finite values"):
        calibrate_network(apply_fn, variables, [jnp.nan * x])
