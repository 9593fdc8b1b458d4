"""Networks of several frameworks with plain ReLU, unedited: quantised, then spiking."""

from functools import partial

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bitsnn_jax import qcfs, verify
from bitsnn_jax.conversion.relu_to_qcfs import quantise, replace_relu


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def images(seed=0):
    return jax.random.normal(jax.random.key(seed), (4, 8, 8, 3))


def shaken(variables, seed=1):
    """Every float off its default, variances positive; all in float64."""
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    leaves = [
        a.astype(float) * jax.random.uniform(k, a.shape, minval=0.6, maxval=1.4)
        + (0.2 * jax.random.normal(k, a.shape) if a.ndim == 1 and not a.any() else 0)
        for k, a in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, leaves)


class Block(nnx.Module):
    """A basic block of a ResNet."""

    def __init__(self, features, out, *, strides, rngs):
        conv = {"kernel_size": (3, 3), "use_bias": False, "rngs": rngs}
        self.conv_1 = nnx.Conv(features, out, strides=strides, **conv)
        self.conv_2 = nnx.Conv(out, out, **conv)
        self.norm_1 = nnx.BatchNorm(out, use_running_average=True, rngs=rngs)
        self.norm_2 = nnx.BatchNorm(out, use_running_average=True, rngs=rngs)
        self.shortcut = nnx.Conv(features, out, (1, 1), strides=strides, rngs=rngs)

    def __call__(self, x):
        y = self.norm_2(self.conv_2(nnx.relu(self.norm_1(self.conv_1(x)))))
        return nnx.relu(y + self.shortcut(x))


class ResNet(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.block_1 = Block(4, 4, strides=1, rngs=rngs)
        self.block_2 = Block(4, 6, strides=2, rngs=rngs)
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.max_pool(nnx.relu(self.stem(x)), (2, 2), (2, 2))
        return self.head(self.block_2(self.block_1(x)).mean((1, 2)))


def nnx_resnet():
    graphdef, state = nnx.split(ResNet(nnx.Rngs(0)))
    return lambda state, x: nnx.merge(graphdef, state)(x), shaken(state)


class Stack(nnx.Module):
    """Layers that are stacked by vmap and run by scan."""

    def __init__(self, rngs):
        @nnx.split_rngs(splits=3)
        @nnx.vmap(in_axes=0)
        def make(rngs):
            return nnx.Linear(5, 5, rngs=rngs)

        self.stem = nnx.Linear(192, 5, rngs=rngs)
        self.layers = make(rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def forward(x, layer):
            return nnx.relu(layer(x))

        return forward(self.stem(x.reshape(len(x), -1)), self.layers)


def nnx_stack():
    graphdef, state = nnx.split(Stack(nnx.Rngs(0)))
    return lambda state, x: nnx.merge(graphdef, state)(x), shaken(state)


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        y = nn.BatchNorm(use_running_average=True)(nn.Conv(5, (3, 3))(x))
        return nn.relu(x + nn.Conv(5, (3, 3), name="last")(nn.relu6(y))), None


class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x):
        layers = nn.scan(
            nn.remat(Layer),
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True},
            length=2,
        )
        x, _ = layers(name="layers")(nn.relu(nn.Conv(5, (3, 3))(x)), None)
        return nn.Dense(3)(nn.avg_pool(x, (2, 2), (2, 2)).reshape(len(x), -1))


class Shared(nn.Module):
    @nn.compact
    def __call__(self, x):
        conv = nn.Conv(5, (3, 3), name="conv")
        x = nn.relu(nn.Conv(5, (3, 3), name="stem")(x))
        for _ in range(2):
            x = nn.relu(conv(x))
        return nn.Dense(3)(x.mean((1, 2)))


def of_linen(network):
    model = network()
    variables = model.init(jax.random.key(0), images())
    return lambda v, x: model.apply(v, x), shaken(variables)


class Convolutional(eqx.Module):
    conv_1: eqx.nn.Conv2d
    conv_2: eqx.nn.Conv2d
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.conv_1 = eqx.nn.Conv2d(3, 4, 3, padding=1, key=keys[0])
        self.conv_2 = eqx.nn.Conv2d(4, 5, 3, key=keys[1])
        self.head = eqx.nn.Linear(5, 3, key=keys[2])

    def __call__(self, x):
        x = eqx.nn.MaxPool2d(2, 2)(jax.nn.relu(self.conv_1(x)))
        return self.head(jax.nn.relu(self.conv_2(x)).mean((1, 2)))


def equinox_network():
    model = Convolutional(jax.random.key(0))
    arrays, rest = eqx.partition(model, eqx.is_array)

    def apply_fn(arrays, x):
        return jax.vmap(eqx.combine(arrays, rest))(x.transpose(0, 3, 1, 2))

    return apply_fn, shaken(arrays)


def of_arrays():
    shapes = {"w": (3, 6), "b": (6,), "v": (6, 6), "c": (6,)}
    keys = jax.random.split(jax.random.key(0), len(shapes))
    variables = {
        name: jax.random.normal(key, shape)
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }

    def apply_fn(p, x):
        x = jnp.maximum(x @ p["w"] + p["b"], 0).mean((1, 2))
        return jnp.clip(x @ p["v"] + p["c"], 0, 1.5) @ p["v"]

    return apply_fn, variables


NETWORKS = {
    "nnx": nnx_resnet,
    "nnx_scan": nnx_stack,
    "linen_scan": partial(of_linen, Scanned),
    "linen_shared": partial(of_linen, Shared),
    "equinox": equinox_network,
    "arrays": of_arrays,
}


SLOW = ("nnx_scan", "linen_shared")  # a scan and a shared module are here elsewhere


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in NETWORKS]
)
def test_a_network_with_relu_spikes_as_its_quantised_self(name):
    apply_fn, variables = NETWORKS[name]()
    batches = [images(2), images(3)]
    quantised = quantise(apply_fn, variables, batches)
    certificate = verify(*quantised, images(4), steps=4)
    assert certificate.exact, certificate
    # The names of thresholds are those of the layers of neurons.
    assert list(certificate.layers) == list(quantised.variables["theta"])
    # With fine grids it is the network itself: each activation is off by 2^-31 * 100,
    # which some layers, of up to 45 products, make more of.
    fine_fn = replace_relu(apply_fn, levels=2**30)
    thetas = {path: 100.0 for path in certificate.layers}
    found = jax.jit(fine_fn)({"network": variables, "theta": thetas}, images(5))
    wanted = jax.jit(apply_fn)(variables, images(5))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


def hand_written(variables, x, activation):
    p, theta = variables["network"], list(variables["theta"].values())
    x = activation(x @ p["w"] + p["b"], theta[0]).mean((1, 2))
    return activation(x @ p["v"] + p["c"], theta[1]) @ p["v"]


def test_gradients_are_those_of_a_network_written_with_qcfs():
    apply_fn, variables = of_arrays()
    quantised = quantise(apply_fn, variables, [images(2)], levels=7)

    def loss(fn):
        return lambda variables, x: jnp.sum(jnp.sin(fn(variables, x)))

    by_hand = partial(hand_written, activation=partial(qcfs, levels=7))
    args = quantised.variables, images(3)
    found, wanted = (
        jax.jit(jax.grad(loss(fn), argnums=(0, 1)))(*args)
        for fn in (quantised.apply_fn, by_hand)
    )
    close = partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12)
    jax.tree.map(close, found, wanted)  # sums in another order
    assert all(np.any(leaf) for leaf in jax.tree.leaves(found))
