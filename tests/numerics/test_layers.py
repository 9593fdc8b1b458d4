"""Layers: the clipped ReLU against its equation, and beside QCFS."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitsnn_jax.numerics.layers import QCFS, ClippedReLU, SignedQCFS
from bitsnn_jax.numerics.qcfs import qcfs, signed_qcfs

Z = np.array([-1.0, -0.0, 0.0, 0.25, 1.0, 1.5, 2.0, 3.0], np.float32)
THETA = 1.5


def apply(z, theta, act=ClippedReLU):
    return act().apply({"params": {"theta": jnp.asarray(theta)}}, z)


def test_clipped_relu_is_its_equation():
    np.testing.assert_array_equal(apply(Z, THETA), np.clip(Z, 0, THETA))


def test_clipped_relu_has_the_stated_gradient_edges_included():
    to_z, to_theta = jax.vmap(jax.grad(apply, argnums=(0, 1)), (0, None))(Z, THETA)
    np.testing.assert_array_equal(to_z, (Z > 0) & (Z < THETA))
    np.testing.assert_array_equal(to_theta, Z >= THETA)


def test_clipped_relu_passes_on_what_is_no_number():
    assert np.isnan(apply(jnp.array([np.nan]), THETA)).all()


@pytest.mark.parametrize("per_channel", [False, True])
def test_qcfs_is_within_half_a_step_of_the_clipped_relu(per_channel):
    # So that a network trained with the one starts well with the other.
    z = np.random.default_rng(0).normal(size=(50, 3)).astype("f4")
    relu, qcfs = (
        act(theta_init=THETA, per_channel=per_channel) for act in (ClippedReLU, QCFS)
    )
    variables = relu.init(jax.random.key(0), z)
    assert variables["params"]["theta"].shape == ((3,) if per_channel else ())
    apart = np.abs(qcfs.apply(variables, z) - relu.apply(variables, z)).max()
    half = THETA / 15 / 2
    # The largest of 150 distances, some ulp of 1 above the bound at most.
    assert 0.9 * half < apart < half + 1e-6


@pytest.mark.parametrize("act", [QCFS, ClippedReLU])
def test_activations_return_the_type_of_their_input(act):
    for dtype in (jnp.bfloat16, jnp.float32):
        assert apply(jnp.asarray(Z, dtype), THETA, act).dtype == dtype


def test_a_signed_activation_is_a_pair_of_neurons():
    z = jnp.linspace(-2.5, 2.5, 41).reshape(1, -1)
    act = SignedQCFS(levels=7, theta_init=1.5)
    variables = act.init(jax.random.key(0), z)
    a, sown = act.apply(variables, z, mutable=["activations"])
    np.testing.assert_array_equal(a, signed_qcfs(z, 1.5, levels=7))
    np.testing.assert_array_equal(a, qcfs(z, 1.5, levels=7) - qcfs(-z, 1.5, levels=7))
    np.testing.assert_array_equal(a, -signed_qcfs(-z, 1.5, levels=7))
    assert len(sown["activations"]["a"]) == 2

    def total(z, theta):
        return signed_qcfs(z, theta, levels=7).sum()

    to_z, to_theta = jax.grad(total, argnums=(0, 1))(z, jnp.full_like(z, 1.5))
    inside = np.abs(z) < 1.5
    np.testing.assert_array_equal(to_z, inside & (z != 0))
    wanted = np.where(inside, (a - z) / 1.5, np.sign(z))
    np.testing.assert_allclose(to_theta, wanted, atol=1e-6)
