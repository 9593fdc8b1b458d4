"""Programs that look harmless: each once gave a wrong answer, or a needless refusal."""

import functools
from collections import OrderedDict

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from networks import act

from bitsnn_jax import SpikingError, convert, qcfs, spiking, verify
from bitsnn_jax.conversion.readings import SpikeStats

W = np.random.default_rng(0).normal(size=(6, 6))
B = 0.3 * np.random.default_rng(1).normal(size=6)
X = np.random.default_rng(2).normal(size=(4, 6))
VARIABLES = {"w": W, "b": B, "theta": np.float64(2.0)}


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def spike(v, z):
    return qcfs(z, v["theta"])


def dense(v, x):
    return x @ v["w"] + v["b"]


def assert_same(apply_fn, variables, x, **options):
    """The stepped network against the program itself, without any interpreter."""
    converted, report = convert(apply_fn, variables, x, steps=4, **options)
    output, _ = spiking(apply_fn, steps=4, **options)(converted, x)
    # Sums in another order, over some hundred terms of order 1.
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-12)
    jax.tree.map(close, output, apply_fn(variables, x))
    assert verify(apply_fn, variables, x, steps=4, **options).exact
    return report


def recurrent(v, x):
    """Currents stacked by a scan, and a step in the middle of the sequence."""

    def step(h, now):
        h = spike(v, h @ v["w"] + dense(v, now))
        return h, h

    return lax.scan(step, spike(v, jnp.zeros(6)), x)


ACCEPTED = {
    "scan_with_outputs": recurrent,
    "map": lambda v, x: lax.map(lambda r: spike(v, dense(v, spike(v, r))), x),
    "empty_scan": lambda v, x: lax.scan(
        lambda c, _: (spike(v, c), c), spike(v, x), length=0
    ),
    "stop_gradient": lambda v, x: dense(v, lax.stop_gradient(spike(v, x))),
    "tile": lambda v, x: jnp.tile(spike(v, x), (1, 2)) @ jnp.tile(v["w"], (2, 1)),
    "unused_result": lambda v, x: (nn.softmax(y := dense(v, spike(v, x))), y)[1],
    "unused_constant": lambda v, x: ((v["b"] ** 2).sum(), dense(v, spike(v, x)))[1],
}


@pytest.mark.parametrize("apply_fn", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_harmless_programs_are_read(apply_fn):
    assert_same(apply_fn, VARIABLES, X)


# A leaf that is a bias of spikes and something else besides: no one value is right.
TWO_USES = {
    "threshold": lambda v, x: qcfs(dense(v, spike(v, x)), v["b"]),
    "output": lambda v, x: (dense(v, spike(v, x)), v["b"]),
    "table": lambda v, x: dense(v, spike(v, x)) + v["b"][jnp.argmax(x, -1)][:, None],
    "pieces": lambda v, x: (
        dense(v, spike(v, x)) + spike(v, x + jnp.concatenate(jnp.split(v["b"], 2)))
    ),
    "input_of_neurons": lambda v, x: dense(v, spike(v, x)) + spike(v, v["b"]),
}


@pytest.mark.parametrize("apply_fn", TWO_USES.values(), ids=TWO_USES.keys())
def test_a_bias_that_is_something_else_too_is_an_error(apply_fn):
    variables = {**VARIABLES, "b": np.abs(B)}  # as thresholds are
    with pytest.raises(SpikingError, match="^b is used in"):
        convert(apply_fn, variables, X, steps=4)


def test_a_decoded_maximum_leaves_the_next_bias_alone():
    def apply_fn(v, x):
        y = dense(v, spike(v, x)).max(-1, keepdims=True)
        return spike(v, y + v["c"])

    report = assert_same(apply_fn, {**VARIABLES, "c": B}, X, nonspiking="decode")
    assert [n.operation for n in report.nonspiking] == ["reduce_max"]
    assert [shift.path for shift in report.changed] == ["b"]


def test_neurons_in_a_loop_over_spikes_are_an_error_when_decoding_too():
    def apply_fn(v, x):
        n = jnp.int32(v["theta"])
        return lax.fori_loop(0, n, lambda _, c: spike(v, c @ v["w"]), spike(v, x))

    for mode in ("stepped", "fused"):
        with pytest.raises(SpikingError, match="QCFS inside `while`"):
            spiking(apply_fn, steps=2, mode=mode, nonspiking="decode")(VARIABLES, X)


def test_neurons_in_a_shard_map_are_an_error_and_not_overlooked():
    mesh = jax.make_mesh((1,), ("b",), axis_types=(jax.sharding.AxisType.Auto,))

    def apply_fn(v, x):
        rows = jax.P("b")
        layer = jax.shard_map(
            lambda x: spike(v, x), mesh=mesh, in_specs=rows, out_specs=rows
        )
        return spike(v, dense(v, layer(x)))

    with pytest.raises(SpikingError, match="QCFS inside `shard_map`"):
        verify(apply_fn, VARIABLES, X, steps=2)


def test_a_gather_that_fills_with_a_constant_is_no_linear_map():
    def apply_fn(v, x):
        y = spike(v, x).at[:, jnp.array([0, 7])].get(mode="fill", fill_value=1.0)
        return spike(v, y)

    with pytest.raises(SpikingError, match="`gather`"):
        verify(apply_fn, VARIABLES, X, steps=4)


@pytest.mark.parametrize("window, strides", [((1, 2), (4, 1)), ((2, 1), (2, 6))])
def test_pooling_that_skips_neurons_keeps_their_own_thresholds(window, strides):
    def apply_fn(v, x):
        a = qcfs(x, v["theta"])
        return lax.reduce_window(
            a, -jnp.inf, lax.max, (1, *window), (1, *strides), "VALID"
        )

    x = np.random.default_rng(3).normal(size=(3, 4, 6))
    theta = np.linspace(0.5, 2, 4)[:, None] if strides[0] == 4 else np.abs(B) + 0.5
    with pytest.raises(SpikingError, match="reduce_window_max"):
        verify(apply_fn, {"theta": theta}, x, steps=4)


@pytest.mark.parametrize(
    "dtype", [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.slow)]
)
def test_half_precision_converts_and_pools(dtype):
    class Half(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.max_pool(act()(nn.Conv(6, (3, 3), dtype=dtype)(x)), (2, 2), (2, 2))
            return nn.Dense(3, dtype=dtype)(x.mean((1, 2)))

    model, x = Half(), jax.random.normal(jax.random.key(0), (2, 8, 8, 3), dtype)
    variables = model.init(jax.random.key(1), x)

    def apply_fn(v, x):
        return model.apply(v, x)

    converted, _ = convert(apply_fn, variables, x, steps=4)
    output, _ = spiking(apply_fn, steps=4)(converted, x)
    # Some roundings to 8 bits of logits of order 1.
    np.testing.assert_allclose(output, apply_fn(variables, x), rtol=0, atol=0.05)


def test_values_that_are_no_numbers_prove_nothing():
    def apply_fn(v, x):
        return spike(v, dense(v, spike(v, x)))

    broken = {**VARIABLES, "w": np.full_like(W, np.nan)}
    assert not verify(apply_fn, broken, X, steps=4).exact


def test_spikes_per_neuron_counts_beyond_32_bits():
    many = np.full(4, 10**9)
    stats = SpikeStats(OrderedDict(a=many, b=many), OrderedDict(a=many, b=many))
    with jax.enable_x64(False):
        assert stats.spikes_per_neuron == pytest.approx(1.0)
