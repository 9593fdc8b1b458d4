"""Float64 from end to end: variables of any kind, and layers that ask for less."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from bitsnn_jax import QCFS, in_float64, quantise, verify
from bitsnn_jax.tracing.precision import narrow_layers, widened


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def test_floats_become_float64_and_nothing_else_changes():
    key = jax.random.key(3)
    tree = {
        "w": np.ones(2, np.float32),
        "half": jnp.ones(2, jnp.bfloat16),
        "number": 0.5,
        "count": np.int32(3),
        "mask": np.array([True]),
        "key": key,
        "none": None,
    }
    wide = in_float64(tree)
    assert {k: v.dtype for k, v in wide.items() if k in ("w", "half", "number")} == (
        dict.fromkeys(("w", "half", "number"), np.float64)
    )
    assert wide["key"] is key and wide["none"] is None
    assert (wide["count"].dtype, wide["mask"].dtype) == (np.int32, bool)


class Net(nn.Module):
    dtype: object = None

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(8, (3, 3), dtype=self.dtype, name="stem")(x))
        for _ in range(3):
            y = nn.relu(nn.Conv(8, (3, 3), dtype=self.dtype)(x))
            x = nn.relu(x + nn.Conv(8, (3, 3), dtype=self.dtype)(y))
        return nn.Dense(5, dtype=self.dtype)(x.mean((1, 2)))


X = np.random.default_rng(0).normal(size=(3, 8, 8, 3))


@pytest.mark.parametrize("dtype", [None, jnp.float32, jnp.bfloat16])
def test_layers_of_less_are_certified_in_float64_and_named(dtype):
    variables = in_float64(Net().init(jax.random.key(0), X))
    quantised = quantise(Net(dtype).apply, variables, [X], levels=255)
    certificate = verify(*quantised, X, steps=8)
    assert certificate.exact
    assert certificate.largest_output_difference < 1e-12
    names = ["stem", *(f"Conv_{i}" for i in range(6)), "Dense_0"] if dtype else []
    assert sorted(certificate.widened) == sorted(names)
    assert ("though they ask for less" in str(certificate)) == bool(dtype)
    assert (certificate + certificate).widened == certificate.widened


def test_widened_it_is_the_network_whose_layers_ask_for_nothing():
    variables = in_float64(Net().init(jax.random.key(0), X))
    want = Net().apply(variables, X)
    # Sums in the same order, of the same operations.
    np.testing.assert_allclose(
        widened(Net(jnp.bfloat16).apply)(variables, X), want, rtol=1e-14
    )
    assert not np.allclose(Net(jnp.bfloat16).apply(variables, X), want, rtol=1e-5)


def loop(v, x):
    """A loop without neurons keeps the types that it was traced with."""
    x = x.astype(jnp.float32)
    return lax.fori_loop(0, 3, lambda i, y: y * jnp.float32(1.5), x)


def products(v, x):
    return lax.dot(x, x, preferred_element_type=jnp.float32).astype(jnp.float64)


TOLERANCE = {loop: {"rtol": 1e-6}, products: {"rtol": 0, "atol": 1e-14}}


@pytest.mark.parametrize("net", TOLERANCE)
def test_other_operations_are_wide_as_far_as_they_can_be(net):
    x = np.random.default_rng(1).normal(size=(4, 4))
    found = widened(net)({}, x)
    assert found.dtype == np.float64
    want = {loop: 1.5**3 * x, products: x @ x}[net]
    # A float32 loop of three products; sums of four terms in float64.
    np.testing.assert_allclose(found, want, **TOLERANCE[net])


def test_in_float32_nothing_is_narrow():
    x = X.astype(np.float32)
    with jax.enable_x64(False):
        variables = Net().init(jax.random.key(0), x)
        assert narrow_layers(Net(jnp.float32).apply, variables, x) == ()


def test_a_qcfs_of_the_network_is_widened_too():
    class Quantised(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = QCFS(theta_init=2.0)(nn.Conv(4, (3, 3), dtype=jnp.float32)(x))
            return nn.Dense(2, dtype=jnp.float32)(x.mean((1, 2)))

    variables = in_float64(Quantised().init(jax.random.key(0), X))
    certificate = verify(Quantised().apply, variables, X, steps=4)
    assert certificate.exact and list(certificate.layers) == ["QCFS_0"]
    assert certificate.widened == ("Conv_0", "QCFS_0", "Dense_0")
