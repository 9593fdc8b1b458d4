"""Networks that send signed digits: the codes and outputs of those that send bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import (
    NETWORKS,
    PreActivation,
    Residual,
    build,
)

from bitsnn_jax import convert, qcfs, spiking, verify

DIGITS = {"coding": "signed_digits"}
QUICK = (PreActivation,)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize(
    "network",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS],
)
def test_every_code_is_that_of_the_ann(network, x64):
    apply_fn, variables, x = build(network)
    found = verify(apply_fn, variables, x, steps=4, bias_shift="auto", **DIGITS)
    assert found.exact, str(found)


def test_parameters_that_were_shifted_for_bits_serve_digits_too(x64):
    apply_fn, variables, x = build(Residual)
    converted = convert(apply_fn, variables, x, steps=4).variables
    given = {"steps": 4, "snn_variables": converted, **DIGITS}
    assert verify(apply_fn, variables, x, **given).exact
    off = jax.tree.map(lambda leaf: leaf, converted)
    off["params"]["BatchNorm_1"]["bias"] += 0.01
    assert not verify(apply_fn, variables, x, **given | {"snn_variables": off}).exact


def test_all_modes_count_the_same_digits(x64):
    apply_fn, variables, x = build(PreActivation)
    options = {"steps": 4, "bias_shift": "auto"}

    def counted(**more):
        snn_fn = jax.jit(spiking(apply_fn, **options, **more))
        output, stats = snn_fn(variables, x)
        return output, stats.spikes, stats.spikes_per_neuron

    bits = counted()
    once = counted(mode="fused", **DIGITS)
    for found in (counted(**DIGITS), counted(unroll=False, **DIGITS)):
        np.testing.assert_allclose(found[0], bits[0], rtol=0, atol=1e-11)
        for path, spikes in found[1].items():
            assert spikes.shape == (5,)
            np.testing.assert_array_equal(spikes, once[1][path], err_msg=path)
    assert once[2] < bits[2]


def test_functions_in_front_of_a_code_send_its_digits(x64):
    def apply_fn(v, x):
        return qcfs(jax.nn.gelu(x @ v["w"]), v["theta"]) @ v["w"]

    rng = np.random.default_rng(0)
    variables = {"w": jnp.asarray(rng.normal(size=(6, 6))), "theta": jnp.array(3.0)}
    found = verify(apply_fn, variables, rng.normal(size=(40, 6)), steps=4, **DIGITS)
    assert found.exact and found.neurons == 240
