"""Trains of spikes that stay trains, and what is driven by spikes alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from bitsnn_jax import convert, qcfs, spiking
from bitsnn_jax.conversion.readings import Stepped
from bitsnn_jax.tracing.program import read, trace
from bitsnn_jax.tracing.values import Constant, Current

X = np.random.default_rng(0).uniform(-1, 2, (2, 4, 4, 6)).astype(np.float32)
EACH, ALL = jnp.linspace(0.5, 1.5, 6), jnp.array(1.0)
MOVES = {
    "transposed": lambda s: s.transpose(0, 3, 1, 2),
    "folded": lambda s: s.reshape(2, 16, 6),
    "channels in groups": lambda s: s.reshape(2, 4, 4, 2, 3).swapaxes(3, 4),
    "flat": lambda s: s.reshape(2, -1),
    "a part": lambda s: s[:, 1:3, :, 2:5],
    "backwards": lambda s: s[..., ::-1],
    "padded": lambda s: jnp.pad(s, ((0, 0), (1, 1), (0, 2), (1, 0))),
    "joined": lambda s: jnp.concatenate([s, s[..., :2]], -1),
    "joined along space": lambda s: jnp.concatenate([s, s], 1),
    "repeated": lambda s: jnp.broadcast_to(s[:, :, None], (2, 4, 3, 4, 6)),
    "scaled": lambda s: s * 3 / 7,
    "gathered": lambda s: s[..., np.array([3, 0, 0, 5])],
}


def spikes_of(net, theta):
    """The current that `net` makes of a layer's spikes, and the value of the same."""
    program, _ = trace(lambda t, x: net(qcfs(x, t)), theta, X)
    reading = Stepped(steps=4)
    [current] = read(reading, program, [Constant(theta)], [X])
    return reading, current, net(qcfs(jnp.asarray(X), theta, levels=15))


@pytest.mark.parametrize("theta", [ALL, EACH], ids=["one theta", "each channel"])
@pytest.mark.parametrize("net", MOVES.values(), ids=MOVES)
def test_moved_spikes_are_the_spikes_of_the_moved_values(net, theta):
    _, current, want = spikes_of(net, theta)
    codes, delta = current.value
    np.testing.assert_allclose(codes * delta, want, rtol=1e-6)
    assert codes.shape == want.shape
    assert current.driven
    assert current.sizes in ((), jnp.shape(delta))


def test_thresholds_are_known_to_be_equal_where_no_channel_lies():
    net = {name: spikes_of(MOVES[name], EACH)[1].sizes for name in MOVES}
    assert net["transposed"] == (1, 6, 1, 1)
    assert net["folded"] == (1, 1, 6)
    assert net["channels in groups"] == (1, 1, 1, 3, 2)
    assert net["a part"] == (1, 1, 1, 3)
    assert net["padded"] == (1, 1, 1, 7)
    assert net["joined along space"] == (1, 8, 1, 6)
    assert net["flat"] == (1, 96)


MAXIMA = {
    "of joined channels": lambda s: jnp.concatenate([s, s * 2], -1).max((1, 2)),
    "of padded windows": lambda s: lax.reduce_window(
        jnp.pad(s, ((0, 0), (0, 1), (0, 1), (0, 0))),
        -jnp.inf,
        lax.max,
        (1, 3, 3, 1),
        (1, 2, 2, 1),
        "VALID",
    ),
    "of moved channels": lambda s: s.transpose(0, 3, 1, 2).max((2, 3)),
}


@pytest.mark.parametrize("net", MAXIMA.values(), ids=MAXIMA)
def test_a_maximum_where_thresholds_are_equal_is_that_of_codes(net):
    _, current, want = spikes_of(net, EACH)
    np.testing.assert_allclose(current.value.codes * current.value.delta, want, 1e-6)


DRIVEN = {
    "sum": (lambda s: s + 2 * s[..., ::-1], True),
    "mean": (lambda s: s.mean((1, 2)), True),
    "difference": (lambda s: s - s[..., ::-1], True),
    "negative": (lambda s: -s, True),
    "scaled by a variable": (lambda s: s * jnp.arange(6.0), True),
    "with a constant": (lambda s: s + 1, False),
    "padded with ones": (lambda s: jnp.pad(s, 1, constant_values=1), False),
    "weighted": (lambda s: s @ jnp.ones((6, 2)), False),
    "with the image": (lambda s: s + X, False),
}


@pytest.mark.parametrize("net, driven", DRIVEN.values(), ids=DRIVEN)
def test_spikes_alone_drive_what_has_met_no_weight_and_no_constant(net, driven):
    current = spikes_of(net, ALL)[1]
    assert isinstance(current, Current)
    assert (current.driven, current.sizes) == (driven, None)


PRODUCTS = {
    "squeeze and excite": lambda s: s * qcfs(s.mean((1, 2), keepdims=True), 0.6137),
    "scores": lambda s: jnp.einsum("nhwc,nhvc->nhwv", s, s[..., ::-1]),
    "gate before a maximum": lambda s: lax.reduce_window(
        s * qcfs(s.mean((1, 2), keepdims=True), 0.6137),
        -jnp.inf,
        lax.max,
        (1, 3, 3, 1),
        (1, 2, 2, 1),
        "SAME",
    ),
    "gate before a global maximum": lambda s: (
        qcfs(s.mean((1, 2), keepdims=True), 0.6137) * s
    ).max((1, 2)),
    "signed": lambda s: (s - s[..., ::-1]) * (s @ jnp.eye(6)),
}


@pytest.mark.parametrize("unroll", [True, False])
@pytest.mark.parametrize("net", PRODUCTS.values(), ids=PRODUCTS)
def test_a_spike_adds_what_the_other_current_has_brought(net, unroll):
    def whole(t, x):
        return qcfs(net(qcfs(x, t)), 1.931)

    with jax.enable_x64(True):
        x, theta = jnp.asarray(X, float), jnp.asarray(EACH, float)
        output, _ = jax.jit(spiking(whole, steps=4, unroll=unroll))(theta, x)
        np.testing.assert_array_equal(output, whole(theta, x))
        [product] = convert(whole, theta, x[:1], steps=4).report.products
    assert product.streamed[0] == "neuron"
