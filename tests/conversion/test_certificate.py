"""The certificate sees what it should: a wrong bias, a wrong code, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import Residual, build

from bitsnn_jax import convert, qcfs, verify


def test_a_network_without_the_shift_is_found_out():
    with jax.enable_x64(True):
        apply_fn, variables, x = build(Residual)
        unshifted = verify(apply_fn, variables, x, steps=4, snn_variables=variables)
        assert not unshifted.exact
        first, *others = unshifted.layers.values()
        assert first.differing == 0  # the stem is not fed by spikes
        assert sum(layer.differing for layer in others) > 0.2 * unshifted.neurons


def test_one_bias_a_little_off_is_found_out():
    with jax.enable_x64(True):
        apply_fn, variables, x = build(Residual)
        converted, report = convert(apply_fn, variables, x, steps=4)
        bias = converted["params"]["BatchNorm_1"]["bias"]
        converted["params"]["BatchNorm_1"]["bias"] = bias.at[0].add(0.01)
        certificate = verify(apply_fn, variables, x, steps=4, snn_variables=converted)
        assert not certificate.exact
        assert "NOT exact" in str(certificate)


def test_differences_are_counted_one_by_one():
    x = jnp.array([0.2, 1.0, 5.0, 5.0])
    variables = {"gain": jnp.array(1.0)}

    def apply_fn(v, x):
        return qcfs(x * v["gain"], 15.0)

    # With a gain of 2 the codes 0 1 5 5 become 0 2 10 10.
    other = {"gain": jnp.array(2.0)}
    certificate = verify(apply_fn, variables, x, steps=4, snn_variables=other)
    [layer] = certificate.layers.values()
    assert (layer.neurons, layer.differing) == (4, 3)
    assert (certificate.examples, certificate.examples_differing) == (4, 3)
    assert layer.largest_membrane_difference == pytest.approx(5.0)
    assert certificate.largest_output_difference == pytest.approx(5.0)


def test_batches_add_up():
    with jax.enable_x64(True):
        apply_fn, variables, x = build(Residual)
        whole = verify(apply_fn, variables, x, steps=2)
        parts = verify(apply_fn, variables, x, steps=2, batch_size=3)
        assert whole.exact and parts.exact
        assert {p: c.neurons for p, c in whole.layers.items()} == {
            p: c.neurons for p, c in parts.layers.items()
        }
        assert (parts + parts).neurons == 2 * whole.neurons
        with pytest.raises(ValueError, match="do not add up"):
            _ = whole + verify(apply_fn, variables, x, steps=3)


def test_nothing_compared_proves_nothing():
    certificate = verify(lambda v, x: x, {}, jnp.ones(3), steps=4)
    assert certificate.neurons == 0 and not certificate.exact


def test_float32_is_counted_and_not_excused():
    apply_fn, variables, x = build(Residual)
    certificate = verify(apply_fn, variables, x, steps=4)
    assert certificate.exact == (certificate.differing == 0)
    assert np.isfinite(certificate.largest_output_difference)
    assert 0 < max(
        layer.largest_membrane_difference for layer in certificate.layers.values()
    )


def test_a_wrong_read_out_is_found_out_though_every_code_is_right():
    with jax.enable_x64(True):
        apply_fn, variables, x = build(Residual)
        converted, _ = convert(apply_fn, variables, x, steps=4)
        converted["params"]["Dense_0"] = variables["params"]["Dense_0"]
        given = {"steps": 4, "snn_variables": converted}
        certificate = verify(apply_fn, variables, x, **given)
        assert certificate.differing == 0
        assert not certificate.outputs_agree and not certificate.exact
        assert not (certificate + certificate).exact


@pytest.mark.parametrize("x", [jnp.zeros((0, 3)), jnp.array(1.0), {}])
def test_an_empty_batch_is_an_error(x):
    with pytest.raises(ValueError, match="at least one example"):
        verify(lambda v, x: x, {}, x, steps=4)


def test_a_batch_size_below_one_is_an_error():
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        verify(lambda v, x: x, {}, jnp.ones(3), steps=4, batch_size=0)
