"""The anytime read-out: prefixes of spikes, and when to stop."""

import functools

import flax.linen as nn
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsnn_jax import qcfs
from bitsnn_jax.integers.anytime import (
    accuracy_curve,
    early_exit,
    mean_missing,
    prefix_logits,
)
from bitsnn_jax.integers.execution import one_shot
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.integers.lowering import lower

RNG = np.random.default_rng(0)


@functools.cache
def perceptron(steps=4):
    w, bias = RNG.normal(size=(6, 9)), RNG.normal(size=3)

    def apply_fn(v, x):
        return qcfs(x @ np.float32(w) / 64 - 1, v) @ np.float32(w[:3].T) + bias

    graph = lower(apply_fn, np.float32(2), np.zeros((1, 6), np.float32))
    return fixed_point(graph, steps=steps)


@functools.cache
def pooled():
    w = np.float32(RNG.normal(size=(2, 5)))

    def apply_fn(v, x):
        y = nn.max_pool(qcfs(x @ w / 64, v), (2, 2), (2, 2))
        return y.max((1, 2)) @ w[:, :3].repeat(5, 0)[:5] + y.mean((1, 2)) @ w.T[:, [0]]

    graph = lower(apply_fn, np.float32(2), np.zeros((1, 4, 4, 2), np.float32))
    assert len(graph.of_kind("maximum")) == 2
    return fixed_point(graph, steps=3)


def inputs(network, n=5):
    return RNG.integers(0, 256, (n, *network.nodes[0].shape[1:]))


@pytest.mark.parametrize("make", [lambda: perceptron(), lambda: perceptron(7), pooled])
def test_the_whole_prefix_gives_the_logits_of_the_network(make):
    network = make()
    result = jax.jit(one_shot(network))(inputs(network))
    logits = jax.jit(prefix_logits(network))(result.codes)
    assert logits.shape == (network.steps, 5, 3)
    np.testing.assert_array_equal(logits[-1], result.outputs["output"])
    assert (logits[0] != logits[-1]).any()


def test_a_prefix_is_the_sum_over_its_spikes():
    network = perceptron()
    result = one_shot(network)(inputs(network))
    [code] = result.codes.values()
    [term] = network["output"].terms
    collected = np.broadcast_to(network["output"].bias, (5, 3)).astype(int)
    for t, logits in enumerate(prefix_logits(network)(result.codes), 1):
        spikes = np.asarray(code) >> (4 - t) & 1
        collected = collected + 2 ** (4 - t) * spikes @ term.weight.kernel.astype(int)
        shift = sum(op.amount for op in term.after)
        assert shift == 0
        np.testing.assert_array_equal(logits, collected)


def test_the_maximum_of_prefixes_feeds_the_output():
    # Codes with cut bits are codes: the network itself says what they lead to.
    network = pooled()
    codes = jax.jit(one_shot(network))(inputs(network)).codes
    fn = prefix_logits(network)
    logits = fn(codes)
    for t in (1, 2):
        cut = {name: np.asarray(code) >> 3 - t << 3 - t for name, code in codes.items()}
        np.testing.assert_array_equal(logits[t - 1], fn(cut)[-1])


def test_what_is_missing_on_average_is_made_up():
    logits = RNG.integers(-90, 90, (4, 30, 3))
    made_up = logits + mean_missing(logits)[:, None]
    np.testing.assert_array_equal(made_up[-1], logits[-1])
    np.testing.assert_allclose(made_up.mean(1), logits[-1:].mean(1).repeat(4, 0))


TRAINS = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).integers(-4, 5, (4, 20, 3))
)


@given(TRAINS)
def test_no_margin_stops_at_once_and_an_infinite_one_at_the_end(logits):
    for margin, t in ((0, 1), (np.inf, 4)):
        predictions, steps = early_exit(logits, margin)
        assert (steps == t).all()
        np.testing.assert_array_equal(predictions, logits[t - 1].argmax(-1))


@given(TRAINS, st.integers(0, 9))
def test_an_example_stops_at_the_first_step_that_is_clear(logits, margin):
    predictions, steps = early_exit(logits, margin)
    for i in range(logits.shape[1]):
        for t in range(4):
            low, high = np.sort(logits[t, i])[-2:]
            if high - low >= margin or t == 3:
                break
        assert steps[i] == t + 1
        assert predictions[i] == logits[t, i].argmax()


@given(TRAINS)
def test_a_larger_margin_never_stops_earlier(logits):
    steps = [early_exit(logits, margin)[1] for margin in range(10)]
    for earlier, later in zip(steps, steps[1:], strict=False):
        assert (earlier <= later).all()
    labels = logits[-1].argmax(-1)
    curve = accuracy_curve(logits, labels)
    assert (np.diff(curve.margins) > 0).all()
    assert (np.diff(curve.mean_steps) >= 0).all()
    assert curve.mean_steps[0] == 1
    assert (curve.mean_steps[-1], curve.accuracy[-1]) == (4, 1)
    assert curve.accuracy[0] == (logits[0].argmax(-1) == labels).mean()


def test_large_logits_are_told_apart():
    _, steps = early_exit([[[2**31 - 1, -(2**31) + 1]], [[1, 0]]], 2.0**32 - 2)
    assert steps == [1]


def test_errors():
    def bare(v, x):
        return x @ np.ones((6, 2), np.float32)

    example = np.zeros((1, 6), np.float32)
    with pytest.raises(ValueError, match="output is fed by input, of kind 'input'"):
        prefix_logits(fixed_point(lower(bare, 0, example), steps=4))
    with pytest.raises(ValueError, match="no output 'logits'; there is output"):
        prefix_logits(perceptron(), output="logits")
    with pytest.raises(ValueError, match="codes of neuron are needed"):
        prefix_logits(perceptron())({})
    logits = np.zeros((4, 2, 3))
    for margin in (-1, np.nan):
        with pytest.raises(ValueError, match=f"0 or more, got {margin}"):
            early_exit(logits, margin)
    for shape in ((4, 3), (4, 2, 1), (0, 2, 3)):
        with pytest.raises(ValueError, match="expected logits"):
            early_exit(np.zeros(shape), 1)
    for labels in (np.zeros(3), np.zeros((2, 1))):
        with pytest.raises(ValueError, match="a label for each example"):
            accuracy_curve(logits, labels)
