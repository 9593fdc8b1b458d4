"""DSR against its equations, step by step in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitsnn_jax.direct import METHODS

V, STEPS = 0.9, 5


def loop(currents, alpha, tau, dt):
    """Spikes of IF neurons, or LIF ones with tau, one after the other."""
    trains = np.zeros_like(currents)
    for i in np.ndindex(currents.shape[1:]):
        u = 0.0
        for t in range(STEPS):
            x = currents[t, *i]
            beta = np.exp(-dt / tau) if tau else 1.0
            u = beta * u + ((1 - beta) * x if tau else x)
            if u >= alpha * V:
                u -= V
                trains[t, *i] = 1.0
    return trains


def means(train, tau, dt):
    w = [np.exp(-(STEPS - t) * dt / tau) if tau else 1.0 for t in range(1, STEPS + 1)]
    return sum(a * x for a, x in zip(w, train, strict=True)) / sum(w)


@pytest.mark.parametrize(
    ("name", "alpha", "tau", "dt"),
    [("dsr", 0.5, None, 1.0), ("dsr_lif", 0.3, 1.0, 0.05)],
)
@pytest.mark.parametrize("unroll", [True, False])
def test_dsr_is_its_equations(name, alpha, tau, dt, unroll):
    rng = np.random.default_rng(0)
    largest = 1.3 * V / dt
    currents = rng.uniform(-0.3 * largest, largest, size=(STEPS, 4, 30))
    currents += rng.uniform(-0.7 * largest, 0.7 * largest, size=(4, 30))
    g = rng.normal(size=currents.shape)
    with jax.enable_x64(True):
        neuron = METHODS[name].neuron(1.0)

        def values(currents, theta):
            return neuron(currents, {"theta": theta}, unroll=unroll).values

        found, back = jax.vjp(values, jnp.asarray(currents), jnp.asarray(V))
        to_x, to_theta = back(jnp.asarray(g))
    np.testing.assert_allclose(found, V / dt * loop(currents, alpha, tau, dt))
    x, mean_g = means(currents, tau, dt), means(g, tau, dt)
    scale = tau or 1.0
    for t in range(STEPS):
        inside = (x > 0) & (x < V * scale / dt)
        np.testing.assert_allclose(to_x[t], mean_g * inside / scale, rtol=1e-12)
    over = x > V / dt
    assert 0 < over.sum() < over.size / 2 < inside.sum() + over.sum() < over.size
    np.testing.assert_allclose(to_theta, STEPS * dt * mean_g[over].sum(), rtol=1e-12)


@pytest.mark.slow
def test_fewer_spikes_are_a_smaller_rate():
    """The gradient of the number of spikes: that of T clip(x / V, 0, 1)."""
    rng = np.random.default_rng(1)
    currents = jnp.asarray(rng.uniform(-1, 2, size=(STEPS, 50)), jnp.float32)
    neuron = METHODS["dsr"].neuron(1.0)

    def spikes(currents, theta):
        return neuron(currents, {"theta": theta}).spikes.sum()

    def rate(currents, theta):
        return STEPS * jnp.clip(currents.mean(0) / theta, 0, 1).sum()

    found, wanted = (
        jax.grad(f, (0, 1))(currents, jnp.float32(V)) for f in (spikes, rate)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, wanted
    )
