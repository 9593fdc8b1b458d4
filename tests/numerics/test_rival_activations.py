"""Activations that rivals train with, against their equations and their neurons."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitsnn_jax.numerics.layers import QCFS, ClippedReLU
from bitsnn_jax.numerics.rival_activations import RateNorm, SlipReLU, StepReLU

LEVELS, THETA = 4, 1.5
DELTA = THETA / LEVELS
# Both edges, multiples of delta and of half of it, which are exact; and others.
Z = np.concatenate(
    [np.arange(-4, 16) * DELTA / 2, np.random.default_rng(0).normal(size=80)]
).astype(np.float32)


def apply(z, theta, act):
    return act.apply({"params": {"theta": jnp.asarray(theta)}}, z)


def slip(z, slope):
    code = min(max(np.floor(z / DELTA + 0.5), 0), LEVELS)
    return slope * min(max(z, 0), THETA) + (1 - slope) * DELTA * code


def step(z):
    code = 0
    while code < LEVELS and z >= (code + 1) * DELTA:
        code += 1
    return DELTA * code


@pytest.mark.parametrize("slope", [0.0, 0.25, 0.5, 1.0])
def test_slip_relu_is_its_equation(slope):
    with jax.enable_x64(True):
        z = Z.astype(float)
        found = apply(z, THETA, SlipReLU(levels=LEVELS, slope=slope))
    np.testing.assert_allclose(found, [slip(x, slope) for x in z], atol=1e-15)


def test_step_relu_is_its_equation():
    found = apply(Z, THETA, StepReLU(levels=LEVELS))
    np.testing.assert_array_equal(found, [step(float(x)) for x in Z])


def test_slip_relu_is_qcfs_at_one_end_and_clipped_relu_at_the_other():
    for slope, act in ((0.0, QCFS(levels=LEVELS)), (1.0, ClippedReLU())):
        slip = SlipReLU(levels=LEVELS, slope=slope)
        np.testing.assert_array_equal(apply(Z, THETA, slip), apply(Z, THETA, act))


def gradients(act):
    each = jax.vmap(jax.grad(apply, argnums=(0, 1)), (0, None, None))
    return each(Z, THETA, act)


def test_slip_relu_has_the_mean_of_both_gradients():
    to_z, to_theta = gradients(SlipReLU(levels=LEVELS, slope=0.25))
    z_steps, theta_steps = gradients(QCFS(levels=LEVELS))
    z_clipped, theta_clipped = gradients(ClippedReLU())
    np.testing.assert_allclose(to_z, 0.25 * z_clipped + 0.75 * z_steps)
    np.testing.assert_allclose(to_theta, 0.25 * theta_clipped + 0.75 * theta_steps)


def test_step_relu_has_the_gradient_of_clipped_relu():
    for ours, theirs in zip(
        gradients(StepReLU(levels=LEVELS)), gradients(ClippedReLU()), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_a_rate_norm_layer_clips_at_the_running_average_of_its_peaks():
    batches = np.random.default_rng(0).normal(size=(6, 20, 3)).astype(np.float32)
    batches[2] = -1
    variables, theta = {"batch_stats": {"theta": jnp.float32(2.0)}}, 2.0
    for z in batches:
        a, variables = RateNorm().apply(variables, z, mutable=["batch_stats"])
        theta = 0.9 * theta + 0.1 * max(z.max(), 0)
        np.testing.assert_allclose(a, np.clip(z, 0, theta), rtol=1e-6)
    found = variables["batch_stats"]["theta"]
    np.testing.assert_allclose(found, theta, rtol=1e-6)
    seen = RateNorm().apply(variables, batches[0])
    np.testing.assert_array_equal(seen, np.clip(batches[0], 0, found))


def test_replicas_of_a_rate_norm_layer_share_their_peak():
    z = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
    act = RateNorm(axis_name="devices")
    variables = act.init(jax.random.key(0), z[0])

    def run(z):
        return act.apply(variables, z, mutable=["batch_stats"])

    _, found = jax.vmap(run, axis_name="devices")(z)
    _, expected = RateNorm().apply(variables, z.reshape(20, 3), mutable=["batch_stats"])
    theta = expected["batch_stats"]["theta"]
    np.testing.assert_array_equal(found["batch_stats"]["theta"], [theta] * 4)


def test_the_peak_has_no_gradient():
    variables = {"batch_stats": {"theta": jnp.float32(1.0)}}

    def largest(z):
        return RateNorm().apply(variables, z, mutable=["batch_stats"])[0].max()

    z = jnp.array([0.5, 3.0])
    np.testing.assert_array_equal(jax.grad(largest)(z), [0, 0])
