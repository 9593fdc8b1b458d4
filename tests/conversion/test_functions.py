"""Networks with functions in front of their codes, gates and joined branches."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitsnn_jax import QCFS, SpikingError, convert, qcfs, spiking, verify
from bitsnn_jax.tracing.fan_out import fan_out

X = np.random.default_rng(0).normal(size=(8, 6, 6, 3))


def signed(y, theta=2.0, off=0.3):
    return qcfs(y, theta) - qcfs(-y, off)


class Block(nn.Module):
    """An inverted residual block as of MobileNetV3, with batch norm and a gate."""

    @nn.compact
    def __call__(self, x):
        norm = nn.BatchNorm(use_running_average=True)
        x = QCFS(theta_init=2.0)(nn.Conv(8, (3, 3))(x))
        y = norm(nn.Conv(16, (1, 1), use_bias=False)(x))
        y = signed(y * nn.relu6(y + 3) / 6)  # a hard swish, written out
        y = nn.Conv(16, (3, 3), feature_group_count=16)(y)
        y = QCFS(theta_init=1.0)(nn.silu(y))
        squeezed = QCFS(theta_init=0.5)(nn.Conv(4, (1, 1))(y.mean((1, 2), keepdims=1)))
        gate = QCFS(theta_init=1.0)(nn.hard_sigmoid(nn.Conv(16, (1, 1))(squeezed)))
        y = nn.Conv(8, (1, 1))(y * gate)
        branch = QCFS(theta_init=0.7)(nn.Conv(4, (1, 1))(x))
        z = jnp.concatenate([x * 0.5, branch], -1)
        z = nn.max_pool(z, (3, 3), (2, 2), "SAME")
        slopes = self.param("slopes", lambda key: jnp.linspace(0.1, 0.4, 12))
        w = nn.Conv(12, (1, 1), (2, 2))(x + y)
        w = signed(jnp.where(w > 0, w, slopes * w), off=0.5)
        return nn.Dense(5)((z + w).reshape(len(x), -1))


@pytest.fixture(scope="module")
def block():
    with jax.enable_x64(True):
        variables = jax.jit(Block().init)(jax.random.key(0), X)
        return jax.tree.map(lambda a: np.asarray(a, np.float64), variables)


def test_a_block_of_functions_gates_and_branches_is_exact(block):
    with jax.enable_x64(True):
        converted, report = convert(Block().apply, block, X[:1], steps=4)
        certificate = verify(Block().apply, block, X, steps=4, snn_variables=converted)
    assert certificate.exact
    assert not report.nonspiking
    assert [p.operation for p in report.products] == ["mul"]
    assert len(report.neurons) == 9  # two of the signed ones are pairs


@pytest.mark.slow
def test_rolled_it_sends_the_same_spikes(block):
    with jax.enable_x64(True):
        converted = convert(Block().apply, block, X[:1], steps=4).variables
        a, b = (
            jax.jit(spiking(Block().apply, steps=4, unroll=unroll))(converted, X)
            for unroll in (True, False)
        )
    np.testing.assert_allclose(a[0], b[0], atol=1e-12)
    for path, spikes in a[1].spikes.items():
        np.testing.assert_array_equal(spikes, b[1].spikes[path])


def test_a_spike_of_a_streamed_train_costs_one_addition_for_each_entry_it_meets():
    def net(w, x):
        x = qcfs(x, 1.0)
        gate = qcfs(x.mean((1, 2)) @ w, 1.0)
        return (x * gate[:, None, None]).sum((1, 2))

    counts = fan_out(net, jnp.ones((3, 3)), jnp.asarray(X[:1], jnp.float32))
    np.testing.assert_array_equal(counts["neuron"], np.full((1, 6, 6, 3), 3 + 1))


def test_a_function_that_rises_again_has_no_table():
    def net(w, x):
        return qcfs(jnp.abs(qcfs(x, 1.0) @ w), 1.0)

    with pytest.raises(SpikingError, match="`abs` .current."):
        convert(net, jnp.eye(3), jnp.ones((1, 3)), steps=4)
    slopes = jnp.array([0.2, -0.2, 0.1])

    def leaky(v, x):
        z = qcfs(x, 1.0) @ jnp.eye(3)
        return qcfs(jnp.where(z > 0, z, v * z), 1.0)

    with pytest.raises(SpikingError, match="in front of neuron@2 .*more than once"):
        convert(leaky, slopes, jnp.ones((1, 3)), steps=4)


def test_a_function_of_two_currents_has_no_table():
    def net(w, x):
        a = qcfs(x, 1.0)
        return qcfs(jnp.maximum(a @ w, a @ w.T), 1.0)

    with pytest.raises(SpikingError, match="`max` .current, current."):
        convert(net, jnp.ones((3, 3)), jnp.ones((1, 3)), steps=4)
