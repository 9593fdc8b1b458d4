"""The parts of the error: by hand, by their laws, and against NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from bitsnn_jax import qcfs, spiking
from bitsnn_jax.comparators import simulate
from bitsnn_jax.comparators.ablation import CELLS, first_and_biases
from bitsnn_jax.comparators.decomposition import decomposed
from bitsnn_jax.comparators.qcfs import METHOD as QCFS_RATE


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def errors(name, network, steps):
    apply_fn, variables, x = networks.build(network)
    wide = partial(jax.tree.map, lambda a: jnp.asarray(a, jnp.float64))
    variables, x = wide(variables), wide(x)
    found = first_and_biases(apply_fn, variables, x[:1])
    run = decomposed(apply_fn, CELLS[name], steps=steps, found=found)
    return jax.jit(run)(variables, x)[1]


@pytest.mark.parametrize(("name", "levels"), [("none", 3), ("left_shift_bn", 7)])
def test_the_parts_add_up_and_are_bounded(name, levels):
    first, *others = errors(name, networks.PreActivation, 3).values()
    # The image is constant in time, or seen at once; what spikes bring is not.
    assert not first.unevenness.any()
    assert any(part.unevenness.any() for part in others)
    for part in (first, *others):
        clipping, quantisation, unevenness, total = map(np.asarray, part)
        # Numbers of the size of 1, four of them.
        parts = clipping + quantisation + unevenness
        np.testing.assert_allclose(parts, total, rtol=0, atol=1e-14)
        assert clipping.max() <= 0
        assert np.abs(quantisation).max() <= 0.5 / levels * (1 + 1e-12)
        assert not (quantisation * clipping).any()  # one that is clipped is on the grid
        # In whole steps, as far as a division by `levels` and back allows.
        jumps = unevenness * levels
        np.testing.assert_allclose(jumps, np.rint(jumps), atol=1e-12)


@pytest.mark.parametrize(
    ("name", "network", "steps"),
    [
        ("modified_if", networks.PreActivation, 3),
        ("all", networks.PreActivation, 4),
        ("all", networks.Pooling, 3),
        ("all", networks.NormBeforeConvolution, 1),
    ],
)
def test_who_integrates_first_has_no_unevenness(name, network, steps):
    for part in errors(name, network, steps).values():
        assert not part.unevenness.any()
        np.testing.assert_allclose(sum(part[:3]), part.total, rtol=0, atol=1e-14)


def test_a_late_charge_is_unevenness():
    """Two neurons that fire at the last step, into one that would have fired twice.

    Two steps, theta = 1, inputs 0.25 and 0.375: membranes are 0.75 and 0.875 after the
    first, 1.0 and 1.25 after the second, and both fire only then. The next, with
    weights 1.5 each and a bias of 0.1, is at 0.6, then at 3.7: one spike, 1/2. Its mean
    input is Z = 1.6, which asks for two.
    """

    def net(v, x):
        return qcfs(qcfs(x, 1.0) @ v + 0.1, 1.0)

    run = decomposed(net, CELLS["none"], steps=2)
    output, found = jax.jit(run)(jnp.full((2, 1), 1.5), jnp.array([[0.25, 0.375]]))
    first, second = found.values()
    np.testing.assert_allclose(first.quantisation, [[0.25, 0.125]])
    assert not first.unevenness.any()
    np.testing.assert_allclose(second.clipping, [[-0.6]])
    np.testing.assert_allclose(second.quantisation, [[0]])
    np.testing.assert_allclose(second.unevenness, [[-0.5]])
    np.testing.assert_allclose(second.total, [[-1.1]])
    np.testing.assert_allclose(output, [[0.5]])


@pytest.mark.parametrize("steps", (2, 5))
def test_rate_against_numpy(steps):
    """Both layers of a small network, step by step, every layer at each step."""
    apply_fn, variables, _ = networks.build_pure()
    x = np.random.default_rng(0).normal(size=(40, 6))
    wide = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), variables)
    _, found = jax.jit(decomposed(apply_fn, CELLS["none"], steps=steps))(wide, x)
    w, b, theta = (np.asarray(wide[k]) for k in ("w", "b", "theta"))
    v = [np.full((40, 6), theta / 2) for _ in range(2)]
    inputs, outputs = [np.zeros((40, 6)) for _ in v], [np.zeros((40, 6)) for _ in v]
    for _ in range(steps):
        a = x
        for i in range(2):
            current = a @ w + b
            inputs[i] += current / steps
            v[i] = v[i] + current
            a = theta * (v[i] >= theta)
            v[i] = v[i] - a
            outputs[i] += a / steps
    for part, z, snn in zip(found.values(), inputs, outputs, strict=True):
        relu = np.maximum(z, 0)
        clip = np.minimum(relu, theta)
        step = theta / steps
        quantised = np.clip(step * np.floor(z / step + 0.5), 0, theta)
        expected = (clip - relu, quantised - clip, snn - quantised, snn - relu)
        np.testing.assert_allclose(part, np.array(expected) / theta, atol=1e-14)


def test_the_network_is_the_one_that_is_compared():
    """One sums over steps on the way, the other at the end."""
    apply_fn, variables, _ = networks.build_pure()
    x = np.random.default_rng(0).normal(size=(40, 6))
    wide = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), variables)
    output, _ = jax.jit(decomposed(apply_fn, CELLS["none"], steps=5))(wide, x)
    rate = jax.jit(simulate(apply_fn, QCFS_RATE.neuron(5), steps=5))(wide, x)
    np.testing.assert_allclose(output, rate.outputs[-1], rtol=1e-12, atol=1e-12)


def test_the_maximum_of_bits_is_that_of_their_codes():
    apply_fn, variables, x = networks.build(networks.Pooling)
    wide = partial(jax.tree.map, lambda a: jnp.asarray(a, jnp.float64))
    variables, x = wide(variables), wide(x)
    found = first_and_biases(apply_fn, variables, x[:1])
    run = decomposed(apply_fn, CELLS["all"], steps=3, found=found)
    output, _ = jax.jit(run)(variables, x)
    fused = jax.jit(spiking(apply_fn, steps=3, mode="fused"))(variables, x)[0]
    np.testing.assert_allclose(output, fused, rtol=1e-12, atol=1e-12)
