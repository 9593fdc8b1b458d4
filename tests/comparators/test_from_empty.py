"""Rate coded neurons that start empty, with thresholds that were found or trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import build_pure
from neurons_alone import NEURONS, THETA, each, fired, layer, stepped, uneven

from bitsnn_jax import qcfs
from bitsnn_jax.comparators import (
    burst,
    burst_if,
    channel_norm,
    shifted_bias,
    snm,
    tcl,
)
from bitsnn_jax.comparators.layer import Layer
from bitsnn_jax.comparators.method import Network
from bitsnn_jax.comparators.observe import by_largest
from bitsnn_jax.comparators.simulation import simulate


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def with_thresholds(thetas):
    """A layer of neurons with these; the trained one has no part in it."""
    found = {"neuron": {"theta": jnp.asarray(thetas)}}
    return Layer.of(layer().site, jnp.full((1,), jnp.nan), found)


def some_thresholds():
    return np.random.default_rng(1).choice([0.0, 0.5, 1.0, 2.0], NEURONS)


def check_charge(currents, values, v):
    """What came in was sent, or is left."""
    np.testing.assert_array_equal(currents.sum(0), values.sum(0) + v)


def test_tcl_starts_empty():
    currents = uneven(9)
    expected = each(lambda train: fired(train, 0.0, THETA)[0], currents)
    values, spikes, v = stepped(tcl.METHOD.neuron(9), currents, layer())
    np.testing.assert_array_equal(values, THETA * expected)
    np.testing.assert_array_equal(spikes, expected)
    check_charge(currents, values, v)


def test_a_channel_without_a_threshold_is_silent():
    currents, thetas = uneven(9), some_thresholds()

    def rule(train, theta):
        return fired(train, 0.0, theta)[0] if theta else [0] * len(train)

    expected = each(rule, currents, thetas)
    values, spikes, _ = stepped(
        channel_norm.METHOD.neuron(9), currents, with_thresholds(thetas)
    )
    np.testing.assert_array_equal(values, thetas * expected)
    np.testing.assert_array_equal(spikes, expected)


@pytest.mark.parametrize("steps", [4, 8])
def test_a_shifted_bias_gives_half_a_step_in_parts(steps):
    currents, shift = uneven(steps), THETA / (2 * steps)
    expected = each(lambda train: fired(train + shift, 0.0, THETA)[0], currents)
    found, spikes, v = stepped(shifted_bias.METHOD.neuron(steps), currents, layer())
    np.testing.assert_array_equal(spikes, expected)
    check_charge(currents + shift, found, v)


@pytest.mark.parametrize("steps", [4, 8])
def test_a_shifted_bias_rounds_constant_input_to_the_nearest(steps):
    z = np.linspace(-1, 2 * THETA, NEURONS).round(6) + 1e-9  # on no tie
    currents = np.broadcast_to(z, (steps, NEURONS))
    _, spikes, _ = stepped(shifted_bias.METHOD.neuron(steps), currents, layer())
    expected = qcfs(jnp.asarray(z), jnp.asarray(THETA), levels=steps)
    np.testing.assert_allclose(spikes.mean(0) * THETA, expected, atol=1e-12)


def test_bursts_grow_until_a_step_is_silent():
    currents, thetas = uneven(12), some_thresholds()

    def rule(train, theta):
        v, g, sent = 0.0, 1, []
        for x in train:
            v += x
            s = theta > 0 and v >= g * theta
            sent.append(g * theta if s else 0.0)
            v -= sent[-1]
            g = 2 * g if s else 1
        return sent

    expected = each(rule, currents, thetas)
    values, spikes, (v, _) = stepped(burst.neuron(), currents, with_thresholds(thetas))
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(spikes, expected != 0)
    check_charge(currents, values, v)
    assert (expected == 4 * thetas).any()


def test_several_spikes_leave_in_one_step():
    currents, thetas = 4 * uneven(9), some_thresholds()

    def rule(train, theta):
        v, sent = 0.0, []
        for x in train:
            v += x
            count = 0
            while theta > 0 and count < 5 and v >= theta:
                v -= theta
                count += 1
            sent.append(count)
        return sent

    expected = each(rule, currents, thetas)
    values, spikes, v = stepped(burst_if.neuron(), currents, with_thresholds(thetas))
    np.testing.assert_array_equal(values, thetas * expected)
    np.testing.assert_array_equal(spikes, expected)
    check_charge(currents, values, v)
    assert expected.max() == 5


def test_snm_sends_signed_spikes_and_remembers():
    currents, thetas = uneven(9), some_thresholds()

    def rule(train, theta):
        v, sent, total = 0.0, [], 0
        for x in train:
            v += x
            s = 0
            if theta > 0 and v >= theta:
                s = 1
            elif v <= -theta and total > 0:
                s = -1
            v -= theta * s
            total += s
            sent.append(s)
        return sent

    expected = each(rule, currents, thetas)
    found = with_thresholds(thetas)
    values, spikes, (v, memory) = stepped(snm.neuron(), currents, found)
    np.testing.assert_array_equal(values, thetas * expected)
    np.testing.assert_array_equal(spikes, np.abs(expected))
    np.testing.assert_array_equal(memory, expected.sum(0))
    check_charge(currents, values, v)
    assert (expected < 0).any() and np.cumsum(expected, 0).min() == 0


@pytest.mark.parametrize("method", [burst, burst_if, channel_norm, snm])
def test_thresholds_are_shares_of_the_largest_activations(method):
    apply_fn, variables, x = build_pure()
    network, prepare = Network(apply_fn, variables, "relu"), method.METHOD.prepare
    w, b = np.asarray(variables["w"]), np.asarray(variables["b"])
    batches = [x, -2 * x[:3], 0.5 * x[1:]]
    found = prepare(network, batches, 4).found
    first = np.maximum(np.concatenate(batches) @ w + b, 0)
    second = np.maximum(first @ w + b, 0)
    for entry, activations in zip(found.values(), (first, second), strict=True):
        # A neuron of this network is a channel.
        each_one = activations.max(0, keepdims=True)
        expected = {
            burst: 0.125 * activations.max(),
            burst_if: activations.max(),
            channel_norm: each_one,
            snm: each_one,
        }[method]
        assert entry["theta"].shape == np.shape(expected)
        np.testing.assert_allclose(entry["theta"], expected, rtol=1e-12)
    with pytest.raises(ValueError, match="got none"):
        prepare(network, [], 4)


def test_what_has_a_threshold_of_its_own_keeps_its_axes():
    images = np.random.default_rng(0).normal(size=(3, 2, 2, 5))
    network = Network(lambda v, x: qcfs(x, v["theta"]), {"theta": jnp.ones(())}, "relu")
    shapes = {"layer": (), "channel": (1, 1, 1, 5), "neuron": (1, 2, 2, 5)}
    for what, shape in shapes.items():
        [found] = by_largest(what)(network, [images], 4).found.values()
        axes = [i for i in range(4) if not shape or shape[i] == 1]
        expected = images.max(tuple(axes), keepdims=bool(shape))
        assert found["theta"].shape == shape
        np.testing.assert_allclose(found["theta"], np.maximum(expected, 0))


@pytest.mark.parametrize(
    ("method", "error"),
    # A potential of some thetas is left at the end, whatever T: the error is O(1 / T).
    # A burst sends more at a time, and leaves more.
    [(snm, 0.02), (channel_norm, 0.02), (burst_if, 0.05), (burst, 0.1)],
)
def test_each_tends_to_the_relu_network_it_was_calibrated_on(method, error):
    apply_fn, variables, x = build_pure()
    w, b = np.asarray(variables["w"]), np.asarray(variables["b"])
    relu = np.maximum(np.maximum(x @ w + b, 0) @ w + b, 0) @ w
    network, method = Network(apply_fn, variables, "relu"), method.METHOD
    found = method.prepare(network, [x], 4).found
    run = jax.jit(simulate(apply_fn, method.neuron(4), steps=1024, found=found))
    largest = np.abs(run(variables, x).outputs - relu).max((1, 2))
    assert largest[1023] < error < largest[15]
