"""SpikeConverter: its neurons and its fit against loops, and beside phases."""

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from networks import build_pure
from neurons_alone import NEURONS, each, layer, uneven

from bitsnn_jax.comparators import phase, spike_converter
from bitsnn_jax.comparators.method import Network
from bitsnn_jax.comparators.simulation import simulate

THETA = 2.0


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def sent(neuron, currents, layer):
    result = neuron.fire(layer, jnp.asarray(currents))
    return np.asarray(result.value), np.asarray(result.spikes).astype(int)


def generated(z, theta, leak, steps):
    """Spikes of a potential that grows by the leak under one threshold."""
    v, spikes = z, []
    for _ in range(steps):
        spikes.append(int(v >= theta))
        v = leak * (v - theta * spikes[-1])
    return spikes


@pytest.mark.parametrize("leak", [1.25, 1.5, 2.0])
def test_neurons_accumulate_and_then_generate(leak):
    steps = 6
    currents = uneven(steps)

    def rule(train):
        # The mean of a train is the value that stands for it; the leak of phase 1 is
        # in the worth of what was sent.
        return generated(train.sum() / steps, THETA, leak, steps)

    expected = each(rule, currents)
    found = layer(leak=leak)
    values, spikes = sent(spike_converter.neuron(steps), currents, found)
    np.testing.assert_array_equal(spikes, expected)
    worth = steps * THETA * leak ** -np.arange(steps)
    np.testing.assert_allclose(values, worth[:, None] * expected, rtol=1e-14)
    assert (expected.sum(0) > 1).any()


def test_with_a_leak_of_two_the_codes_are_those_of_phases():
    steps = 5
    currents = uneven(steps)
    theta = THETA * 2 ** (steps - 1) / (2**steps - 1)  # the highest code is THETA
    ours = sent(spike_converter.neuron(steps), currents, layer(theta, leak=2.0))
    theirs = sent(phase.neuron(steps), currents, layer())
    np.testing.assert_array_equal(ours[1], theirs[1])
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-14)


def error(a, theta, leak, steps):
    """Of one layer, by the rule for one neuron."""
    codes = np.array([generated(z, theta, leak, steps) for z in a])
    values = codes @ (theta * leak ** -np.arange(steps))
    return ((values - a) ** 2).sum() / (a**2).sum()


def best(a, leak, steps):
    highest = sum(leak**-t for t in range(steps))
    thetas = [i / 20 * a.max() / highest for i in range(1, 21)]
    errors = [error(a, theta, leak, steps) for theta in thetas]
    return thetas[int(np.argmin(errors))], min(errors)


def perceptron(images=12):
    apply_fn, variables, _ = build_pure()
    variables = jax.tree.map(lambda a: np.asarray(a, float), variables)
    x = np.random.default_rng(0).normal(size=(images, 6))
    first = np.maximum(x @ variables["w"] + variables["b"], 0)
    second = np.maximum(first @ variables["w"] + variables["b"], 0)
    return Network(apply_fn, variables, "relu"), x, (first, second)


@pytest.mark.parametrize("steps", [1, 3])  # of equals, the first
def test_the_leak_and_the_thresholds_change_activations_least(steps):
    network, x, layers = perceptron()
    found = spike_converter.prepare(network, np.split(x, 2), steps).found
    sums = {}
    for leak in np.arange(11, 21) / 10:
        fits = [best(a[a > 0], leak, steps) for a in layers]
        thetas = [theta for theta, _ in fits]
        sums.setdefault(sum(e for _, e in fits), (leak, thetas))
    leak, thetas = sums[min(sums)]
    for entry, theta in zip(found.values(), thetas, strict=True):
        np.testing.assert_allclose(entry["leak"], leak, rtol=1e-14)
        np.testing.assert_allclose(entry["theta"], theta, rtol=1e-12)


def test_it_tends_to_the_relu_network_that_it_was_fitted_to():
    network, x, (_, second) = perceptron()
    expected = second @ network.variables["w"]
    errors = []
    for steps in (4, 8, 16):
        made = spike_converter.prepare(network, [x], steps)
        neuron = spike_converter.neuron(steps)
        snn = simulate(network.apply_fn, neuron, steps=steps, found=made.found)
        output = jax.jit(snn)(made.variables, x).outputs[-1]
        errors.append(np.abs(output - expected).max())
    # Each step is worth a factor of the leak, which is near 2 then.
    assert errors[2] < errors[1] / 20 < errors[0] / 100


def test_the_maximum_of_trains_is_that_of_their_values():
    steps = 6
    found = layer(leak=1.5)
    values, _ = sent(spike_converter.neuron(steps), uneven(steps), found)
    train = jnp.asarray(values.reshape(steps, -1, 4))
    picked = spike_converter.neuron(steps).maximum(lambda step: step.max(-1), train)
    np.testing.assert_allclose(picked.sum(0), train.sum(0).max(-1), rtol=1e-12)
    assert picked.shape == (steps, NEURONS // 4)


def test_a_sample_has_the_largest_value():
    a = np.sort(np.random.default_rng(0).normal(size=40_001))
    thinned = spike_converter._thinned(a)
    assert thinned.max() == a[-1] and 10_000 < len(thinned) <= 2**14
    assert set(thinned) <= set(a)


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_a_layer_that_has_no_threshold_is_named(value):
    network = Network(lambda v, x: networks.qcfs(x, v), jnp.array(1.0), "relu")
    with pytest.raises(ValueError, match="neuron must have a positive, finite largest"):
        spike_converter.prepare(network, [np.full((4, 3), value)], 4)
    with pytest.raises(ValueError, match="got none"):
        spike_converter.prepare(network, [], 4)
