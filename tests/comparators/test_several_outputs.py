"""Methods that calibrate, on a network that gives more than logits, as detectors do."""

import jax.numpy as jnp
import numpy as np
import pytest

from bitsnn_jax import qcfs
from bitsnn_jax.comparators import METHODS
from bitsnn_jax.comparators.method import Network

STEPS = 4
RNG = np.random.default_rng(0)
VARIABLES = {
    "w": jnp.asarray(RNG.normal(size=(5, 5)), jnp.float32),
    "theta": jnp.float32(2.0),
}
IMAGES = [jnp.asarray(RNG.normal(size=(8, 5)), jnp.float32) for _ in range(2)]
CALIBRATED = [
    name
    for name, method in METHODS.items()
    if method.trained_with == "relu" and name != "rnl"
]


def detector(v, x):
    spikes = qcfs(x @ v["w"], v["theta"])
    return {"boxes": spikes @ v["w"], "classes": spikes.sum(-1)}


@pytest.mark.parametrize("name", CALIBRATED)
def test_thresholds_are_found_whatever_the_outputs(name):
    network = Network(detector, VARIABLES, "relu")
    found = METHODS[name].prepare(network, IMAGES, STEPS).found
    assert list(found) == ["neuron"]


def test_a_method_that_compares_logits_says_so():
    network = Network(detector, VARIABLES, "relu")
    with pytest.raises(ValueError, match="expected one array, got 2 arrays"):
        METHODS["rnl"].prepare(network, IMAGES, STEPS)
