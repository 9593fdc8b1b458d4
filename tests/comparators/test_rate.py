"""Rate coded comparators against loops in NumPy, one neuron at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import build_pure
from neurons_alone import NEURONS, THETA, each, fired, layer, stepped, uneven

from bitsnn_jax import codes, qcfs
from bitsnn_jax.comparators import bos, opi, signed_if, srp, st_bif
from bitsnn_jax.comparators import qcfs as qcfs_method
from bitsnn_jax.comparators.layer import Layer
from bitsnn_jax.comparators.simulation import simulate
from bitsnn_jax.tracing.sites import Site


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def identity(variables, x):
    return qcfs(x, variables["theta"])


# --- OPI


def test_opi_is_the_clipped_relu_to_half_a_spike():
    x = np.random.default_rng(0).normal(1, 2, (1, NEURONS))
    variables = {"theta": jnp.asarray(THETA)}
    for steps in (1, 4, 9):
        run = simulate(identity, opi.METHOD.neuron(steps), steps=steps)
        error = run(variables, x).outputs[-1] - np.clip(x, 0, THETA)
        assert np.abs(error).max() <= THETA / (2 * steps) + 1e-12
    assert opi.METHOD.trained_with == "clipped_relu"


# --- SRP


@pytest.mark.parametrize("tau", [1, 4, 5])
def test_srp_sends_in_two_stages_and_silences_in_the_second(tau):
    steps = 6
    currents = uneven(tau + steps)

    def rule(train):
        first, left = fired(train[:tau], THETA / 2, THETA)
        second, _ = fired(train[tau:], THETA / 2, THETA)
        return first + [s * int(left[-1] > 1e-3 * THETA) for s in second]

    expected = each(rule, currents)
    neuron = srp.neuron(tau)
    values, spikes, _ = stepped(neuron, currents, layer())
    np.testing.assert_array_equal(spikes, expected)
    np.testing.assert_array_equal(values, THETA * expected)
    assert neuron.warm_up == tau
    plain, _, _ = stepped(qcfs_method.neuron(), currents[tau:], layer())
    assert (plain != values[tau:]).any()  # some were silenced


def test_srp_silences_a_neuron_that_has_nothing_left():
    # Left to the four after one step from 1: 1/512 of theta, 1/2048, nothing, less.
    left = THETA * np.array([1 / 512, 1 / 2048, 0, -1])
    site = Site("neuron", 15, (4,), (1,))
    four = Layer(site, jnp.full((1,), THETA), {})
    currents = np.stack([left - THETA / 2, np.full(4, 5.0)])
    _, spikes, _ = stepped(srp.neuron(1), currents, four)
    np.testing.assert_array_equal(spikes[1], [1, 0, 0, 0])


def test_srp_without_a_first_stage_is_qcfs():
    currents = uneven(7)
    one, other = (
        stepped(neuron, currents, layer())[0]
        for neuron in (srp.neuron(0), qcfs_method.neuron())
    )
    np.testing.assert_array_equal(one, other)


def test_all_layers_of_srp_are_judged_at_once():
    apply_fn, variables, x = build_pure()
    w, b, theta = (np.asarray(variables[k]) for k in ("w", "b", "theta"))
    tau, steps, start = 3, 4, np.full(x.shape, theta / 2)
    v, kept, sent, counts = [start, start], [True, True], [], []
    for t in range(tau + steps):
        flow, now = np.asarray(x), []
        for i in range(2):
            before = v[i] + flow @ w + b
            spikes = before >= theta
            v[i] = before - theta * spikes
            now.append((spikes & kept[i]).sum())
            flow = theta * (spikes & kept[i])
        sent.append(flow @ w)
        counts.append(now)
        if t == tau - 1:
            v, kept = [start, start], [u > 1e-3 * theta for u in v]
    found = simulate(apply_fn, srp.neuron(tau), steps=steps)(variables, x)
    means = [np.mean(sent[tau : tau + t + 1], 0) for t in range(steps)]
    np.testing.assert_allclose(found.outputs, means, atol=1e-12)
    charged = [np.sum(counts[: tau + 1], 0), *counts[tau + 1 :]]
    np.testing.assert_array_equal(np.stack([*found.spikes.values()], 1), charged)


# --- COS


def cos_start(train):
    """v(0) in units of theta, from the first rho steps."""
    spikes, left = fired(train, 0.5, 1.0)
    p = [u + 1 for u, s in zip(left, spikes, strict=True) if s]
    r = [u for u, s in zip(left, spikes, strict=True) if not s]
    if left[-1] < 0 and p:
        return 0.5 - max(1, min(p) - 0.999)
    if left[-1] >= 1:
        return 0.5 + max(1, 1.001 - max(r)) if r else np.inf
    return 0.5


@pytest.mark.parametrize("steps", [4, 9])
@pytest.mark.parametrize("rho", [1, 3, 4])
def test_cos_starts_again_from_where_the_first_steps_say(rho, steps):
    currents = uneven(steps)

    def rule(train):
        units = train / THETA
        return fired(units, cos_start(units[:rho]), 1.0)[0]

    expected = each(rule, currents)
    sent = bos.neuron(rho).fire(layer(), jnp.asarray(currents))
    np.testing.assert_array_equal(sent.spikes, expected)
    np.testing.assert_array_equal(sent.value, THETA * expected)


def test_a_shift_of_cos_moves_the_count_of_its_steps_by_one():
    # The theorem of the paper: a count that is wrong is corrected by one spike.
    x = jnp.asarray(uneven(4) / THETA)
    half = jnp.full((NEURONS,), 0.5)
    first, left = bos.fire(x, half)
    start = bos.calibrated_start(x)
    np.testing.assert_array_equal(start, [cos_start(train) for train in x.T.tolist()])
    again, _ = bos.fire(x, start)
    moved = np.asarray(again.sum(0)) - np.asarray(first.sum(0))
    too_many = (left < 0) & (first.sum(0) > 0)
    too_few = (left >= 1) & (first.sum(0) < 4)
    np.testing.assert_array_equal(moved, np.where(too_many, -1, too_few))
    assert too_many.sum() > 50 and too_few.sum() > 50


@pytest.mark.parametrize("steps", [1, 4, 7])
def test_cos_at_constant_input_is_the_quantiser(steps):
    x = np.random.default_rng(0).normal(0.8, 2, (1, NEURONS))
    found = simulate(identity, bos.METHOD.neuron(steps), steps=steps)(
        {"theta": jnp.asarray(THETA)}, x
    )
    reached = np.rint(found.outputs[-1] * steps / THETA)
    expected = codes(jnp.asarray(x), jnp.asarray(THETA), levels=steps)
    np.testing.assert_array_equal(reached, expected)


@pytest.mark.parametrize(("steps", "length"), [(2, 4), (4, 4), (6, 6)])
def test_layers_of_cos_send_rho_steps_at_least(steps, length):
    apply_fn, variables, x = build_pure()
    w, b, theta = (np.asarray(variables[k]) for k in ("w", "b", "theta"))
    flow, counts = np.broadcast_to(x, (length, *x.shape)), []
    for _ in range(2):
        units = ((flow @ w + b) / theta).reshape(length, -1)
        spikes = each(lambda u: fired(u, cos_start(u[:4]), 1.0)[0], units)
        flow = theta * spikes.reshape(length, *x.shape)
        each_step = spikes.sum(1)
        counts.append([*each_step[: steps - 1], each_step[steps - 1 :].sum()])
    neuron = bos.METHOD.neuron(steps)
    found = simulate(apply_fn, neuron, steps=steps)(variables, x)
    means = np.stack([flow[:t].mean(0) @ w for t in range(1, steps + 1)])
    np.testing.assert_allclose(found.outputs, means, atol=1e-12)
    np.testing.assert_array_equal(np.stack([*found.spikes.values()]), counts)
    assert neuron.window(steps) == 4 + length


@pytest.mark.parametrize("steps", [1, 3, 4, 5, 8])
def test_cos_read_on_the_way_is_a_run_of_its_own(steps):
    apply_fn, variables, x = build_pure()
    long, short = (
        simulate(apply_fn, bos.METHOD.neuron(last), steps=last)(variables, x)
        for last in (8, steps)
    )
    np.testing.assert_array_equal(long.outputs[:steps], short.outputs)
    sent = bos.METHOD.neuron(8).length(steps)
    for path, spikes in short.spikes.items():
        assert spikes.sum() == long.spikes[path][:sent].sum()


# --- Fast-SNN


def test_signed_if_takes_spikes_back():
    currents = uneven(9)

    def rule(train):
        v, count, sent = THETA / 2, 0, []
        for x in train:
            v += x
            s = 0
            if v >= THETA:
                s, v = 1, v - THETA
            if v <= -1e-3 and count + s > 0:
                s, v = s - 1, v + THETA
            count += s
            sent.append(s)
        return sent

    expected = each(rule, currents)
    values, spikes, (v, count) = stepped(signed_if.neuron(), currents, layer())
    np.testing.assert_array_equal(values, THETA * expected)
    np.testing.assert_array_equal(spikes, np.abs(expected))
    np.testing.assert_array_equal(count, expected.sum(0))
    np.testing.assert_array_equal(currents.sum(0) + THETA / 2, values.sum(0) + v)
    assert (expected < 0).any() and np.cumsum(expected, 0).min() == 0


def test_signed_if_leaves_what_is_zero_or_just_below():
    # Potentials after a spike and a second step: 0, -1/2048, -1/512, in that order.
    site = Site("neuron", 15, (3,), (1,))
    three = Layer(site, jnp.full((1,), THETA), {})
    currents = np.array([[1.0] * 3, [0, -1 / 2048, -1 / 512]])
    values, _, _ = stepped(signed_if.neuron(), currents, three)
    np.testing.assert_array_equal(values, THETA * np.array([[1, 1, 1], [0, 0, -1]]))


@pytest.mark.parametrize("steps", [1, 3, 6])
def test_signed_if_at_constant_input_is_the_quantiser(steps):
    x = np.random.default_rng(0).normal(0.8, 2, (1, NEURONS))
    found = simulate(identity, signed_if.METHOD.neuron(steps), steps=steps)(
        {"theta": jnp.asarray(THETA)}, x
    )
    expected = codes(jnp.asarray(x), jnp.asarray(THETA), levels=steps)
    reached = np.rint(found.outputs[-1] * steps / THETA)
    np.testing.assert_array_equal(reached, expected)
    assert sum(found.spikes.values()).sum() == expected.sum()


# --- ST-BIF


def test_st_bif_moves_its_tracer_between_zero_and_the_levels():
    currents, levels = uneven(12) / 4, 4

    def rule(train):
        v, tracer, sent = THETA / levels / 2, 0, []
        for x in train:
            v += x
            s = 0
            if v >= THETA / levels and tracer < levels:
                s = 1
            elif v < 0 and tracer > 0:
                s = -1
            v -= THETA / levels * s
            tracer += s
            sent.append(s)
        return sent

    expected = each(rule, currents)
    few = layer()._replace(site=Site("neuron", levels, (NEURONS,), (1,)))
    values, spikes, tracer = stepped(st_bif.neuron(), np.cumsum(currents, 0), few)
    np.testing.assert_array_equal(values, THETA / levels * np.cumsum(expected, 0))
    np.testing.assert_array_equal(spikes, np.abs(expected))
    np.testing.assert_array_equal(tracer, expected.sum(0))
    assert (expected < 0).any() and (tracer == levels).any() and (tracer == 0).any()


@pytest.mark.parametrize("levels", [4, 15])
def test_st_bif_at_constant_input_is_the_quantiser_after_as_many_steps_as_levels(
    levels,
):
    x = np.random.default_rng(0).normal(0.8, 2, (1, NEURONS))

    def network(variables, x):
        return qcfs(x, variables["theta"], levels=levels)

    variables = {"theta": jnp.asarray(THETA)}
    found = simulate(network, st_bif.neuron(), steps=levels + 1)(variables, x)
    np.testing.assert_array_equal(found.outputs[levels - 1], network(variables, x))
    assert found.spikes["neuron"][levels] == 0
    assert (found.outputs[levels - 2] != found.outputs[levels - 1]).any()
