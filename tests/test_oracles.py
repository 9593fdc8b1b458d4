"""The neurons against those of another library, SpikingJelly, in PyTorch.

Skipped where it is not installed; `pip install 'bitsnn-jax[oracles]'` installs it.
"""

from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitsnn_jax.numerics.neurons import bit_serial_if, rate_if
from bitsnn_jax.numerics.spikes import weights

pytest.importorskip("spikingjelly", reason="needs bitsnn-jax[oracles]")
# Imported by name: if SpikingJelly is there, whatever else is missing is an error.
torch = import_module("torch")
neuron = import_module("spikingjelly.activation_based.neuron")

NEURONS = 200_000


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def few_spikes(currents, theta):
    """Stöckl & Maass, 2021, with the thresholds and weights theta 2**(T-t) / L."""
    steps = len(currents)
    delta = theta / (2**steps - 1)
    table = delta * torch.tensor(weights(steps), dtype=torch.float64)
    node = neuron.FewSpikeNode(
        neuron.FewSpikeTable(theta=table, h=table, d=table), step_mode="m"
    )
    halves = np.full((steps, 1), delta / 2 / steps)
    with torch.no_grad():
        sent = node(torch.from_numpy(currents + halves))
    # What is sent is weighted; a spike is what is not 0.
    return sent.numpy() > 0


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 6, 8])
def test_bit_serial_if_fires_as_the_few_spike_neuron(steps):
    rng = np.random.default_rng(steps)
    theta = rng.uniform(0.5, 5.0)
    # From below 0 to above theta, in portions of both signs.
    charge = rng.uniform(-0.2 * theta, 1.2 * theta, NEURONS)
    currents = rng.normal(0, theta, (steps, NEURONS))
    currents += (charge - currents.sum(0)) / steps
    spikes = bit_serial_if(jnp.asarray(currents), theta, steps=steps)
    assert np.array_equal(spikes, few_spikes(currents, theta))
    assert np.all(np.any(spikes, 1)) and not np.any(np.all(spikes, 1))


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_both_fire_at_equality(steps):
    # delta = 1 and whole or half charges: exact, and every threshold is met.
    charge = np.arange(-1, 2**steps + 1, 0.5)
    currents = np.zeros((steps, len(charge)))
    currents[-1] = charge
    theta = 2.0**steps - 1
    spikes = bit_serial_if(jnp.asarray(currents), theta, steps=steps)
    assert np.array_equal(spikes, few_spikes(currents, theta))


@pytest.mark.parametrize("steps", [4, 8, 16])
@pytest.mark.parametrize("constant", [True, False])
def test_rate_if_fires_as_the_half_threshold_neuron(steps, constant):
    rng = np.random.default_rng(steps)
    theta = rng.uniform(0.5, 5.0)
    shape = (1 if constant else steps, NEURONS // 10)
    currents = rng.uniform(-0.5 * theta, 1.5 * theta, shape)
    currents = np.broadcast_to(currents, (steps, shape[1])).copy()
    node = neuron.HalfThresholdIFNode(v_threshold=theta, step_mode="m")
    with torch.no_grad():
        expected = node(torch.from_numpy(currents)).numpy()
    spikes = rate_if(jnp.asarray(currents), theta, v_init=theta / 2)
    assert np.array_equal(spikes, expected)
    assert 0.3 < expected.mean() < 0.7
