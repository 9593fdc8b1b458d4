"""Methods whose spikes are weighed, timed or ordered: the codes that their trains say.

Float64, so that equal means equal.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from bitsnn_jax import codes, qcfs, spike_planes, spiking
from bitsnn_jax.comparators import (
    METHODS,
    bit_serial,
    few_spikes,
    parallel,
    pascal,
    phase,
    radix,
    ttfs,
)
from bitsnn_jax.comparators.layer import Layer
from bitsnn_jax.comparators.observe import replaced
from bitsnn_jax.comparators.simulation import simulate
from bitsnn_jax.tracing.sites import Site


class Code(NamedTuple):
    """A method's code: k = clip(floor(z / theta * levels + half), 0, top)."""

    module: object
    levels: Callable[[int], int]
    half: float
    top: Callable[[int], int]

    def of(self, z, theta, steps):
        grid = np.floor(z / theta * self.levels(steps) + self.half)
        return np.clip(grid, 0, self.top(steps))


def binary(steps):
    return 2**steps - 1


def unary(steps):
    return steps


CODES = {
    "bit_serial": Code(bit_serial, binary, 0.5, binary),
    "phase": Code(phase, binary, 0.0, binary),
    "radix": Code(radix, binary, 0.0, binary),
    "few_spikes": Code(few_spikes, lambda steps: 2**steps, 0.0, binary),
    "pascal": Code(pascal, unary, 0.5, unary),
    "parallel": Code(parallel, unary, 0.5, unary),
    "ttfs": Code(ttfs, unary, 0.5, unary),
}
EXACT = ("pascal", "parallel", "ttfs")
BINARY = ("bit_serial", "phase", "radix", "few_spikes")


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def layer_of(theta, shape, levels=15):
    return Layer(Site("", levels, shape, np.shape(theta)), jnp.asarray(theta), {})


def trains(rng, theta, steps, neurons=2000):
    """Currents in portions of both signs, their mean from below 0 to above theta."""
    mean = rng.uniform(-0.3 * theta, 1.3 * theta, neurons)
    currents = rng.normal(0, theta, (steps, neurons))
    return currents + mean - currents.mean(0)


def fired(method, theta, currents):
    layer = layer_of(theta, currents.shape[1:])
    neuron = method.neuron(len(currents))
    sent = jax.jit(lambda x: neuron.fire(layer, x))(jnp.asarray(currents))
    return np.asarray(sent.value), np.asarray(sent.spikes)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("name", CODES)
def test_the_mean_of_what_is_sent_is_the_code(name, steps):
    code = CODES[name]
    theta = 1.7
    currents = trains(np.random.default_rng(steps), theta, steps)
    sent, _ = fired(code.module.METHOD, theta, currents)
    expected = code.of(currents.mean(0), theta, steps)
    assert np.array_equal(
        np.rint(sent.mean(0) * code.levels(steps) / theta).astype(int), expected
    )
    np.testing.assert_allclose(
        sent.mean(0), expected * theta / code.levels(steps), rtol=0, atol=1e-14
    )
    assert expected.min() == 0 and expected.max() == code.top(steps)


def test_methods_of_one_code_send_equal_codes():
    """What the tables say under "codes"."""
    groups: dict[str, list[str]] = {}
    for name, method in METHODS.items():
        if method.codes:
            assert method.trained_with == "qcfs"
            groups.setdefault(method.codes, []).append(name)
    assert groups == {
        "counts": ["pascal", "parallel", "ttfs"],
        "floored bits": ["phase", "radix"],
    }
    for steps in (1, 2, 5, 8):
        # In 64ths: sums are exact, so that ties are the same to all.
        currents = np.round(64 * trains(np.random.default_rng(steps), 2.0, steps)) / 64
        for names in groups.values():
            first, *others = (
                fired(METHODS[name], 2.0, currents)[0].mean(0) for name in names
            )
            for other in others:
                np.testing.assert_allclose(other, first, rtol=0, atol=1e-14)


@pytest.mark.parametrize("steps", [1, 3, 4])
@pytest.mark.parametrize("name", CODES)
def test_neurons_fire_at_equality(name, steps):
    # Whole and half steps of the grid, all of them exact numbers: theta = levels.
    code = CODES[name]
    levels = float(code.levels(steps))
    z = np.arange(-1, levels + 2, 0.5)
    currents = np.zeros((steps, len(z)))
    currents[0] = z * steps
    sent, _ = fired(code.module.METHOD, levels, currents)
    assert np.array_equal(np.rint(sent.mean(0)), code.of(z, levels, steps))


def test_thresholds_of_each_channel():
    theta = np.array([0.5, 1.0, 3.0])
    currents = trains(np.random.default_rng(0), 1.0, 4, 900).reshape(4, 300, 3)
    for code in CODES.values():
        sent, _ = fired(code.module.METHOD, theta[None], currents)
        expected = code.of(currents.mean(0), theta, 4) * theta / code.levels(4)
        np.testing.assert_allclose(sent.mean(0), expected, atol=1e-14)


# The rules again, neuron by neuron and spike by spike.


def pascal_by_hand(currents, theta):
    v, count = theta / 2, 0
    for current in currents:
        v += current
        if v >= theta:
            v, count = v - theta, count + 1
    for _ in range(len(currents) - 1):
        if v >= theta:
            v, count = v - theta, count + 1
        elif v < 0:
            v, count = v + theta, count - 1
    ones = min(max(count, 0), len(currents))
    return [theta] * ones + [0.0] * (len(currents) - ones)


def parallel_by_hand(currents, theta):
    steps, mean = len(currents), sum(currents) / len(currents)
    return [
        theta * (steps * mean / t + theta / (2 * t) - theta >= 0)
        for t in range(1, steps + 1)
    ]


def ttfs_by_hand(currents, theta):
    steps, mean = len(currents), sum(currents) / len(currents)
    level = min(max(int(np.floor(mean / theta * steps + 0.5)), 0), steps)
    # The spike at step L - k is worth theta k / L in a sum of L steps.
    return [
        steps * theta * level / steps if level and t == steps - level else 0.0
        for t in range(steps)
    ]


def bits_by_hand(currents, theta, *, half, delta):
    """Thresholds that fall by halves, a mean in the membrane."""
    steps = len(currents)
    v, sent = sum(currents) / steps + half * delta, []
    for t in range(steps):
        weight = delta * 2 ** (steps - 1 - t)
        sent.append(steps * weight if v >= weight else 0.0)
        v -= weight if v >= weight else 0.0
    return sent


def rounded_bits(currents, theta):
    return bits_by_hand(
        currents, theta, half=0.5, delta=theta / (2 ** len(currents) - 1)
    )


def floored_bits(currents, theta):
    return bits_by_hand(
        currents, theta, half=0.0, delta=theta / (2 ** len(currents) - 1)
    )


def few_spikes_by_hand(currents, theta):
    return bits_by_hand(currents, theta, half=0.0, delta=theta / 2 ** len(currents))


BY_HAND = {
    "bit_serial": rounded_bits,
    "phase": floored_bits,
    "radix": floored_bits,
    "few_spikes": few_spikes_by_hand,
    "pascal": pascal_by_hand,
    "parallel": parallel_by_hand,
    "ttfs": ttfs_by_hand,
}


@pytest.mark.parametrize("steps", [1, 2, 5, 8])
@pytest.mark.parametrize("name", BY_HAND)
def test_trains_are_those_of_a_loop_over_neurons(name, steps):
    theta = 2.3
    currents = trains(np.random.default_rng(steps), theta, steps, 300)
    sent, spikes = fired(CODES[name].module.METHOD, theta, currents)
    expected = [BY_HAND[name](list(column), theta) for column in currents.T]
    np.testing.assert_allclose(sent, np.transpose(expected), rtol=1e-14)
    assert np.array_equal(spikes, sent != 0)


def test_pascal_takes_spikes_back_at_every_extreme_order():
    # All that comes is positive first or negative first, so that phase 1 is as wrong
    # as it can be, and T - 1 corrections are needed.
    steps, sums = 6, np.arange(-2, 9.0)
    early = np.zeros((steps, len(sums)))
    early[0], early[-1] = 11.0, sums - 11.0
    for currents in (early, early[::-1].copy()):
        sent, _ = fired(pascal.METHOD, 1.0, currents)
        assert np.array_equal(sent.sum(0), np.clip(sums, 0, steps))


@pytest.mark.slow
def test_inverse_leaky_neurons_of_unweighted_spikes_make_the_same_network():
    """SpikeConverter and radix encoding as they are: 0/1 spikes, membranes that double.

    Two layers; a bias enters the leaky membrane at each step as b / (2**T - 1) for the
    one, and once for the other.
    """
    rng, steps, top = np.random.default_rng(0), 4, 15
    weights = [rng.normal(size=(5, 7)), rng.normal(size=(7, 6)), np.eye(6)]
    biases = [rng.normal(size=7), 0.3 * rng.normal(size=6), np.zeros(6)]
    thetas, x = [2.0, 3.0], rng.normal(size=(40, 5))

    def net(v, x):
        for w, b, theta in zip(v["w"], v["b"], v["theta"], strict=False):
            x = qcfs(x @ w + b, theta)
        return x

    def doubled(spikes, w, bias, delta, once):
        v = 0
        for s in spikes:
            v = 2 * v + delta * s @ w + (0 if once else bias / top)
        return v + once * bias

    def generate(v, delta):
        spikes, threshold = [], delta * 2 ** (steps - 1)
        for _ in range(steps):
            spikes.append((v >= threshold) * 1.0)
            v = 2 * (v - threshold * spikes[-1])
        return spikes

    variables = {"w": weights[:2], "b": biases[:2], "theta": thetas}
    for method, once in ((phase.METHOD, False), (radix.METHOD, True)):
        spikes = generate(x @ weights[0] + biases[0], thetas[0] / top)
        counts = [sum(s.sum() for s in spikes)]
        charge = doubled(spikes, weights[1], biases[1], thetas[0] / top, once)
        spikes = generate(charge, thetas[1] / top)
        counts.append(sum(s.sum() for s in spikes))
        expected = doubled(spikes, weights[2], biases[2], thetas[1] / top, once)
        result = simulate(net, method.neuron(steps), steps=steps)(variables, x)
        np.testing.assert_allclose(result.outputs[-1], expected, atol=1e-12)
        assert [int(s.sum()) for s in result.spikes.values()] == counts


def test_half_a_step_makes_phases_bit_serial():
    currents = trains(np.random.default_rng(0), 1.0, 5)
    layer = layer_of(1.0, currents.shape[1:])
    halved = phase.neuron(5, v_init=0.5).fire(layer, jnp.asarray(currents))
    _, expected = fired(bit_serial.METHOD, 1.0, currents)
    assert np.array_equal(halved.spikes, expected)


# Whole networks.

SINGLE_OUTPUT = [n for n in networks.NETWORKS if n is not networks.ManyInputsAndOutputs]
SOME = [networks.PreActivation, networks.Pooling]


def small(seed=0):
    """Layers, a skip, an analog value that enters late, and a maximum over places."""
    rng = np.random.default_rng(seed)
    variables = {
        "w": rng.normal(size=(3, 6, 6)) / 2,
        "b": 0.3 * rng.normal(size=(3, 6)),
        "theta": np.array([1.5, 0.8, 2.0]),
    }

    def net(v, x):
        a = qcfs(x @ v["w"][0] + v["b"][0], v["theta"][0])
        b = qcfs(a @ v["w"][1] + v["b"][1] + x, v["theta"][1])
        c = qcfs(a + b @ v["w"][2], v["theta"][2])
        return b.max(1) @ v["w"][2] + c.mean(1) + v["b"][2]

    return net, variables, rng.normal(size=(20, 4, 6))


def in_float64(network):
    apply_fn, variables, x = network() if network is small else networks.build(network)

    def double(a):
        a = jnp.asarray(a)
        return a.astype(jnp.float64) if a.dtype == jnp.float32 else a

    return apply_fn, jax.tree.map(double, variables), double(x)


def simulated(network, method, steps, *, by_sum=False):
    """(mean output, {path: codes}), the codes in steps of theta / levels."""
    apply_fn, variables, x = in_float64(network)
    neuron, means = method.neuron(steps), {}

    def fire(layer, currents):
        sent = neuron.fire(layer, currents)
        means[layer.site.path] = sent.value.mean(0) / layer.theta
        return sent

    snn = simulate(apply_fn, neuron._replace(fire=fire), steps=steps, by_sum=by_sum)

    def run(variables, x):
        means.clear()
        result = snn(variables, x)
        return result.outputs[-1], result.spikes, dict(means)

    return jax.jit(run)(variables, x)


def quantised(network, steps, code):
    """The same of the network with the code's grid in the place of its activations."""
    apply_fn, variables, x = in_float64(network)
    made = {}

    def activation(layer, z):
        grid = jnp.floor(z / layer.theta * code.levels(steps) + code.half)
        k = made[layer.site.path] = jnp.clip(grid, 0, code.top(steps))
        return k * (layer.theta / code.levels(steps))

    def run(variables, x):
        made.clear()
        output, _ = replaced(apply_fn, activation)(variables, x)
        return output, dict(made)

    return jax.jit(run)(variables, x)


def check_codes(network, name, steps):
    code = CODES[name]
    output, _, means = simulated(network, code.module.METHOD, steps)
    expected, made = quantised(network, steps, code)
    assert means.keys() == made.keys()
    for path, k in made.items():
        found = np.asarray(means[path]) * code.levels(steps)
        assert np.array_equal(np.rint(found), k), path
        np.testing.assert_allclose(found, k, atol=1e-9)
    np.testing.assert_allclose(output, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", CODES)
def test_networks_are_those_of_the_code(name, steps):
    check_codes(small, name, steps)


@pytest.mark.parametrize("name", CODES)
def test_sums_before_synapses_are_sums_behind_them(name):
    each, summed = (
        simulated(small, CODES[name].module.METHOD, 4, by_sum=on)
        for on in (False, True)
    )
    for path, spikes in each[1].items():
        assert np.array_equal(spikes, summed[1][path])
    np.testing.assert_allclose(each[0], summed[0], rtol=1e-9, atol=1e-9)
    for path, mean in each[2].items():
        np.testing.assert_allclose(mean, summed[2][path], rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("network", SOME)
@pytest.mark.parametrize("name", [n for n in CODES if n != "bit_serial"])
def test_convolutional_networks_are_those_of_the_code(name, network):
    check_codes(network, name, 4 if name in BINARY else 5)


def check_fused(network, steps):
    apply_fn, variables, x = in_float64(network)
    output, spikes, _ = simulated(network, bit_serial.METHOD, steps)
    fused = jax.jit(spiking(apply_fn, steps=steps, mode="fused"))
    expected, stats = fused(variables, x)
    np.testing.assert_allclose(output, expected, rtol=1e-9, atol=1e-9)
    assert spikes.keys() == stats.spikes.keys()
    for path, counts in stats.spikes.items():
        assert np.array_equal(spikes[path], counts), path


@pytest.mark.parametrize(
    "network",
    [
        pytest.param(n, marks=() if n is networks.Pooling else pytest.mark.slow)
        for n in SINGLE_OUTPUT
    ],
)
def test_bit_serial_networks_are_the_fused_ones(network):
    check_fused(network, 4)


@pytest.mark.parametrize("steps", [1, 3, pytest.param(24, marks=pytest.mark.slow)])
def test_bit_serial_networks_at_other_steps(steps):
    # 24 steps are the most that `can` allows; here in float64.
    check_fused(small, steps)


def test_bit_serial_codes_are_those_of_codes_also_at_two_to_the_t_levels():
    z = np.random.default_rng(0).uniform(-1, 3, 500)
    currents = jnp.broadcast_to(z, (4, 500))
    for levels, grid in ((16, 16), (15, 15), (31, 15)):
        layer = layer_of(2.0, (500,), levels)
        spikes = bit_serial.neuron(4).fire(layer, currents).spikes
        k = codes(jnp.asarray(z), 2.0, levels=grid)
        assert np.array_equal(spikes, spike_planes(k, steps=4))


# A maximum over places.


@pytest.mark.parametrize("name", CODES)
def test_the_maximum_of_trains_is_the_train_of_the_maximum(name):
    method, steps, theta = CODES[name].module.METHOD, 5, 1.0
    currents = trains(np.random.default_rng(0), theta, steps, 600).reshape(5, 100, 6)
    sent, _ = fired(method, theta, currents)
    largest = method.neuron(steps).maximum(lambda a: a.max(-1), jnp.asarray(sent))
    best = sent.mean(0).argmax(-1)
    assert np.array_equal(largest, sent[:, np.arange(100), best])


def test_bits_have_no_maximum_of_each_step():
    train = jnp.array([[1.0, 0.0], [0.0, 0.5], [0.0, 0.25]])
    joined = bit_serial.largest_code(lambda a: a.max(-1), train)
    assert np.array_equal(joined, [1.0, 0.0, 0.0])


# Few spikes.


def test_a_table_can_say_other_functions():
    """x itself, for -1 <= x < 1: the first spike always comes, and lifts x by 1."""
    tail = [2.0**-t for t in range(6)]
    neuron = few_spikes.fs_neuron([-np.inf, *tail], [-1, *tail], [-1, *tail])
    x = np.random.default_rng(0).uniform(-1, 1, 500)
    sent = neuron.fire(layer_of(9.0, (500,)), jnp.broadcast_to(x, (7, 500)))
    lost = x - sent.value.mean(0)
    assert lost.min() >= 0 and lost.max() < tail[-1]
    assert np.all(sent.spikes[0]) and np.array_equal(sent.value != 0, sent.spikes)


@pytest.mark.parametrize("steps", [1, 4, 8])
def test_few_spikes_are_bit_serial_but_for_half_a_step_and_the_top(steps):
    # Eq. (10): theta_fs = delta 2**T, and delta / 2 more.
    theta = 1.5
    delta = theta / (2**steps - 1)
    currents = trains(np.random.default_rng(steps), theta, steps)
    _, spikes = fired(bit_serial.METHOD, theta, currents)
    _, few = fired(few_spikes.METHOD, delta * 2**steps, currents + delta / 2)
    assert np.array_equal(spikes, few)


FITTED = {
    "swish": (few_spikes.SWISH, lambda x: x / (1 + np.exp(-x)), (-8, 12), 0.059, 4.17),
    "sigmoid": (
        few_spikes.SIGMOID,
        lambda x: 1 / (1 + np.exp(-x)),
        (-10, 10),
        0.012,
        2.74,
    ),
}


@pytest.mark.parametrize(
    "table, function, ends, error, spikes", FITTED.values(), ids=FITTED
)
def test_the_published_tables_are_of_their_functions(
    table, function, ends, error, spikes
):
    x = np.linspace(*ends, 20001)
    with jax.enable_x64(True):
        layer = Layer(Site("", 15, x.shape, ()), jnp.asarray(1.0), {})
        currents = jnp.broadcast_to(x, (len(table.d), *x.shape))
        sent = few_spikes.fs_neuron(*table).fire(layer, currents)
    off = np.asarray(sent.value).mean(0) - function(x)
    assert np.sqrt(np.mean(off**2)) == pytest.approx(error, abs=5e-4)
    assert np.mean(np.sum(sent.spikes, 0)) == pytest.approx(spikes, abs=5e-3)


def test_bad_tables_are_refused():
    with pytest.raises(ValueError, match="one length.*2, 1 and 2"):
        few_spikes.fs_neuron([1, 2], [1], [1, 2])
    neuron = few_spikes.fs_neuron([1.0], [1.0], [1.0])
    longer = simulate(lambda v, x: qcfs(x, v), neuron, steps=2)
    with pytest.raises(ValueError, match="must send 2 steps.*neurons send 1"):
        longer(jnp.array(1.0), jnp.ones((1, 1)))
    with pytest.raises(ValueError, match="maximum"):
        neuron.maximum(lambda a: a.max(-1), jnp.ones((1, 3)))


def test_latency_and_limits():
    assert pascal.neuron(4).window(4) == 7
    assert phase.neuron(4).window(4) == 4
    for name in set(CODES) - {"pascal", "phase"}:
        assert CODES[name].module.neuron(4).window(4) == 4
    for name in BINARY:
        can = CODES[name].module.METHOD.can
        assert can(24) == "" and "at most 24" in can(25)
    for name in EXACT:
        assert CODES[name].module.METHOD.can(1000) == ""


# Another library.


@pytest.fixture
def spikingjelly():
    pytest.importorskip("spikingjelly", reason="needs bitsnn-jax[oracles]")
    return pytest.importorskip("spikingjelly.activation_based.neuron")


@pytest.mark.parametrize("seed", range(3))
def test_any_table_is_the_few_spike_node_of_spikingjelly(spikingjelly, seed):
    import torch

    rng = np.random.default_rng(seed)
    theta, h, d = rng.normal(size=(3, 9))
    currents = rng.normal(size=(9, 5000))
    table = spikingjelly.FewSpikeTable(
        *(torch.tensor(a, dtype=torch.float64) for a in (theta, h, d))
    )
    node = spikingjelly.FewSpikeNode(table, step_mode="m")
    with torch.no_grad():
        expected = node(torch.from_numpy(currents)).numpy()
    # It sums its input, and means nothing by the mean of its output.
    neuron = few_spikes.fs_neuron(theta, h, d)
    sent = neuron.fire(layer_of(1.0, (5000,)), jnp.asarray(currents * 9))
    np.testing.assert_allclose(sent.value / 9, expected, rtol=1e-12)
    assert 0.05 < np.mean(expected != 0) < 0.95


@pytest.mark.parametrize("steps", [2, 4, 8])
def test_relu_and_bit_serial_are_few_spike_nodes_of_spikingjelly(spikingjelly, steps):
    import torch

    theta = 1.3
    currents = trains(np.random.default_rng(steps), theta, steps, 20000)
    bits = 2.0 ** -np.arange(1, steps + 1)
    unit = theta * 2**steps / (2**steps - 1)
    for method, alpha, half in (
        (few_spikes.METHOD, theta, 0.0),
        (bit_serial.METHOD, unit, unit / 2**steps / 2),
    ):
        table = spikingjelly.FewSpikeTable(
            *(torch.tensor(alpha * bits, dtype=torch.float64) for _ in range(3))
        )
        node = spikingjelly.FewSpikeNode(table, step_mode="m")
        with torch.no_grad():
            expected = node(torch.from_numpy((currents + half) / steps)).numpy()
        sent, _ = fired(method, theta, currents)
        np.testing.assert_allclose(sent / steps, expected, rtol=1e-13)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("steps", [4, 8, 16])
def test_counts_are_those_of_the_half_threshold_node(spikingjelly, steps, name):
    """At constant input, where the rate neuron of QCFS is exact too."""
    import torch

    theta = 1.3
    z = np.random.default_rng(steps).uniform(-0.5 * theta, 1.5 * theta, 20000)
    currents = np.broadcast_to(z, (steps, 20000)).copy()
    node = spikingjelly.HalfThresholdIFNode(v_threshold=theta, step_mode="m")
    with torch.no_grad():
        expected = node(torch.from_numpy(currents)).numpy().sum(0)
    sent, _ = fired(CODES[name].module.METHOD, theta, currents)
    assert np.array_equal(np.rint(sent.sum(0) / theta), expected)
