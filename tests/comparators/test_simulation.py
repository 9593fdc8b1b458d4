"""The bench of the comparators: both readings, what is read out, what is counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax
from networks import (
    INPUTS,
    Concatenated,
    ManyInputsAndOutputs,
    MultilayerPerceptron,
    OneDimensional,
    PreActivation,
    Reshaped,
    Residual,
    Scanned,
    Shared,
    build_pure,
    image,
)

from bitsnn_jax import codes, qcfs
from bitsnn_jax.comparators.bos import neuron as offset_spikes
from bitsnn_jax.comparators.layer import Sent, StepNeuron, TrainNeuron
from bitsnn_jax.comparators.qcfs import neuron as half_charged
from bitsnn_jax.comparators.simulation import simulate
from bitsnn_jax.tracing.fan_out import fan_out

WITHOUT_MAXIMUM = (
    Residual,
    PreActivation,
    Concatenated,
    Reshaped,
    Shared,
    ManyInputsAndOutputs,
    MultilayerPerceptron,
    Scanned,
    OneDimensional,
)


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def filled(network, seed=0):
    """What `networks.build` makes, for two examples, without its compiling."""
    model, rng = network(), np.random.default_rng(seed)
    x = jax.tree.map(lambda a: a[:2], INPUTS.get(network, image)(jax.random.key(seed)))
    shapes = jax.eval_shape(model.init, jax.random.key(seed), x)

    def leaf(path, shape):
        if path[-1].key in ("theta", "scale", "var"):
            return jnp.asarray(rng.uniform(0.6, 1.4, shape.shape))
        if path[-1].key in ("bias", "mean", "offset"):
            return jnp.asarray(0.2 + 0.2 * rng.normal(size=shape.shape))
        spread = np.sqrt(2 / np.prod(shape.shape[:-1]))
        return jnp.asarray(spread * rng.normal(size=shape.shape))

    variables = jax.tree_util.tree_map_with_path(leaf, shapes)
    return lambda v, x: model.apply(v, x), variables, x


def scanned(neuron):
    """The same neurons, for trains."""

    def fire(layer, currents):
        def step(state, now):
            return neuron.step(layer, state, *now)

        times = jnp.arange(len(currents))
        return lax.scan(step, neuron.start(layer), (currents, times))[1]

    return TrainNeuron(fire)


def scripted(steps, value=lambda t: 1.0):
    """Neurons that spike as `found` says, whatever comes in."""

    def step(layer, state, current, t):
        spikes = jnp.asarray(layer.found["spikes"])[t]
        return state, Sent(spikes * jnp.asarray(value(t), current.dtype), spikes)

    return StepNeuron(lambda layer: (), step, warm_up=steps)


def one_layer(variables, x):
    return qcfs(x, variables["theta"])


@pytest.mark.parametrize("network", WITHOUT_MAXIMUM)
def test_all_layers_at_a_step_equal_layer_by_layer(network):
    apply_fn, variables, x = filled(network)
    if network is ManyInputsAndOutputs:
        whole, apply_fn = apply_fn, lambda v, x: whole(v, x)["logits"]
    steps = 4
    one, other = (
        jax.jit(simulate(apply_fn, neuron, steps=steps))(variables, x)
        for neuron in (half_charged(), scanned(half_charged()))
    )
    assert one.outputs.shape[0] == steps and other.outputs.shape[0] == 1
    # Sums in another order, over at most some thousand terms of order 1.
    np.testing.assert_allclose(one.outputs[-1], other.outputs[0], atol=1e-11)
    assert list(one.spikes) == list(other.spikes)
    for path in one.spikes:
        np.testing.assert_array_equal(one.spikes[path], other.spikes[path])
    assert min(counts.sum() for counts in one.spikes.values()) > 0


def test_a_network_of_two_layers_equals_a_loop():
    apply_fn, variables, x = build_pure()
    w, b, theta = (np.asarray(variables[k]) for k in ("w", "b", "theta"))
    first = second = theta / 2
    sent, counts = [], []
    for _ in range(6):
        first = first + np.asarray(x) @ w + b
        one = first >= theta
        first = first - theta * one
        second = second + (theta * one) @ w + b
        other = second >= theta
        second = second - theta * other
        sent.append((theta * other) @ w)
        counts.append([one.sum(), other.sum()])
    found = simulate(apply_fn, half_charged(), steps=6)(variables, x)
    means = [np.mean(sent[: t + 1], 0) for t in range(6)]
    np.testing.assert_allclose(found.outputs, means, atol=1e-12)
    np.testing.assert_array_equal(np.stack([*found.spikes.values()], 1), counts)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8, 32])
@pytest.mark.parametrize("theta", [1.0, 0.7, [0.3, 1.0, 2.5]])
def test_rate_neurons_at_constant_input_are_the_quantiser(steps, theta):
    x = np.random.default_rng(0).normal(0.4, 1, (500, 3))
    variables = {"theta": jnp.asarray(theta)}
    found = simulate(one_layer, half_charged(), steps=steps)(variables, x)
    expected = codes(jnp.asarray(x), variables["theta"], levels=steps)
    reached = np.rint(found.outputs[-1] * steps / np.asarray(theta))
    np.testing.assert_array_equal(reached, expected)
    assert sum(found.spikes.values()).sum() == expected.sum()


def test_a_long_run_passes_by_all_shorter_ones():
    apply_fn, variables, x = filled(Residual)
    whole = jax.jit(simulate(apply_fn, half_charged(), steps=32))(variables, x)
    for steps in (1, 3, 16):
        part = jax.jit(simulate(apply_fn, half_charged(), steps=steps))(variables, x)
        # Cumulative sums of another length add in another order.
        np.testing.assert_allclose(whole.outputs[:steps], part.outputs, atol=1e-12)
        for path in part.spikes:
            np.testing.assert_array_equal(whole.spikes[path][:steps], part.spikes[path])


@pytest.mark.parametrize("whole_trains", [False, True])
@pytest.mark.parametrize("network", [Residual, OneDimensional])
def test_synaptic_operations_are_spikes_times_fan_out(network, whole_trains):
    apply_fn, variables, x = filled(network)
    synapses = fan_out(apply_fn, variables, x[:1])
    rng, steps = np.random.default_rng(0), 3
    spikes = {
        path: rng.random((steps, len(x), *np.shape(s)[1:])) < 0.3
        for path, s in synapses.items()
    }
    found = {path: {"spikes": s} for path, s in spikes.items()}
    neuron = scripted(0)
    if whole_trains:
        neuron = scanned(neuron)
    run = simulate(apply_fn, neuron, steps=steps, found=found, fan_out=synapses)
    measured = jax.jit(run)(variables, x)
    expected = np.zeros(steps)
    for path, train in spikes.items():
        each = train.reshape(steps, -1).sum(1)
        np.testing.assert_array_equal(measured.spikes[path], each)
        expected += (train * np.asarray(synapses[path])).reshape(steps, -1).sum(1)
    np.testing.assert_array_equal(measured.synaptic_operations, expected)


@pytest.mark.parametrize("whole_trains", [False, True])
def test_without_a_fan_out_no_operations_are_counted(whole_trains):
    neuron = scanned(half_charged()) if whole_trains else half_charged()
    run = simulate(one_layer, neuron, steps=3)
    found = run({"theta": jnp.array(1.0)}, jnp.ones((2, 5)))
    np.testing.assert_array_equal(found.synaptic_operations, np.zeros(3))


@pytest.mark.parametrize("warm_up", [1, 3])
def test_the_warm_up_is_charged_to_the_first_step_and_not_read_out(warm_up):
    x, fans = jnp.zeros((2, 5)), {"neuron": jnp.full((1, 5), 7.0)}
    rng, steps = np.random.default_rng(0), 4
    spikes = rng.random((warm_up + steps, 2, 5)) < 0.5
    run = simulate(
        one_layer,
        scripted(warm_up, value=lambda t: 1.0 + t),
        steps=steps,
        found={"neuron": {"spikes": spikes}},
        fan_out=fans,
    )
    found = run({"theta": jnp.array(1.0)}, x)
    counts = spikes.sum((1, 2))
    charged = [counts[: warm_up + 1].sum(), *counts[warm_up + 1 :]]
    np.testing.assert_array_equal(found.spikes["neuron"], charged)
    np.testing.assert_array_equal(found.synaptic_operations, 7.0 * np.array(charged))
    weights = 1.0 + np.arange(warm_up + steps)
    sent = (spikes * weights[:, None, None])[warm_up:]
    means = [sent[: t + 1].mean(0) for t in range(steps)]
    np.testing.assert_allclose(found.outputs, means, atol=1e-12)


def test_steps_after_the_last_are_counted_in_it_and_not_read_out():
    x, fans = jnp.zeros((2, 5)), {"neuron": jnp.full((1, 5), 7.0)}
    spikes = np.random.default_rng(0).random((6, 2, 5)) < 0.5
    neuron = scanned(scripted(0))._replace(length=lambda steps: 6)
    run = simulate(
        one_layer,
        neuron,
        steps=2,
        found={"neuron": {"spikes": spikes}},
        fan_out=fans,
    )
    found = run({"theta": jnp.array(1.0)}, x)
    counts = spikes.sum((1, 2))
    np.testing.assert_array_equal(found.spikes["neuron"], [counts[0], counts[1:].sum()])
    np.testing.assert_array_equal(
        found.synaptic_operations, [7 * counts[0], 7 * counts[1:].sum()]
    )
    np.testing.assert_array_equal(found.outputs[0], spikes[:2].mean(0))


@pytest.mark.parametrize("whole_trains", [False, True])
def test_a_maximum_is_that_of_one_step_negative_spikes_are_less_than_none(
    whole_trains,
):
    signs = np.random.default_rng(0).integers(-1, 2, (6, 3, 8, 2))

    def step(layer, state, current, t):
        now = jnp.asarray(layer.found["signs"])[t]
        return state, Sent(now * layer.theta, now != 0)

    def pooled(variables, x):
        return nn.max_pool(one_layer(variables, x), (2,), (2,))

    neuron = StepNeuron(lambda layer: (), step)
    if whole_trains:
        neuron = scanned(neuron)
    run = simulate(pooled, neuron, steps=6, found={"neuron": {"signs": signs}})
    found = run({"theta": jnp.array(0.7)}, jnp.zeros(signs.shape[1:]))
    largest = 0.7 * signs.reshape(6, 3, 4, 2, 2).max(3)
    assert (largest < 0).any()
    np.testing.assert_allclose(found.outputs[-1], largest.mean(0), atol=1e-12)
    np.testing.assert_array_equal(found.spikes["neuron"], (signs != 0).sum((1, 2, 3)))


def test_layers_wait_for_each_other_a_window_or_as_long_as_they_say():
    whole = TrainNeuron(lambda layer, currents: None, window=lambda steps: 2 * steps)
    assert whole.until_output(8, 5) == 5 * 16
    assert whole._replace(wait=lambda steps: 3).until_output(8, 5) == 4 * 3 + 16
    # COS: the last of five layers begins after 4 x 4 steps, listens for 4, sends 8.
    assert offset_spikes(4).until_output(8, 5) == 5 * 4 + 8


@pytest.mark.parametrize("steps", [0, -2])
def test_fewer_than_one_step_is_refused(steps):
    with pytest.raises(ValueError, match=f"at least 1, got {steps}"):
        simulate(one_layer, half_charged(), steps=steps)
