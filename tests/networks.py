"""Oddly built networks: one for each thing that a spiking network must survive."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax import QCFS, qcfs
from bitsnn_jax.integers.lowering import lower

act = functools.partial(QCFS, theta_init=1.0)
norm = functools.partial(nn.BatchNorm, use_running_average=True)


class Residual(nn.Module):
    """Identity and projection shortcuts, norm after the convolution."""

    @nn.compact
    def __call__(self, x):
        x = act()(norm()(nn.Conv(6, (3, 3), use_bias=False)(x)))
        y = act()(norm()(nn.Conv(6, (3, 3))(x)))
        x = act()(x + norm()(nn.Conv(6, (3, 3))(y)))
        y = norm()(nn.Conv(8, (3, 3), strides=2)(x))
        x = act()(y + norm()(nn.Conv(8, (1, 1), strides=2)(x)))
        return nn.Dense(3)(x.mean((1, 2)))


class PreActivation(nn.Module):
    """Norm before the activation and before the convolution; currents skip neurons."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(6, (3, 3))(x)  # analog, carried past the first neurons
        for _ in range(3):
            y = nn.Conv(6, (3, 3), use_bias=False)(act()(norm()(x)))
            x = x + nn.Conv(6, (3, 3), use_bias=True)(act()(norm()(y)))
        return nn.Dense(3)(act()(norm()(x)).mean((1, 2)))


class NormBeforeConvolution(nn.Module):
    """A batch norm on spikes, and a zero-padded convolution behind it."""

    @nn.compact
    def __call__(self, x):
        x = act()(nn.Conv(5, (3, 3))(x))
        x = nn.Conv(5, (3, 3), padding="SAME", use_bias=False)(norm()(x))
        return nn.Dense(3)(act()(x).reshape(x.shape[0], -1))


class Concatenated(nn.Module):
    """Dense blocks: features of several depths side by side, analog ones among them."""

    @nn.compact
    def __call__(self, x):
        features = [nn.Conv(4, (3, 3))(x)]
        for _ in range(3):
            y = act()(norm()(jnp.concatenate(features, axis=-1)))
            features.append(nn.Conv(4, (3, 3))(y))
        y = act(per_channel=True)(jnp.concatenate(features, axis=-1))
        return nn.Dense(3)(nn.avg_pool(y, (2, 2), (2, 2)).reshape(y.shape[0], -1))


class Convolutions(nn.Module):
    """Depthwise, grouped, dilated, transposed, with and without biases, any padding."""

    @nn.compact
    def __call__(self, x):
        x = act()(norm()(nn.Conv(8, (3, 3))(x)))
        x = act()(norm()(nn.Conv(8, (3, 3), feature_group_count=8)(x)))
        x = act()(nn.Conv(12, (3, 3), feature_group_count=4, padding="VALID")(x))
        x = act()(nn.Conv(6, (3, 3), kernel_dilation=2, padding="CIRCULAR")(x))
        x = act()(nn.ConvTranspose(6, (3, 3), strides=(2, 2))(x))
        x = act()(norm()(nn.Conv(4, (3, 3), input_dilation=2, padding=1)(x)))
        return nn.Dense(3)(x.sum((1, 2)))


class Pooling(nn.Module):
    """Average pooling with and without padding, max pooling, both global ones."""

    @nn.compact
    def __call__(self, x):
        x = nn.max_pool(act()(nn.Conv(6, (3, 3))(x)), (2, 2), (2, 2))
        x = act(per_channel=True)(norm()(nn.Conv(6, (3, 3))(x)))
        x = nn.max_pool(x, (3, 3), (1, 1), padding="SAME")
        x = act()(nn.Conv(6, (3, 3))(x))
        x = nn.avg_pool(x, (2, 2), (1, 1), padding="SAME", count_include_pad=False)
        x = act()(nn.Conv(6, (1, 1))(x))
        return nn.Dense(3)(x.mean((1, 2))) + nn.Dense(3)(x.max((1, 2)))


class Inverted(nn.Module):
    """Inverted residuals with a linear bottleneck: no neuron between two layers."""

    @nn.compact
    def __call__(self, x):
        x = act()(norm()(nn.Conv(4, (3, 3), strides=2)(x)))
        for _ in range(2):
            y = act()(norm()(nn.Conv(12, (1, 1), use_bias=False)(x)))
            y = nn.Conv(12, (3, 3), feature_group_count=12, use_bias=False)(y)
            y = norm()(nn.Conv(4, (1, 1), use_bias=False)(act()(norm()(y))))
            x = x + y
        return nn.Dense(3)(act()(nn.Conv(9, (1, 1))(x)).mean((1, 2)))


class Reshaped(nn.Module):
    """Channel shuffle, transposition, padding, slicing, repetition, einsum."""

    @nn.compact
    def __call__(self, x):
        x = act()(nn.Conv(8, (3, 3))(x))
        n, h, w, c = x.shape
        x = x.reshape(n, h, w, 2, c // 2).swapaxes(3, 4).reshape(n, h, w, c)
        left, right = jnp.split(act()(nn.Conv(8, (1, 1))(x)), 2, axis=-1)
        x = jnp.pad(left - 0.5 * right[:, ::-1], ((0, 0), (1, 1), (0, 0), (0, 0)))
        x = jnp.repeat(x[:, :, 1::2], 2, axis=2) / 3
        x = x.at[:, 0].set(0).at[:, 2].multiply(2.0)
        x = act()(nn.Conv(5, (3, 3))(jnp.roll(x, 1, axis=1)))
        mix = self.param("mix", nn.initializers.normal(), (5, 7))
        return nn.Dense(3)(act()(jnp.einsum("nhwc,cd->nd", x, mix)))


class Shared(nn.Module):
    """One module called several times, spikes in every call."""

    @nn.compact
    def __call__(self, x):
        conv, bn, spike = nn.Conv(6, (3, 3)), norm(), act()
        x = act()(nn.Conv(6, (3, 3))(x))
        for _ in range(3):
            x = spike(bn(conv(x)))
        return nn.Dense(3)(x.mean((1, 2)))


class ManyInputsAndOutputs(nn.Module):
    """Two inputs that meet late, three outputs of which one is a spike train."""

    @nn.compact
    def __call__(self, x):
        image = act()(nn.Conv(4, (3, 3))(x["image"]))
        vector = act()(nn.Dense(4)(x["vector"]))
        y = act()(norm()(nn.Conv(4, (3, 3))(image)) + vector[:, None, None])
        gated = nn.Dense(4)(y) * nn.sigmoid(nn.Dense(4)(x["vector"]))[:, None, None]
        return {"logits": nn.Dense(3)(gated.mean((1, 2))), "all": (y, x["vector"])}


class MultilayerPerceptron(nn.Module):
    """No norm and no convolution; dropout in inference; a scale and an offset."""

    @nn.compact
    def __call__(self, x):
        x = x.reshape(x.shape[0], -1)
        for _ in range(4):
            x = nn.Dropout(0.5, deterministic=True)(act()(nn.Dense(16)(x)))
        offset = self.param("offset", nn.initializers.normal(), (16,))
        return nn.Dense(3, use_bias=False)(offset + 2.0 * act()(nn.Dense(16)(x)))


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        y = act()(norm()(nn.Conv(5, (3, 3))(x)))
        return act()(x + nn.Conv(5, (3, 3))(y)), None


class Scanned(nn.Module):
    """Layers in a `lax.scan`, rematerialised, and a jitted function in between."""

    @nn.compact
    def __call__(self, x):
        x = act()(nn.Conv(5, (3, 3))(x))
        layers = nn.scan(
            nn.remat(Layer),
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True},
            length=3,
        )
        x, _ = layers()(x, None)
        x = jax.jit(lambda x: 2 * x - x / 2)(x)
        return nn.Dense(3)(x.mean((1, 2)))


class OneDimensional(nn.Module):
    """A sequence: embedding, convolutions in one dimension, a sum over time steps."""

    @nn.compact
    def __call__(self, x):
        x = nn.Embed(11, 6)(x)
        x = act()(nn.Conv(6, (3,))(x))
        x = act()(norm()(nn.Conv(6, (3,), padding="CAUSAL")(x)))
        return nn.DenseGeneral((3, 2))(jnp.cumsum(x, axis=1)[:, -1])


def image(key, size=8):
    return jax.random.normal(key, (4, size, size, 3))


INPUTS = {
    ManyInputsAndOutputs: lambda key: {
        "image": image(key),
        "vector": jax.random.normal(key, (4, 5)),
    },
    OneDimensional: lambda key: jax.random.randint(key, (4, 12), 0, 11),
}
NETWORKS = (
    Residual,
    PreActivation,
    NormBeforeConvolution,
    Concatenated,
    Convolutions,
    Pooling,
    Inverted,
    Reshaped,
    Shared,
    ManyInputsAndOutputs,
    MultilayerPerceptron,
    Scanned,
    OneDimensional,
)


def with_odd_variables(variables, seed):
    """Move every parameter and statistic off its default."""
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    # Spread around the default: signs of gamma and beta both occur, variances and
    # thresholds stay positive.
    leaves = [
        a * jax.random.uniform(k, a.shape, minval=0.6, maxval=1.4)
        + (0.2 * jax.random.normal(k, a.shape) if a.ndim == 1 and not a.any() else 0)
        for k, a in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, leaves)


def build(network, seed=0):
    """(apply_fn, variables, x) with every parameter and statistic off its default."""
    model, key = network(), jax.random.key(seed)
    x = INPUTS.get(network, image)(key)
    variables = model.init(key, x)
    variables = with_odd_variables(variables, seed + 1)
    return lambda v, x: model.apply(v, x), variables, x


# Those that take one image, as the layer graph does.
OF_ONE_IMAGE = [n for n in NETWORKS if n not in (ManyInputsAndOutputs, OneDimensional)]
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)


@functools.cache
def lowered(network):
    """The layer graph of the network of pixels 0..255."""
    apply_fn, variables, _ = build(network)
    example = np.zeros((1, 8, 8, 3), np.float32)
    return lower(lambda v, x: apply_fn(v, x / 64 - 2), variables, example)


def pure(variables, x):
    """No Flax: a function of arrays, with a bias that is used in two ways."""
    w, b, theta = variables["w"], variables["b"], variables["theta"]
    x = qcfs(x @ w + b, theta)
    return qcfs(x @ w + b, theta) @ w


def build_pure(seed=0):
    w, b, x = (
        jax.random.normal(key, shape)
        for key, shape in zip(
            jax.random.split(jax.random.key(seed), 3),
            [(6, 6), (6,), (4, 6)],
            strict=True,
        )
    )
    return pure, {"w": w, "b": 0.1 * b, "theta": jnp.array(2.0)}, x
