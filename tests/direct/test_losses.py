"""Losses and neurons of single methods, against loops in NumPy float64."""

import math
from collections import OrderedDict
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitsnn_jax.config import Config, Direct, Model
from bitsnn_jax.direct import METHODS, Fired, Seen
from bitsnn_jax.direct.im_loss import currents, sharpness
from bitsnn_jax.direct.layers import outside_blocks
from bitsnn_jax.direct.mpr import rectified
from bitsnn_jax.direct.sml import _quarters, behind
from bitsnn_jax.tasks import task_of
from bitsnn_jax.training.step import _forward

SHAPE = (4, 4, 1)

# Derivatives of H(z), z = u - theta, one number at a time.
SLOPES = {
    "dspike": lambda z: (
        3 / math.cosh(3 * z) ** 2 / (2 * math.tanh(1.5)) if abs(z) <= 0.5 else 0.0
    ),
    "dspike, centred": lambda z: (
        2.5 / math.cosh(2.5 * z) ** 2 / (2 * math.tanh(2.5)) if abs(z) <= 1 else 0.0
    ),
    "triangle": lambda z: max(0.0, 1 - abs(z)),
    "im_loss at 0.4": lambda z: (
        ((10**0.4 - 1) * 10 + (10 - 10**0.4)) / 18
        / math.cosh(((10**0.4 - 1) * 10 + (10 - 10**0.4)) / 9 * z) ** 2
    ),
}  # fmt: skip


def neuron_loop(x, g, *, keep, theta, soft, fires, slope):
    """Spikes of currents x [T, n], and what g [T, n], of the spikes, makes of x."""
    spikes, back = np.zeros_like(x), np.zeros_like(x)
    for i in range(x.shape[1]):
        rest, seen = 0.0, []
        for t in range(len(x)):
            u = keep * rest + x[t, i]
            spikes[t, i] = s = float(fires(u))
            rest = u - s * theta if soft else u * (1 - s)
            seen.append(u)
        later = 0.0  # of the membrane after the reset
        for t in reversed(range(len(x))):
            u, s = seen[t], spikes[t, i]
            of_spike = g[t, i] - later * (theta if soft else u)
            back[t, i] = later * (1 if soft else 1 - s) + of_spike * slope(u)
            later = keep * back[t, i]
    return spikes, back


def quantised(u):
    if u > 1:
        return u ** (1 / 3)
    if u < 0:
        return 1 - (1 - u) ** (1 / 3)
    return 0.5 + 0.5 * math.tanh(3 * (u - 0.5)) / math.tanh(1.5)


def slope_of_quantised(u):
    inside = 0 < quantised(u) < 1
    return 1.5 / math.cosh(3 * (u - 0.5)) ** 2 / math.tanh(1.5) if inside else 0.0


def lif(keep, theta, slope):
    return {
        "keep": keep,
        "theta": theta,
        "soft": False,
        "fires": lambda u: u >= theta,
        "slope": lambda u: SLOPES[slope](u - theta),
    }


NEURONS = {
    "dspike": lif(0.25, 0.5, "dspike"),
    "im_loss": lif(0.25, 0.5, "im_loss at 0.4"),
    "tebn": lif(0.25, 1.0, "triangle"),
    "sml": lif(0.5, 1.0, "dspike, centred"),
    "mpr": {
        "keep": 1.0,
        "theta": 1.0,
        "soft": True,
        "fires": lambda u: quantised(u) >= 0.5,
        "slope": slope_of_quantised,
    },
}


@pytest.mark.parametrize("name", NEURONS)
def test_neurons_of_a_method_and_their_gradient_are_a_loop_over_steps(name):
    rng = np.random.default_rng(0)
    x, g = rng.normal(0.4, 0.7, (5, 12)), rng.normal(size=(5, 12))
    spikes, back = neuron_loop(x, g, **NEURONS[name])
    with jax.enable_x64(True):
        neuron = METHODS[name].neuron(0.4)
        found, vjp = jax.vjp(lambda x: neuron(x, {}).values, jnp.asarray(x))
        (gradient,) = vjp(jnp.asarray(g))
    assert 0.1 < spikes.mean() < 0.9
    np.testing.assert_array_equal(found, spikes)
    np.testing.assert_allclose(gradient, back, rtol=1e-12, atol=1e-12)


def test_the_rectified_membrane_is_three_pieces_with_finite_slopes():
    u = np.array([-7.0, -0.3, 0.0, 0.2, 0.5, 0.9, 1.0, 1.5, 8.0])
    with jax.enable_x64(True):
        found, slopes = jax.vmap(jax.value_and_grad(rectified))(jnp.asarray(u))
    wanted = [quantised(v) for v in u]
    np.testing.assert_allclose(found, wanted, rtol=1e-14, atol=1e-15)
    assert np.isfinite(slopes).all()
    ahead, behind = ([quantised(v + h) for v in u] for h in (1e-6, -1e-6))
    smooth = ~np.isin(u, [0, 1])
    numeric = (np.array(ahead) - behind) / 2e-6
    np.testing.assert_allclose(slopes[smooth], numeric[smooth], rtol=1e-6)


def test_the_surrogate_of_im_loss_gets_ten_times_as_sharp():
    assert [sharpness(p) for p in (0.0, 1.0)] == [1.0, 10.0]
    halfway = ((math.sqrt(10) - 1) * 10 + 10 - math.sqrt(10)) / 9
    assert sharpness(0.5) == pytest.approx(halfway, rel=1e-15)


PATHS = (  # of a small residual network
    "stem_act",
    "stages_0_0/act_1",
    "stages_0_0/act_2",
    "stages_1_0/act_1",
    "stages_1_0/act_2",
    "hidden_act",
)


def seen(progress, steps=3, examples=2):
    rng = np.random.default_rng(4)

    def fired(shape):
        u = rng.normal(0.4, 0.8, (steps, examples, *shape))
        s = (u >= 0.5).astype(float)
        return Fired(*map(jnp.asarray, (s, s, u, 0.5)))

    # Of two sizes, so that a mean over layers is not one over neurons.
    shapes = {path: (5,) if path == "hidden_act" else (2, 2, 3) for path in PATHS}
    layers = OrderedDict((path, fired(shape)) for path, shape in shapes.items())
    outputs = jnp.asarray(rng.normal(size=(steps, examples, 4)))
    return Seen(outputs, layers, {}, jnp.asarray(progress))


def task_loss(outputs):
    return (outputs**2).sum(-1)


def on_top(name, progress):
    """What a method adds to the loss of the mean output, and what it looked at."""
    with jax.enable_x64(True):
        at = seen(progress)
        found = np.asarray(METHODS[name].loss(at, task_loss))
        at = jax.tree.map(np.asarray, at)
    return found - task_loss(at.outputs.mean(0)), at


def each_membrane(fired, example):
    for t in range(len(fired.membranes)):
        yield from fired.membranes[t, example].ravel()


def test_im_loss_is_the_squared_distance_of_mean_membranes_from_the_threshold():
    found, at = on_top("im_loss", 0.3)
    wanted = 0.0
    outside = ["stem_act", "stages_0_0/act_2", "stages_1_0/act_2", "hidden_act"]
    assert list(outside_blocks(at.layers)) == outside
    for path in outside:
        u = [v for i in (0, 1) for v in each_membrane(at.layers[path], i)]
        wanted += 2 * (sum(u) / len(u) - 0.5) ** 2
    np.testing.assert_allclose(found, [wanted, wanted], rtol=1e-12)


def test_im_loss_of_the_code_wants_half_a_spike_of_inner_layers():
    """The inner layers end blocks here, where the code looks at currents."""
    found, at = on_top("im_loss_code", 0.3)
    terms = []
    for path in ("stages_0_0/act_2", "stages_1_0/act_2"):
        u, s = at.layers[path].membranes, at.layers[path].spikes
        total = 0.0
        for t in range(3):
            for place in np.ndindex(u.shape[1:]):
                rest = u[t - 1][place] * (1 - s[t - 1][place]) if t else 0.0
                total += u[t][place] - 0.25 * rest
        terms.append((total / u.size - 0.5 / 3) ** 2)
    wanted = 0.005 * sum(terms) / 2
    np.testing.assert_allclose(found, [wanted, wanted], rtol=1e-12)


def test_im_loss_of_the_code_counts_spikes_where_there_are_no_blocks():
    with jax.enable_x64(True):
        at = seen(0.0)
        flat = {path.replace("/", "_"): f for path, f in at.layers.items()}
        found = METHODS["im_loss_code"].loss(at._replace(layers=flat), task_loss)
        added = np.asarray(found - task_loss(at.outputs.mean(0)))
    inner = list(flat.values())[1:-1]
    shares = [sum(np.ravel(f.spikes)) / np.size(f.spikes) for f in inner]
    wanted = 0.005 * sum((share - 0.5 / 3) ** 2 for share in shares) / 4
    np.testing.assert_allclose(added, [wanted, wanted], rtol=1e-12)


def test_currents_are_what_a_neuron_was_given():
    x = np.random.default_rng(1).normal(0.4, 0.7, (4, 5))
    with jax.enable_x64(True):
        neuron = METHODS["im_loss_code"].neuron(1.0)
        found, vjp = jax.vjp(lambda x: currents(neuron(x, {})), jnp.asarray(x))
        (gradient,) = vjp(jnp.asarray(2 * x))
    np.testing.assert_allclose(found, x, rtol=1e-14)
    np.testing.assert_allclose(gradient, 2 * x, rtol=1e-12)


@pytest.mark.parametrize("progress, weight", [(0.0, 0), (0.3, 0.06), (0.8, 0.04)])
def test_rmp_loss_is_the_mean_squared_distance_from_the_nearer_spike(progress, weight):
    found, at = on_top("rmp_loss", progress)
    for i in (0, 1):
        wanted = 0.0
        for fired in at.layers.values():
            u = list(each_membrane(fired, i))
            wanted += sum(min(abs(v), abs(1 - v)) ** 2 for v in u) / len(u) / 6
        np.testing.assert_allclose(found[i], weight * wanted, rtol=1e-11, atol=1e-14)


def test_rec_dis_punishes_three_shifts_of_each_channel():
    found, at = on_top("rec_dis", 0.3)
    wanted = 0.0
    for fired in at.layers.values():
        channels = fired.membranes.shape[-1]
        for c in range(channels):
            u = [float(v) - 0.5 for v in fired.membranes[..., c].ravel()]
            m = sum(u) / len(u)
            s = math.sqrt(sum((v - m) ** 2 for v in u) / len(u) + 1e-5)
            degeneration = max(0, abs(m) - s) ** 2
            saturation = max(0, abs(m) - s / 4 - 0.5) ** 2
            mismatch = max(0, 0.5 - abs(m) - 2 * s) ** 2
            wanted += 0.1 * (degeneration + saturation + mismatch) / channels
    np.testing.assert_allclose(found, [wanted, wanted], rtol=1e-10)


@pytest.mark.parametrize(
    "mean, spread, shift",
    [(1.3, 0.2, (0.8 - 0.2) ** 2 + 0.25**2), (0.5, 0.1, 0.3**2), (0.4, 1.0, 0)],
)
def test_rec_dis_of_distributions_that_degenerate_saturate_or_mismatch(
    mean, spread, shift
):
    membranes = jnp.asarray([mean - spread, mean + spread]).reshape(2, 1, 1)
    fired = Fired(membranes, membranes, membranes, jnp.asarray(0.5))
    at = Seen(jnp.zeros((2, 1, 4)), {"act": fired}, {}, 0.0)
    found = METHODS["rec_dis"].loss(at, task_loss)
    np.testing.assert_allclose(found, [0.1 * shift], atol=1e-5)


# Methods of the same neurons share a network.
SAME = {
    "dspike": ("dspike", "im_loss_code", "rec_dis", "rmp_loss"),
    "im_loss": ("im_loss",),
    "mpr": ("mpr",),
    "sml": ("sml",),
    "tebn": ("tebn",),
}


@pytest.mark.parametrize(
    "network",
    [
        pytest.param(name, marks=[] if name == "dspike" else pytest.mark.slow)
        for name in SAME
    ],
)
def test_gradients_are_finite_and_reach_the_first_layer(network):
    """Also where a channel is silent and all its membranes are 0."""
    settings = Config(
        steps=2,
        model=Model(name="small", width=0.5, activation="spiking"),
        direct=Direct(method=network, unroll=False),
    )
    model = task_of(settings).build(settings, SHAPE)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *SHAPE)))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False))
    rng = np.random.default_rng(1)

    def start(s):  # of about the size of the currents' thresholds
        return rng.normal(0.2, 1, s.shape) / math.sqrt(np.prod(s.shape[:-1]))

    variables = jax.tree.map(start, shapes)
    variables["params"]["conv_3"]["kernel"][..., 0] = 0
    variables["params"]["conv_3"]["bias"][0] = 0

    def losses(params):
        _, updates = model.apply(
            {**variables, "params": params},
            x,
            train=True,
            progress=0.3,
            mutable=["batch_stats", "direct"],
        )
        (at,) = updates["direct"]["seen"]
        means = [METHODS[name].loss(at, task_loss).mean() for name in SAME[network]]
        return jnp.stack(means)

    found = jax.jit(jax.jacrev(losses))(variables["params"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    of_first = np.abs(found["conv_1"]["kernel"]).max(axis=(1, 2, 3, 4))
    assert (of_first > 0).all()
    assert len(np.unique(of_first)) == len(of_first)


@pytest.mark.parametrize("strides", [1, 2])
def test_norms_in_blocks_of_mpr_start_at_half_and_lower_where_two_are_added(strides):
    made = METHODS["mpr"].block
    block = made(4, strides=strides, act=lambda name: nn.relu, norm=nn.BatchNorm)
    params = jax.jit(partial(block.init, train=False))(
        jax.random.key(0), jnp.zeros((1, 2, 2, 4))
    )["params"]
    found = {name: float(conv["norm"]["scale"][0]) for name, conv in params.items()}
    less = pytest.approx(0.5 / math.sqrt(2), rel=1e-6)
    added = {"conv_2": less, "shortcut": less} if strides == 2 else {"conv_2": 0.5}
    assert found == {"conv_1": 0.5, **added}


def test_sml_teaches_heads_and_network_together():
    rng = np.random.default_rng(3)
    o, q = rng.normal(size=(3, 2, 4)), rng.normal(size=(2, 2, 4))
    labels = [1, 3]

    def softened(logits):
        e = [math.exp(v / 3) for v in logits]
        return [v / sum(e) for v in e]

    def cross_entropy(logits, i):
        return math.log(sum(math.exp(v) for v in logits)) - logits[labels[i]]

    def kl(target, found):
        pairs = zip(softened(target), softened(found), strict=True)
        return sum(p * math.log(p / r) for p, r in pairs)

    wanted = []
    for i in (0, 1):
        mean = o[:, i].mean(0)
        of_heads = cross_entropy(q[0, i], i) + cross_entropy(q[1, i], i)
        right = (cross_entropy(mean, i) + 0.5 * of_heads) / 2
        apart = sum(kl(mean, q[k, i]) + kl(q[k, i], mean) for k in (0, 1))
        wanted.append((0.1 * right + 0.9 * apart / 4) / 0.1)

    def of_task(outputs):
        each = jnp.take_along_axis(outputs, jnp.asarray(labels)[:, None], 1)[:, 0]
        return jax.nn.logsumexp(outputs, axis=-1) - each

    def loss(o, q):
        at = Seen(o, {}, {"act_2": q[0], "act_3": q[1]}, 0.3)
        return METHODS["sml"].loss(at, of_task)

    @jax.jit
    def loss_and_gradient(o, q):
        each, vjp = jax.vjp(lambda q: loss(o, q), q)
        return each, vjp(jnp.asarray([1.0, 0.0]))[0]

    with jax.enable_x64(True):
        found, gradient = map(np.asarray, loss_and_gradient(o, q))
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    p = np.exp(q[0, 0]) / np.exp(q[0, 0]).sum()
    soft = np.subtract(softened(q[0, 0]), softened(o[:, 0].mean(0)))
    # d KL(target || q) / dq = (softmax(q / 3) - target) / 3.
    by_hand = 0.5 / 2 * (p - np.eye(4)[1]) + 0.9 / 4 * soft / 3 / 0.1
    np.testing.assert_allclose(gradient[0, 0], by_hand, rtol=1e-10)


def test_heads_average_four_quarters_that_share_a_middle():
    x = np.random.default_rng(0).normal(size=(2, 5, 4, 3)).astype(np.float32)
    quarters = [x[:, r : r + 3, c : c + 2].mean((1, 2)) for r in (0, 2) for c in (0, 2)]
    np.testing.assert_allclose(_quarters(x), np.hstack(quarters), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "name, blocks", [("resnet18", (2, 2, 2, 2)), ("resnet20", (3, 3, 3))]
)
def test_heads_stand_behind_the_third_and_the_sixth_block(name, blocks):
    ends = [f"stages_{i}_{j}" for i, n in enumerate(blocks) for j in range(n)]
    paths = ["stem_act", *(f"{end}/act_{k}" for end in ends for k in (1, 2))]
    found = list(behind(dict.fromkeys(paths)))
    assert found == [f"{ends[2]}/act_2", f"{ends[5]}/act_2"], name


def test_heads_are_no_part_of_what_is_evaluated():
    settings = Config(
        steps=1,
        model=Model(name="small", width=0.5, activation="spiking"),
        direct=Direct(method="sml"),
    )
    model, x = task_of(settings).build(settings, SHAPE), jnp.ones((1, *SHAPE))
    every = jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False))
    assert {"head_0", "head_1"} == every["params"]["heads"].keys()
    network = {kind: {**every[kind]} for kind in ("params", "batch_stats")}
    for kind in network:
        del network[kind]["heads"]

    def operations(variables):
        evaluated = partial(model.apply, train=False)
        return len(jax.make_jaxpr(evaluated)(variables, x).eqns)

    assert operations(network) == operations(every)


@pytest.mark.parametrize("remat", ["none", "layer"])
def test_losses_see_layers_in_the_order_of_firing(remat):
    """JAX sorts dictionaries by their keys where it takes them apart."""
    settings = Config(
        steps=1,
        model=Model(name="resnet20", width=0.1, activation="spiking"),
        direct=Direct(method="im_loss_code", remat=remat),
    )
    model, x = task_of(settings).build(settings, SHAPE), jnp.zeros((1, *SHAPE))
    forward = _forward(model, ["batch_stats", "direct"], settings.direct)

    def layers(x):
        variables = model.init(jax.random.key(0), x, train=False)
        _, updates = forward(variables, x, jax.random.key(0), 0.0)
        return updates["direct"]["seen"][0].layers

    paths = list(outside_blocks(jax.eval_shape(layers, x)))
    blocks = [f"stages_{i}_{j}/act_2" for i in range(3) for j in range(3)]
    assert paths == ["stem_act", *blocks]
