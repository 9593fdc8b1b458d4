"""Methods whose sources are trained with activations of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import build_pure
from neurons_alone import NEURONS, THETA, each, fired, layer, stepped, uneven

from bitsnn_jax.comparators import rnl, rnl_trained, slip_relu, step_relu
from bitsnn_jax.comparators.method import Network
from bitsnn_jax.comparators.simulation import simulate
from bitsnn_jax.numerics.rival_activations import SlipReLU, StepReLU


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def activated(act, z):
    return np.asarray(act.apply({"params": {"theta": jnp.asarray(THETA)}}, z))


@pytest.mark.parametrize(("method", "v"), [(slip_relu, THETA / 2), (step_relu, 0.0)])
def test_neurons_start_as_their_sources_round(method, v):
    currents = uneven(9)
    expected = each(lambda train: fired(train, v, THETA)[0], currents)
    values, spikes, left = stepped(method.METHOD.neuron(9), currents, layer())
    np.testing.assert_array_equal(values, THETA * expected)
    np.testing.assert_array_equal(spikes, expected)
    np.testing.assert_array_equal(v + currents.sum(0), values.sum(0) + left)


def constant(steps):
    """Values in 64ths, most of them on no multiple of theta / T; and the currents."""
    z = np.arange(-NEURONS // 2, NEURONS // 2) / 256
    return z, np.broadcast_to(z, (steps, NEURONS))


@pytest.mark.parametrize("levels", [1, 4, 8])
def test_step_relu_is_exact_at_as_many_steps_as_levels_under_constant_input(levels):
    z, currents = constant(levels)
    values, _, _ = stepped(step_relu.METHOD.neuron(levels), currents, layer())
    expected = activated(StepReLU(levels=levels), z)
    np.testing.assert_array_equal(values.mean(0), expected)


@pytest.mark.parametrize("levels", [1, 4, 8])
def test_slip_relu_sends_the_steps_of_its_source(levels):
    """What is lost is half of what the steps differ from the clipped ReLU."""
    z, currents = constant(levels)
    values, _, _ = stepped(slip_relu.METHOD.neuron(levels), currents, layer())
    steps = activated(SlipReLU(levels=levels, slope=0.0), z)
    np.testing.assert_array_equal(values.mean(0), steps)
    clipped = np.clip(z, 0, THETA)
    lost = activated(SlipReLU(levels=levels), z) - values.mean(0)
    np.testing.assert_allclose(lost, (clipped - steps) / 2, atol=1e-15)


@pytest.mark.parametrize("method", [slip_relu, step_relu])
def test_both_tend_to_the_clipped_relu(method):
    apply_fn, variables, x = build_pure()
    w, b = np.asarray(variables["w"]), np.asarray(variables["b"])
    first = np.clip(x @ w + b, 0, THETA)
    clipped = np.clip(first @ w + b, 0, THETA) @ w
    run = jax.jit(simulate(apply_fn, method.METHOD.neuron(4), steps=1024))
    largest = np.abs(run(variables, x).outputs - clipped).max((1, 2))
    # A potential of some thetas is left at the end, whatever T: the error is O(1 / T).
    assert largest[1023] < 0.02 < largest[15]


def perceptron():
    apply_fn, variables, _ = build_pure()
    variables = jax.tree.map(lambda a: np.asarray(a, float), variables)
    images = np.random.default_rng(0).normal(size=(40, 6))
    return Network(apply_fn, variables, "rate_norm"), images


def test_trained_rate_norm_layers_keep_their_peaks():
    network, images = perceptron()
    peaks = rnl_trained.trained_peaks(network, images)
    assert {path: float(peak) for path, peak in peaks.items()} == {
        "neuron": THETA,
        "neuron@2": THETA,
    }
    shares = [
        np.asarray(entry["theta"]) / THETA
        for entry in rnl_trained.prepare(network, [images], 4, updates=0).found.values()
    ]
    np.testing.assert_allclose(shares, 1 / (1 + np.exp(-4)))


def loss(scales, images, w, b):
    """That of the second stage, in NumPy: the source is clipped at its peaks."""
    thetas = [THETA / (1 + np.exp(-s)) for s in scales]

    def run(clips):
        first = images @ w + b
        second = np.clip(first, 0, clips[0]) @ w + b
        return (first, second), np.clip(second, 0, clips[1]) @ w

    _, target = run([THETA, THETA])
    seen, output = run(thetas)
    products = (output * target).sum(1)
    cosines = products / np.sqrt((output**2).sum(1) * (target**2).sum(1))
    rates = [np.clip(z / c, 0, 1) for z, c in zip(seen, thetas, strict=True)]
    ks = [a.sum() / (np.sum(a * a) + 1e-5) for a in rates]
    return 1 - np.mean(cosines) + 0.1 * np.mean(ks)


def test_trained_rate_norm_layers_are_held_to_the_clipped_source():
    network, images = perceptron()
    w, b = network.variables["w"], network.variables["b"]
    peaks = rnl_trained.trained_peaks(network, images)
    of = rnl.loss(network, peaks, rnl_trained.clipped_relu)
    scales = {"neuron": np.array(0.3), "neuron@2": np.array(-0.7)}
    # 1e-9 leaves room for the epsilon in the cosine.
    expected = loss((0.3, -0.7), images, w, b)
    np.testing.assert_allclose(
        of(scales, network.variables, images), expected, rtol=1e-9
    )
    found = rnl_trained.prepare(network, [images], 4, updates=30).found
    shares = [found[path]["theta"] / THETA for path in scales]
    tuned = [np.log(share / (1 - share)) for share in shares]
    assert loss(tuned, images, w, b) < loss((4.0, 4.0), images, w, b)
