"""Rounding against inputs: no column is worse off, and `fixed_point` keeps it."""

import functools
import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from networks import (
    Concatenated,
    Convolutions,
    Inverted,
    MultilayerPerceptron,
    Pooling,
    Residual,
    Shared,
    lowered,
)

from bitsnn_jax.integers.execution import one_shot
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.integers.gptq import ALL, Ingredients, gptq
from bitsnn_jax.integers.graph import Conv, Dense, Term, apply, evaluate
from bitsnn_jax.integers.kernels import with_kernel
from bitsnn_jax.integers.rounding import damped, rounded_to_inputs, squared_errors
from bitsnn_jax.integers.sent import columns

MANY = np.random.default_rng(1).integers(0, 256, (64, 8, 8, 3)).astype(np.uint8)


def drawn(seed, groups=2, size=7, columns=5):
    """(weights, moments) of correlated inputs."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(groups, 40, size)) @ rng.normal(size=(groups, size, size))
    return rng.normal(size=(groups, size, columns)) * 3, x.swapaxes(1, 2) @ x


@pytest.mark.parametrize("seed", range(5))
def test_no_column_is_worse_than_its_nearest_integers(seed):
    weights, moments = drawn(seed)
    rounded = rounded_to_inputs(weights, moments, -4, 4)
    nearest = np.clip(np.round(weights), -4, 4)
    ours, theirs = (
        squared_errors(w - weights, damped(moments)) for w in (rounded, nearest)
    )
    assert (ours <= theirs).all() and ours.sum() < 0.7 * theirs.sum()
    assert np.abs(rounded).max() <= 4
    np.testing.assert_array_equal(rounded, np.rint(rounded))
    np.testing.assert_array_equal(rounded, rounded_to_inputs(weights, moments, -4, 4))


def test_no_single_weight_could_be_better():
    weights, moments = drawn(0)
    rounded = rounded_to_inputs(weights, moments, -4, 4)
    hessian = damped(moments)
    least = squared_errors(rounded - weights, hessian)
    for row, step in itertools.product(range(weights.shape[1]), (-1, 1)):
        other = rounded.copy()
        other[:, row] += step
        inside = np.abs(other[:, row]) <= 4
        error = squared_errors(other - weights, hessian)
        assert (error >= least * (1 - 1e-12))[inside].all()


def test_independent_inputs_are_rounded_to_the_nearest_and_integers_stay():
    weights, moments = drawn(3)
    apart = np.einsum("gkk->gk", moments)[:, :, None] * np.eye(weights.shape[1])
    rounded = rounded_to_inputs(weights, apart, -9, 9)
    np.testing.assert_array_equal(rounded, np.clip(np.round(weights), -9, 9))
    again = rounded_to_inputs(rounded, moments, -9, 9)
    np.testing.assert_array_equal(again, rounded)


def test_bounds_may_differ_and_inputs_that_are_never_seen_leave_the_nearest():
    weights, _ = drawn(4)
    low, high = np.floor(weights), np.floor(weights) + 1
    rounded = rounded_to_inputs(weights, np.zeros((2, 7, 7)), low, high)
    np.testing.assert_array_equal(rounded, np.round(weights))


CONVOLUTIONS = {
    "strides": ((2, 1), ((1, 0), (0, 2)), (1, 1), (1, 1), 1),
    "dilation": ((1, 1), ((2, 2), (1, 3)), (1, 1), (2, 1), 2),
    "transposed": ((1, 1), ((1, 2), (1, 1)), (2, 2), (1, 1), 1),
    "depthwise, cut": ((1, 1), ((-1, 1), (0, -1)), (1, 1), (1, 1), 4),
}


@pytest.mark.parametrize("options", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_columns_times_the_kernel_are_the_convolution(options):
    rng, groups = np.random.default_rng(0), options[-1]
    kernel = rng.integers(-3, 4, (3, 2, 4 // groups, 8)).astype(np.float32)
    x = jnp.asarray(rng.integers(0, 9, (1, 6, 5, 4)), jnp.float32)
    conv = Conv(kernel, *options)
    matrix = columns(Term("input", (), conv, ()), x)
    weights = kernel.reshape(-1, groups, 8 // groups)
    ours = jnp.einsum("rgk,kgn->rgn", matrix, weights)
    theirs = apply(conv, x)
    np.testing.assert_array_equal(ours.reshape(theirs.shape), theirs)


def test_columns_of_a_product_of_matrices_are_its_rows():
    x = jnp.arange(6.0).reshape(2, 3)
    matrix = columns(Term("input", (), Dense(np.ones((3, 4))), ()), x)
    np.testing.assert_array_equal(matrix[:, 0], x)


@functools.cache
def rounded(network, bits, using=ALL):
    """The network in integers, rounded for `MANY`."""
    graph = gptq(lowered(network), MANY, steps=4, bits=bits, using=using)
    return fixed_point(graph, steps=4, bits=bits)


@functools.cache
def logits_in_floats(network):
    outputs, _ = evaluate(lowered(network), jnp.float32(MANY), steps=4)
    return np.asarray(outputs["output"][:, 0], np.float64)


def lacking(network, integers):
    """What the logits of integers lack beside those in floats, in their unit."""
    ours = one_shot(integers)(MANY).outputs["output"]
    return logits_in_floats(network) / integers["output"].unit - ours


def check(network, bits):
    """Laws of all networks."""
    integers = rounded(network, bits)
    for node in integers.nodes:
        for term in with_kernel(node.terms):
            assert np.abs(term.weight.kernel).max() < 2 ** (bits - 1)
    # In the mean nothing is left but the rounding of the bias.
    assert np.abs(lacking(network, integers).mean(0)).max() <= 0.501


OTHERS = [Concatenated, Convolutions, Inverted, Pooling, Residual, Shared]
CASES = [(MultilayerPerceptron, 3)]
CASES += [
    pytest.param(network, bits, marks=pytest.mark.slow)
    for network in OTHERS
    for bits in (2, 4, 8)
]


@pytest.mark.parametrize("network, bits", CASES)
def test_weights_have_their_bits_and_the_mean_is_right(network, bits):
    check(network, bits)


@pytest.mark.parametrize(
    "network", [MultilayerPerceptron, pytest.param(Residual, marks=pytest.mark.slow)]
)
def test_logits_are_nearer_than_those_of_nearest_weights(network):
    nearest = fixed_point(lowered(network), steps=4, bits=3)
    ours, theirs = rounded(network, 3), nearest
    errors = [
        np.square(lacking(network, each) * each["output"].unit).mean()
        for each in (ours, theirs)
    ]
    assert errors[0] < 0.5 * errors[1]


def test_two_runs_are_equal():
    first = rounded(MultilayerPerceptron, 3)
    second = rounded.__wrapped__(MultilayerPerceptron, 3)
    for ours, theirs in zip(first.nodes, second.nodes, strict=True):
        assert_same_numbers(ours, theirs)


def test_without_any_ingredient_weights_are_the_nearest():
    none = Ingredients(units=False, feedback=False, biases=False)
    theirs = fixed_point(lowered(MultilayerPerceptron), steps=4, bits=3)
    ours = rounded(MultilayerPerceptron, 3, none)
    for node, other in zip(ours.nodes, theirs.nodes, strict=True):
        assert_same_numbers(node, other)


def assert_same_numbers(node, other):
    np.testing.assert_array_equal(node.bias, other.bias)
    np.testing.assert_array_equal(node.fraction, other.fraction)
    for term, same in zip(node.terms, other.terms, strict=True):
        np.testing.assert_array_equal(term.numbers, same.numbers)


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (2, 8, 8, 1)])
def test_inputs_that_do_not_fit(shape):
    with pytest.raises(ValueError, match="expected at least one input"):
        gptq(lowered(MultilayerPerceptron), np.zeros(shape), steps=4, bits=4)
