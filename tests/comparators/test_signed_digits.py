"""Signed digits: those of the non-adjacent form, of the codes of QCFS."""

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from bitsnn_jax import qcfs
from bitsnn_jax.comparators import METHODS, signed_digits
from bitsnn_jax.comparators.layer import Layer
from bitsnn_jax.comparators.observe import replaced
from bitsnn_jax.comparators.simulation import simulate
from bitsnn_jax.tracing.sites import Site


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def non_adjacent(code, steps):
    """Digits from the last one, by remainders of four."""
    found = []
    for _ in range(steps):
        digit = 2 - code % 4 if code % 2 else 0
        found.append(digit)
        code = (code - digit) // 2
    assert code == 0
    return found[::-1]


@pytest.mark.parametrize("steps", [2, 3, 4, 5, 9])
def test_every_code_is_sent_as_its_non_adjacent_form(steps):
    levels, theta = 2 ** (steps - 1) - 1, 1.7
    z = (np.arange(-2 * levels, 3 * levels) / 2 + 0.25) * theta / levels
    layer = Layer(Site("", levels, z.shape, ()), jnp.array(theta), {})
    currents = np.random.default_rng(0).normal(size=(steps, len(z)))
    currents += z - currents.mean(0)
    sent = jax.jit(lambda x: signed_digits.neuron(steps).fire(layer, x))(currents)
    codes = np.clip(np.floor(z / theta * levels + 0.5), 0, levels).astype(int)
    expected = np.array([non_adjacent(code, steps) for code in codes]).T
    np.testing.assert_array_equal(np.sign(sent.value), expected)
    np.testing.assert_array_equal(sent.spikes, np.abs(expected))
    np.testing.assert_allclose(
        sent.value.mean(0), codes * theta / levels, rtol=0, atol=1e-13
    )
    assert not (expected[1:] * expected[:-1]).any()
    bits = np.array([bin(code).count("1") for code in codes])
    assert (np.abs(expected).sum(0) <= bits).all() and (sent.spikes == 0).any()


def test_at_equality_the_higher_code_is_sent():
    z = np.arange(0, 15, 0.5)
    layer = Layer(Site("", 15, z.shape, ()), jnp.array(15.0), {})
    currents = np.zeros((5, len(z)))
    currents[0] = 5 * z
    sent = signed_digits.neuron(5).fire(layer, jnp.asarray(currents))
    expected = qcfs(jnp.asarray(z), jnp.array(15.0), levels=15)
    np.testing.assert_array_equal(np.rint(sent.value.mean(0)), expected)


@pytest.mark.parametrize("by_sum", [True, False])
@pytest.mark.parametrize("network", [networks.Residual, networks.Pooling])
def test_a_network_is_its_ann(network, by_sum):
    apply_fn, variables, x = networks.build(network)
    run = simulate(apply_fn, signed_digits.neuron(5), steps=5, by_sum=by_sum)
    found = jax.jit(run)(variables, x)

    def activation(layer, z):
        return qcfs(z, layer.theta, levels=15)

    wanted, _ = replaced(apply_fn, activation)(variables, x)
    np.testing.assert_allclose(found.outputs[0], wanted, rtol=0, atol=1e-11)
    bits = jax.jit(simulate(apply_fn, METHODS["bit_serial"].neuron(4), steps=4))
    totals = [
        sum(float(each.sum()) for each in result.spikes.values())
        for result in (found, bits(variables, x))
    ]
    assert 0 < totals[0] < totals[1]


def test_one_digit_holds_no_code():
    assert "no code" in signed_digits.METHOD.can(1)
    assert signed_digits.METHOD.can(5) == ""
    assert signed_digits.METHOD.can(40)
