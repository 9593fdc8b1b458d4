"""Neurons and surrogates, value and gradient, against NumPy loops in float64."""

import functools
import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neurons_by_hand import SLOPES, Leak, gradients, run, sigma

from bitsnn_jax.direct.neurons import (
    IntegrateAndFire,
    above,
    decay,
    integrate,
    leak,
    parametric_leak,
    relative,
)
from bitsnn_jax.direct.surrogates import DERIVATIVES, SURROGATES, evolving, surrogate

SHAPE = (4, 6)  # T, neurons
CHARGES = {
    "IF": (integrate, lambda w: Leak(1.0, 1.0)),
    "LIF, decay": (decay(0.25), lambda w: Leak(0.25, 1.0)),
    "LIF, tau": (leak(3.0), lambda w: Leak(1 - 1 / 3, 1 / 3)),
    "PLIF": (parametric_leak, lambda w: Leak(sigma(-w), sigma(w))),
}
RESETS = tuple(itertools.product(("hard", "soft"), (False, True)))
# Charge, (reset, whether it is detached), drive, whether only membranes are kept.
KINDS = [
    *itertools.product(CHARGES, RESETS, (above,), (True,)),
    *itertools.product(["PLIF"], RESETS, (relative,), (False,)),
]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def ours():
    """All kinds in one program: (x, w, theta, g, h) -> spikes, membranes, gradients."""

    def kind(charge, reset, drive, remat, args):
        neuron = IntegrateAndFire(
            CHARGES[charge][0],
            SURROGATES["sigmoid"],
            *reset,
            drive=drive,
        )

        def fired(x, w, theta):
            found = neuron(x, {"w": w, "theta": theta}, remat=remat)
            return found.spikes, found.membranes

        out, backward = jax.vjp(fired, *args[:3])
        return *out, *backward(args[3:])

    return jax.jit(lambda *args: [kind(*names, args) for names in KINDS])


@settings(max_examples=12)
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([0.1, 1.0, 3.0]))
def test_every_neuron_is_a_loop_over_time_and_so_is_its_gradient(seed, scale):
    rng = np.random.default_rng(seed)
    x, g, h = scale * rng.normal(0.3, size=(3, *SHAPE))
    w, theta = rng.normal(), rng.uniform(0.3, 2.0)
    for names, found in zip(KINDS, ours()(x, w, theta, g, h), strict=True):
        charge, (reset, detached), drive, _ = names
        shares = CHARGES[charge][1](w)
        how = {"soft": reset == "soft", "relative": drive is relative}
        spikes, membranes = run(x, theta, shares, **how)
        slope = SLOPES["sigmoid"][0]
        dx, dtheta, dsigma = gradients(
            x, theta, shares, g, h, slope, **how, detached=detached
        )
        # sigma'(w) = a b, in a layer that trains w.
        dw = dsigma * shares.a * shares.b if charge == "PLIF" else 0
        want = (spikes, membranes, dx, dw, dtheta)
        for value, expected in zip(found, want, strict=True):
            np.testing.assert_allclose(
                value, expected, rtol=1e-11, atol=1e-11 * scale, err_msg=str(names)
            )


def test_a_neuron_fires_at_its_threshold():
    x = np.array([[0.75], [0.25], [1.0]])  # exact, also in binary
    assert IntegrateAndFire()(x, {}).spikes.ravel().tolist() == [0, 1, 1]


@pytest.fixture(scope="module")
def sent():
    """Of each surrogate: z, g, the spikes, H'(z) and what comes back for g."""

    def one(name, z, g):
        spikes, backward = jax.vjp(SURROGATES[name], z)
        return spikes, DERIVATIVES[name](z), *backward(g)

    edges = [-1.0, -0.5, 0.0, 0.5, 1.0]
    z = np.concatenate([np.linspace(-1.7, 1.7, 101) + 1e-3, edges])
    g = np.random.default_rng(0).normal(size=z.shape)
    with jax.enable_x64(True):
        found = jax.jit(lambda z, g: {name: one(name, z, g) for name in SURROGATES})
        return z, g, found(z, g)


@pytest.mark.parametrize("name", SURROGATES)
def test_a_spike_passes_on_its_surrogate_times_what_comes_back(name, sent):
    z, g, found = sent
    spikes, slopes, back = found[name]
    want = SLOPES[name][0](z)
    np.testing.assert_array_equal(spikes, z >= 0)
    np.testing.assert_allclose(slopes, want, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(back, g * want, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", SURROGATES)
def test_a_surrogate_is_the_derivative_of_its_smooth_step(name, sent):
    z, _, found = sent
    z, slopes = z[:-5], found[name][1][:-5]  # without its edges
    smooth, step = SLOPES[name][1], 1e-6
    rise = (smooth(z + step) - smooth(z - step)) / (2 * step)
    # Differences are off by step^2, and by 1e-16 / step.
    np.testing.assert_allclose(slopes, rise, rtol=1e-7, atol=1e-9)
    assert smooth(-1e9) == pytest.approx(0, abs=1e-6)
    assert smooth(1e9) == pytest.approx(0.3 if name == "linear" else 1, abs=1e-6)


def test_a_sharpness_that_is_traced_gets_no_gradient():
    def sent(k, z):
        return surrogate(lambda z: evolving(z, k))(z)

    dk, dz = jax.jit(jax.grad(sent, argnums=(0, 1)))(5.0, 0.1)
    assert dk == 0
    np.testing.assert_allclose(dz, 2.5 / np.cosh(0.5) ** 2, rtol=1e-14)
