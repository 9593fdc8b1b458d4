"""Comparators on encoder layers: products of trains, softmax, layer norm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitsnn_jax import qcfs, signed_qcfs
from bitsnn_jax.comparators import METHODS, st_bif
from bitsnn_jax.comparators.qcfs import neuron as half_charged
from bitsnn_jax.comparators.simulation import simulate
from bitsnn_jax.numerics.mixing import normalise, softmax
from bitsnn_jax.tracing.reading import SpikingError

WIDTH, HEADS, LEVELS = 6, 2, 7
DECODE = {"nonspiking": "decode"}


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def encoder(variables, x, levels=LEVELS):
    """Attention and feed-forward layers with the operations of BERT."""
    for layer in range(len(variables["q"])):
        w = {name: value[layer] for name, value in variables.items()}
        x = attended(w, x, levels)
        hidden = jax.nn.gelu(signed_qcfs(x, 2.0, levels=levels) @ w["up"])
        hidden = qcfs(hidden, 1.5, levels=levels)
        x = normalise(x + hidden @ w["down"] + 0.1)
    return signed_qcfs(x[:, 0], 2.0, levels=levels) @ variables["out"][0]


def attended(w, x, levels=LEVELS):
    def coded(x):
        return signed_qcfs(x, 2.0, levels=levels)

    a, shape = coded(x), (*x.shape[:2], HEADS, WIDTH // HEADS)
    q, k, v = (coded((a @ w[name]).reshape(shape)) for name in "qkv")
    scores = jnp.einsum("nqhd,nkhd->nhqk", q, k) / 2
    shares = qcfs(softmax(scores), 1.0, levels=levels)
    context = jnp.einsum("nhqk,nkhd->nqhd", shares, v).reshape(x.shape)
    return normalise(x + coded(context) @ w["o"] - 0.05)


def filled(seed=0, words=3, layers=1):
    rng = np.random.default_rng(seed)
    wide = {"up": (WIDTH, 2 * WIDTH), "down": (2 * WIDTH, WIDTH)}
    shapes = dict.fromkeys(("q", "k", "v", "o", "out"), (WIDTH, WIDTH)) | wide
    variables = {
        name: jnp.asarray(rng.normal(size=(layers, *shape)) * 0.7)
        for name, shape in shapes.items()
    }
    return variables, jnp.asarray(rng.normal(size=(2, words, WIDTH)))


def settled(spikes):
    """Steps until the last spike of all layers; there must be silence behind it."""
    each = np.sum([*spikes.values()], axis=0)
    assert each[-1] == 0
    return int(np.flatnonzero(each)[-1]) + 1


def test_st_bif_is_silent_when_all_codes_are_those_of_the_ann_and_only_then():
    variables, x = filled(layers=2)
    steps, depth = 40, 13
    found = simulate(encoder, st_bif.neuron(), steps=steps, **DECODE)
    found = jax.jit(found)(variables, x)
    ann, end = jax.jit(encoder)(variables, x), settled(found.spikes)
    assert LEVELS < end <= depth * LEVELS
    # Both compute the same values by the same operations, compiled in two programs.
    errors = np.abs(found.outputs - ann).max((1, 2))
    assert errors[end - 1 :].max() < 1e-12 < errors[: end - 1].min()


def test_st_bif_sends_differences_as_spikezip_does():
    variables, x = filled(words=2)
    w = {name: np.asarray(value[0]) for name, value in variables.items()}
    run = simulate(attended, st_bif.neuron(), steps=12, **DECODE)
    found = jax.jit(run)(jax.tree.map(lambda a: a[0], variables), x)
    flows = SpikeZip(w, np.asarray(x))
    total, counts = 0, []
    for t in range(12):
        total = total + flows.step(t == 0)
        np.testing.assert_allclose(found.outputs[t], total, atol=1e-12)
        counts.append(flows.count)
    np.testing.assert_array_equal(np.sum([*found.spikes.values()], 0), counts)


class SpikeZip:
    """`attended` as flows: differences of products and functions, bias and input once.

    Membranes are carried, spikes come in pairs of neurons for the two signs.
    """

    def __init__(self, w, x):
        self.w, self.x, self.states, self.sums, self.count = w, x, {}, {}, 0

    def step(self, first):
        self.count = 0
        flow = self.x if first else 0 * self.x
        shape = (*flow.shape[:2], HEADS, WIDTH // HEADS)
        a = self.signed("a", flow)
        q, k, v = (self.signed(n, (a @ self.w[n]).reshape(shape)) for n in "qkv")
        scores = self.product("scores", "nqhd,nkhd->nhqk", q, k) / 2
        shares = self.fired("p", self.change("p", softmax, scores), 1.0)
        context = self.product("context", "nhqk,nkhd->nqhd", shares, v)
        o = self.signed("o", context.reshape(flow.shape)) @ self.w["o"]
        return self.change("norm", normalise, flow + o - 0.05 * first)

    def signed(self, name, flow):
        on = self.fired(name + "+", flow, 2.0)
        return on - self.fired(name + "-", -flow, 2.0)

    def fired(self, name, flow, theta):
        delta = theta / LEVELS
        v, n = self.states.get(name, (delta / 2, 0))
        v = v + flow
        s = 1 * ((v >= delta) & (n < LEVELS)) - ((v < 0) & (n > 0))
        self.states[name] = v - delta * s, n + s
        self.count += np.abs(s).sum()
        return delta * s

    def product(self, name, axes, one, other):
        ones, others = self.so_far(name + "1", one), self.so_far(name + "2", other)
        pairs = (ones, other, 1), (one, others, 1), (one, other, -1)
        return sum(sign * np.einsum(axes, a, b) for a, b, sign in pairs)

    def change(self, name, fn, flow):
        before = self.sums.get(name)
        after = np.asarray(fn(self.so_far(name, flow)))
        return after if before is None else after - np.asarray(fn(before))

    def so_far(self, name, flow):
        self.sums[name] = self.sums.get(name, 0) + flow
        return self.sums[name]


@pytest.mark.parametrize(
    ("name", "steps", "levels"),
    [("bit_serial", 3, 7), pytest.param("parallel", 5, 5, marks=pytest.mark.slow)],
)
def test_layer_by_layer_codes_are_those_of_the_ann(name, steps, levels):
    variables, x = filled()
    run = simulate(encoder, METHODS[name].neuron(steps), steps=steps, **DECODE)
    ann = jax.jit(encoder, static_argnums=2)(variables, x, levels)
    found = jax.jit(run)(variables, x)
    np.testing.assert_allclose(found.outputs[-1], ann, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bit_serial", "parallel"])
def test_sums_of_trains_give_what_every_step_gives(name):
    variables, x = filled(words=2)
    w = jax.tree.map(lambda a: a[0], variables)
    one, other = (
        simulate(attended, METHODS[name].neuron(3), steps=3, by_sum=by_sum, **DECODE)
        for by_sum in (True, False)
    )
    outputs = jax.jit(one)(w, x).outputs
    np.testing.assert_allclose(outputs, jax.jit(other)(w, x).outputs, atol=1e-12)


def scored(w, x):
    q, k = (qcfs(x @ w[name], 1.0) for name in "qk")
    return qcfs(softmax(q @ k.swapaxes(1, 2)), 0.5) @ w["v"][:3]


@pytest.mark.parametrize("warm_up", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_rate_neurons_see_products_and_functions_of_values_so_far(warm_up):
    variables, x = filled()
    w = {name: np.asarray(value[0]) for name, value in variables.items()}
    neuron = half_charged()._replace(warm_up=warm_up)
    found = jax.jit(simulate(scored, neuron, steps=4, **DECODE))(w, x)
    states = {"q": 0.5, "k": 0.5, "p": 0.25}

    def fired(name, current, theta):
        v = states[name] + current
        states[name] = v - theta * (v >= theta)
        return theta * (v >= theta)

    total, sent = {"k": 0, "s": 0}, []
    for t in range(warm_up + 4):
        if t == warm_up:
            total = {"k": 0, "s": 0}
        count = t + 1 - (warm_up if t >= warm_up else 0)
        q, k = (fired(name, x @ w[name], 1.0) for name in "qk")
        total["k"] = total["k"] + k
        total["s"] = total["s"] + q @ np.swapaxes(total["k"] / count, 1, 2)
        shares = fired("p", np.asarray(softmax(total["s"] / count)), 0.5)
        sent.append(shares @ w["v"][:3])
    means = [np.mean(sent[warm_up : warm_up + t], 0) for t in range(1, 5)]
    np.testing.assert_allclose(found.outputs, means, atol=1e-12)


def test_a_function_in_front_of_a_code_is_that_of_the_value_so_far():
    x = np.random.default_rng(0).normal(size=(3, 5))

    def network(variables, x):
        return qcfs(jax.nn.silu(qcfs(x, 1.0) - 0.3), 0.25)

    found = jax.jit(simulate(network, half_charged(), steps=4, **DECODE))((), x)
    v, total, u, sent = 0.5, 0, 0.125, []
    for t in range(1, 5):
        v = v + x
        spikes, v = 1.0 * (v >= 1), v - (v >= 1)
        total = total + spikes - 0.3
        u = u + total / t / (1 + np.exp(-total / t))
        sent.append(0.25 * (u >= 0.25))
        u = u - sent[-1]
    means = [np.mean(sent[:t], 0) for t in range(1, 5)]
    np.testing.assert_allclose(found.outputs, means, atol=1e-12)
    assert found.outputs.any()


def test_functions_of_trains_are_refused_unless_they_may_be_decoded():
    variables, x = filled()
    for name in ("qcfs", "parallel"):
        run = simulate(encoder, METHODS[name].neuron(2), steps=2)
        with pytest.raises(SpikingError, match="has no spiking form"):
            jax.eval_shape(run, variables, x)
