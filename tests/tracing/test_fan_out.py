"""Fan-out: synapses counted by hand, and by pushing one neuron after the other."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from networks import Inverted, Pooling, Shared

from bitsnn_jax import QCFS, SpikingError, qcfs, spiking
from bitsnn_jax.tracing.fan_out import fan_out


def conv(x, out, *, kernel=3, strides=1, groups=1, dilation=1, padding=None):
    """A convolution whose weights differ, and none of which is zero."""
    shape = (kernel, kernel, x.shape[-1] // groups, out)
    weights = 1 + np.random.default_rng(0).random(shape, np.float32)
    side = (dilation * (kernel - 1) + 1) // 2 if padding is None else padding
    return lax.conv_general_dilated(
        x,
        jnp.asarray(weights),
        (strides, strides),
        [(side, side)] * 2,
        rhs_dilation=(dilation, dilation),
        feature_group_count=groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def dense(x, out):
    weights = 1 + np.random.default_rng(1).random((x[0].size, out), np.float32)
    return x.reshape(len(x), -1) @ weights


def counts_of(products, shape):
    """The library's counts for one layer of neurons, whose products are given."""

    def network(variables, x):
        fed = products(qcfs(x, 1.0))
        return [qcfs(z + variables["bias"], 1.0) for z in fed]

    counts = fan_out(network, {"bias": jnp.ones(())}, jnp.zeros(shape))
    return np.asarray(counts["neuron"])


def pushed(products, shape):
    """The same by brute force: outputs that move when one neuron does.

    The push is of 1000 and no weight is below 1, so that behind any mean of these
    tests an output moves by some 40 at least; values near 1000 round to 1e-4.
    """
    rest = jnp.asarray(np.random.default_rng(2).integers(0, 9, shape), jnp.float32)

    @jax.jit
    @jax.vmap
    def moved(place):
        after = rest.ravel().at[place].add(1000.0).reshape(shape)
        pairs = zip(products(rest), products(after), strict=True)
        return sum(jnp.sum(jnp.abs(after - before) > 1) for before, after in pairs)

    return np.asarray(moved(jnp.arange(rest.size))).reshape(shape)


def projected_residual(a):
    return [conv(a, 5), conv(a, 7, kernel=1, strides=2)]


def identity_into_neurons(a):
    return [a + conv(a, a.shape[-1])]


def concatenated(a):
    return [conv(jnp.concatenate([a, jnp.ones_like(a), 2 * a], -1)[..., :5], 3)]


def max_pooled(a):
    tops = lax.reduce_window(a, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
    return [conv(tops, 3, padding=0, kernel=1)]


def moved_about(a):
    left, right = jnp.split(a, 2, axis=-1)
    padded = jnp.pad(-right[:, ::-1], ((0, 0), (1, 0), (2, 0), (0, 0)))
    return [conv(left - 0.5 * right.transpose(0, 2, 1, 3), 3), dense(padded / 3, 2)]


LAYERS = {
    "padded": lambda a: [conv(a, 5)],
    "valid": lambda a: [conv(a, 5, padding=0)],
    "strided": lambda a: [conv(a, 5, strides=2)],
    "dilated": lambda a: [conv(a, 5, dilation=2)],
    "grouped": lambda a: [conv(a, 6, groups=2)],
    "depthwise": lambda a: [conv(a, 4, groups=4)],
    "dense": lambda a: [dense(a, 10)],
    "average_pooled": lambda a: [conv(nn.avg_pool(a, (2, 2), (2, 2)), 5)],
    "global_mean": lambda a: [dense(a.mean((1, 2)), 10)],
    "global_maximum": lambda a: [dense(a.max((1, 2)), 10)],
    "max_pooled": max_pooled,
    "projected_residual": projected_residual,
    "concatenated": concatenated,
    "moved_about": moved_about,
    "cropped": lambda a: [conv(a[:, 1:, :-1], 5)],
    "masked": lambda a: [conv(jnp.where(np.eye(5)[None, ..., None] > 0, a, 0.0), 5)],
    "two_layers": lambda a: [dense(a.sum(1), 4), conv(a, 2), dense(a[:, :2], 3)],
}


@pytest.mark.parametrize("layer", LAYERS)
def test_counts_are_the_outputs_that_one_neuron_moves(layer):
    products, shape = LAYERS[layer], (1, 5, 5, 4)
    np.testing.assert_array_equal(counts_of(products, shape), pushed(products, shape))


def rows(*values):
    return np.array(values)[None, ..., None]


@pytest.mark.parametrize(
    "products, counts",
    [
        # 3x3, padded, to 5 channels: 4 places at a corner, 6 at an edge, 9 inside.
        (
            lambda a: [conv(a, 5)],
            5 * rows([4, 6, 6, 4], [6, 9, 9, 6], [6, 9, 9, 6], [4, 6, 6, 4]),
        ),
        # Strides of 2 centre the kernel on rows and columns 0 and 2, so that these are
        # in one window and 1 in two; 3 is in one, for the window on 4 is not there.
        (
            lambda a: [conv(a, 5, strides=2)],
            5 * rows([1, 2, 1, 1], [2, 4, 2, 2], [1, 2, 1, 1], [1, 2, 1, 1]),
        ),
        # All pixels to each of ten outputs, with and without a mean in between.
        (lambda a: [dense(a, 10)], np.full((1, 4, 4, 1), 10)),
        (lambda a: [dense(a.mean((1, 2)), 10)], np.full((1, 4, 4, 1), 10)),
        # Pooled to 2x2, where a padded 3x3 kernel meets all 4 places from anywhere.
        (
            lambda a: [conv(nn.avg_pool(a, (2, 2), (2, 2)), 5)],
            np.full((1, 4, 4, 1), 4 * 5),
        ),
        # Both branches; the 1x1 convolution of stride 2 sees even rows and columns.
        (
            lambda a: [conv(a, 5), conv(a, 7, kernel=1, strides=2)],
            rows(
                [27, 30, 37, 20], [30, 45, 45, 30], [37, 45, 52, 30], [20, 30, 30, 20]
            ),
        ),
        # A sum into the next neurons is no synapse.
        (
            lambda a: [a + conv(a, 1)],
            rows([4, 6, 6, 4], [6, 9, 9, 6], [6, 9, 9, 6], [4, 6, 6, 4]),
        ),
        # Two ways to the same place are two; their signs and scales do not matter.
        (lambda a: [dense(2 * a - a / 2, 10)], np.full((1, 4, 4, 1), 20)),
        # Nothing behind.
        (lambda a: [a], np.zeros((1, 4, 4, 1))),
    ],
)
def test_counts_on_a_four_by_four_map(products, counts):
    np.testing.assert_array_equal(counts_of(products, (1, 4, 4, 1)), counts)


def test_a_group_feeds_its_own_outputs_only():
    # 4 channels in two groups, 6 outputs: 3 for each, where all 6 would be without.
    counts = counts_of(lambda a: [conv(a, 6, groups=2, kernel=1)], (1, 2, 2, 4))
    np.testing.assert_array_equal(counts, np.full((1, 2, 2, 4), 3))


def test_a_spike_is_counted_up_to_the_next_product():
    # Behind the first dense layer there are other synapses, neurons between or not.
    counts = counts_of(lambda a: [dense(dense(a, 7), 10)], (1, 2))
    np.testing.assert_array_equal(counts, [[7, 7]])


def silent(network):
    """(apply_fn, variables, x): a Flax network in which all values are zero."""
    x = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    shapes = jax.eval_shape(network().init, jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return network().apply, variables, x


def test_a_linear_bottleneck_feeds_all_blocks_that_its_sums_reach():
    counts = fan_out(*silent(Inverted))
    # The skips carry the stem's spikes into both expansions, to 12 channels each, and
    # into the last layer, to 9. A projection goes to 4.
    np.testing.assert_array_equal(counts["QCFS_0"], np.full((1, 4, 4, 4), 33))
    np.testing.assert_array_equal(counts["QCFS_2"], np.full((1, 4, 4, 12), 4))


@pytest.mark.parametrize("network", [Pooling, Shared])
def test_layers_are_those_of_the_spike_counts_and_of_the_sown_activations(network):
    apply_fn, variables, x = silent(network)
    counts = fan_out(apply_fn, variables, x)
    _, stats = jax.eval_shape(spiking(apply_fn, steps=4), variables, x)
    assert list(counts) == list(stats.spikes)

    def sow(variables, x):
        return apply_fn(variables, x, mutable=["activations"])[1]["activations"]

    for name, module in jax.eval_shape(sow, variables, x).items():
        for call, (a, _) in enumerate(module["a"], start=1):
            path = f"{name}@{call}" if call > 1 else name
            assert counts.pop(path).shape == a.shape
    assert not counts


def test_narrow_types_count_without_rounding():
    class Narrow(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = QCFS()(x.astype(jnp.bfloat16))
            return nn.Dense(1001, dtype=jnp.bfloat16)(x)  # 1001 is no bfloat16

    x = jnp.zeros((1, 2))
    variables = Narrow().init(jax.random.key(0), x)
    counts = fan_out(Narrow().apply, variables, x)
    np.testing.assert_array_equal(counts["QCFS_0"], [[1001, 1001]])


def test_an_operation_without_a_spiking_form_is_an_error():
    with pytest.raises(SpikingError, match="`exp`|`logistic`"):
        fan_out(lambda v, x: jnp.exp(qcfs(x, v)), jnp.ones(()), jnp.zeros((1, 2)))
