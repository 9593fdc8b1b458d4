"""The bit-sparsity loss over a network: which spikes it counts, and for whom."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax import spiking
from bitsnn_jax.numerics.layers import QCFS
from bitsnn_jax.training.sparsity import (
    example_sums,
    layer_counts,
    neurons,
    synaptic_weights,
)

SOWN = {
    "activations": {
        "one": {"a": ((jnp.array([[1.0, 3.0], [0.0, 15.0]]), jnp.array(15.0)),)},
        "block": {
            "two": {"a": ((jnp.array([[7.0], [8.0]]), jnp.array(15.0)),) * 2},
        },
    }
}


def test_spikes_are_the_bits_of_every_call_and_layer():
    counts = layer_counts(SOWN, levels=15)
    assert list(counts) == ["one", "block/two", "block/two@2"]
    # 1 + 2 bits and twice 3; 0 + 4 bits and twice 1.
    np.testing.assert_array_equal(example_sums(counts, examples=2), [9.0, 6.0])
    assert neurons(counts) == 4


def test_weights_multiply_the_spikes_of_their_neurons():
    counts = layer_counts(SOWN, levels=15)
    weights = {"one": np.array([2.0, 10.0]), "block/two": 0.5, "block/two@2": 100.0}
    got = example_sums(counts, examples=2, weights=weights)
    # 1 * 2 + 2 * 10 + 3 / 2 + 3 * 100; 4 * 10 + 1 / 2 + 1 * 100.
    np.testing.assert_array_equal(got, [323.5, 140.5])


def test_without_activations_there_are_no_spikes():
    counts = layer_counts({}, levels=15)
    np.testing.assert_array_equal(example_sums(counts, examples=3), np.zeros(3))
    assert neurons(counts) == 0


class Twice(nn.Module):
    @nn.compact
    def __call__(self, x):
        shared = QCFS(theta_init=1.0, name="shared")
        x = shared(nn.Dense(5)(x))
        x = QCFS(theta_init=1.0, name="between")(nn.Dense(4)(x))
        return nn.Dense(2)(shared(nn.Dense(3)(x)))


def test_layers_and_counts_are_those_of_the_spiking_network():
    x = jax.random.normal(jax.random.key(0), (6, 7))
    model = Twice()
    variables = model.init(jax.random.key(1), x)
    _, sown = model.apply(variables, x, mutable=["activations"])
    counts = layer_counts(sown, levels=15)
    _, stats = spiking(model.apply, steps=4, mode="fused")(variables, x)
    assert set(counts) == set(stats.spikes)
    for path, count in counts.items():
        assert count.sum() == stats.spikes[path].sum()


def test_weighted_by_fan_out_the_spikes_are_synaptic_operations():
    x = jax.random.normal(jax.random.key(0), (6, 7))
    model = Twice()
    variables = model.init(jax.random.key(1), x)
    weights = synaptic_weights(model.apply, variables, x[:1])
    # 5 neurons feed 4 each, 4 feed 3, 3 feed 2: 38 synapses of 12 neurons.
    expected = {"shared": 4 * 12 / 38, "between": 3 * 12 / 38, "shared@2": 2 * 12 / 38}
    for path, value in expected.items():
        np.testing.assert_allclose(weights[path], value, rtol=1e-6)  # float32
    _, sown = model.apply(variables, x, mutable=["activations"])
    counts = layer_counts(sown, levels=15)
    operations = sum(
        count.sum() * fans
        for count, fans in zip(
            (counts["shared"], counts["between"], counts["shared@2"]),
            (4, 3, 2),
            strict=True,
        )
    )
    got = example_sums(counts, examples=6, weights=weights).sum() * 38 / 12
    np.testing.assert_allclose(got, operations, rtol=1e-6)  # float32
