"""Tied thresholds: what skip connections multiply codes with is a power of two."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitsnn_jax import qcfs
from bitsnn_jax.integers.execution import one_shot, stepped
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.integers.graph import Scale
from bitsnn_jax.integers.lowering import lower
from bitsnn_jax.integers.ties import tied

WEIGHTS = np.random.default_rng(0).normal(size=(5, 12, 12)).astype(np.float32) / 3
PIXELS = np.random.default_rng(1).integers(0, 256, (9, 12))
THETAS = (1.1, 1.7, 0.4, 2.9)
# The layers that each layer is given beside its weights, and times what.
CHAIN = {1: {0: 1.0}, 2: {1: 1.0}, 3: {2: 1.0}}
ACROSS = {2: {0: 1.0}, 3: {1: -1.0, 2: 1.0}}
FACTORS = {1: {0: 1 / 9}, 3: {1: 4 / 9, 0: 4 / 81}}


def dense(skips, thetas=THETAS):
    """The graph of four layers, each fed by the one before and by skips of its own."""

    def apply_fn(weights, x):
        codes = []
        for i, theta in enumerate(thetas):
            z = (codes[-1] if codes else x / 128 - 1) @ weights[i]
            z += sum(factor * codes[j] for j, factor in skips.get(i, {}).items())
            codes.append(qcfs(z, jnp.asarray(theta, jnp.float32)))
        return codes[-1] @ weights[4]

    return lower(apply_fn, WEIGHTS, jnp.zeros((1, 12)))


def multipliers(network):
    """All that codes are multiplied with on their way to neurons."""
    return [
        np.abs(term.numbers)
        for node in network.of_kind("neurons")
        for term in node.terms
        if isinstance(term.weight, Scale)
    ]


def are_powers_of_two(numbers):
    return all((n & (n - 1) == 0).all() for n in numbers)


@pytest.mark.parametrize("skips", [CHAIN, ACROSS, FACTORS], ids=("1", "across", "4/9"))
@pytest.mark.parametrize("steps", [3, 8])
def test_multipliers_of_skips_are_powers_of_two(skips, steps):
    graph = dense(skips)
    assert not are_powers_of_two(multipliers(fixed_point(graph, steps=steps)))
    for images in (PIXELS, None):
        made = tied(graph, steps=steps, inputs=images)
        found = multipliers(fixed_point(made.graph, steps=steps))
        assert found and are_powers_of_two(found) and not made.untied


def test_channels_of_a_layer_may_be_different_powers_apart():
    apart = np.geomspace(0.3, 3, 12)
    graph = dense(CHAIN, thetas=(1.1, apart, 1.3, 0.8))
    made = tied(graph, steps=4, inputs=PIXELS)
    assert are_powers_of_two(multipliers(fixed_point(made.graph, steps=4)))
    [chain] = made.chains
    base, theta = (made.graph[name].theta for name in chain.layers[:2])
    assert theta.shape == (1, 12) and base.size == 1
    octaves = np.log2(theta / base)
    np.testing.assert_array_equal(octaves, np.rint(octaves))
    assert len(set(octaves.reshape(-1))) > 2


def test_one_pass_and_spikes_agree_and_only_thetas_are_others():
    graph = dense(ACROSS)
    made = tied(graph, steps=3)
    names = {name for chain in made.chains for name in chain.layers}
    assert len(names) == len(THETAS)
    for old, new in zip(graph.nodes, made.graph.nodes, strict=True):
        assert old.terms is new.terms and old.bias is new.bias
        assert (old.theta is new.theta) == (old.name not in names)
    network = fixed_point(made.graph, steps=3)
    once, spikes = (
        jax.jit(run(network, carrier="float32"))(PIXELS) for run in (one_shot, stepped)
    )
    jax.tree.map(np.testing.assert_array_equal, once, spikes)


def test_no_base_and_no_powers_have_a_smaller_error():
    graph = dense(CHAIN)
    made = tied(graph, steps=4, inputs=PIXELS)
    [chain] = made.chains
    wanted, currents, a = {}, {}, 0
    for i, name in enumerate(chain.layers):  # the network as it was trained, in NumPy
        z = (PIXELS / 128 - 1 if i == 0 else a) @ WEIGHTS[i] + (a if i else 0)
        a = quantised(z, THETAS[i])
        wanted[name], currents[name] = a, z

    def error(thetas):
        errors = [
            np.mean((quantised(currents[name], theta) - wanted[name]) ** 2)
            for name, theta in zip(chain.layers, thetas, strict=True)
        ]
        return sum(errors)

    found = error([made.graph[name].theta.item() for name in chain.layers])
    base = 2.0 ** (np.arange(64) / 64)
    others = []
    for start in base:
        choices = [start * 2.0 ** np.arange(-4, 4)] * len(chain.layers)
        best = [
            min(
                thetas,
                key=lambda theta, n=name: error_of(currents[n], wanted[n], theta),
            )
            for name, thetas in zip(chain.layers, choices, strict=True)
        ]
        others.append(error(best))
    assert found == pytest.approx(min(others), rel=1e-5)
    assert found < max(others) / 2


def quantised(z, theta):
    delta = theta / 15
    return delta * np.clip(np.floor(z / delta + 0.5), 0, 15)


def error_of(z, wanted, theta):
    return np.mean((quantised(z, theta) - wanted) ** 2)


def test_a_network_without_skips_stays():
    graph = dense({})
    made = tied(graph, steps=4, inputs=PIXELS)
    assert not made.chains and not made.untied
    assert all(a is b for a, b in zip(graph.nodes, made.graph.nodes, strict=True))


UNTIED = {
    "other skip connections ask for another": dense({1: {0: 1}, 2: {1: 1, 0: 3}}),
    "no powers of two of each other": dense({2: {0: np.linspace(0.5, 1, 12)}}),
}


@pytest.mark.parametrize("reason", UNTIED)
def test_a_skip_that_cannot_be_tied_says_why_and_the_others_are(reason):
    made = tied(UNTIED[reason], steps=4)
    [untied] = made.untied
    assert reason in untied.reason
    assert (untied.source, untied.target) == ("neuron", "neuron@3")
    network = fixed_point(made.graph, steps=4)
    [*of_others, own] = multipliers(network)
    assert are_powers_of_two(of_others) and not are_powers_of_two([own])


def test_sums_have_units_of_their_own():
    def apply_fn(weights, x):
        x = qcfs((x / 128 - 1) @ weights[4], jnp.float32(1.3))
        x += x @ weights[0]
        x += qcfs(x @ weights[1], jnp.float32(0.9)) @ weights[2]
        return qcfs(x @ weights[3], jnp.float32(1)) @ weights[4]

    made = tied(lower(apply_fn, WEIGHTS, jnp.zeros((1, 12))), steps=4)
    assert not made.chains and made.untied
    assert all("of kind sum" in skip.reason for skip in made.untied)


def test_inputs_of_another_shape_are_refused():
    with pytest.raises(
        ValueError, match=r"expected at least one input, \[n, \(12,\)\]"
    ):
        tied(dense(CHAIN), steps=4, inputs=PIXELS[:, :5])
