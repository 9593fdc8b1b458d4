"""Blocks of networks that people bring: gates, functions before a code, poolings."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from networks import act, image, norm, with_odd_variables

from bitsnn_jax import quantise
from bitsnn_jax.integers.lowering import lower


def pair(y, theta=1.0, off=0.3):
    """An ON and an OFF neuron: a code with a sign."""
    return act(theta_init=theta)(y) - act(theta_init=off)(-y)


def stem(x, features=6):
    return act()(norm()(nn.Conv(features, (3, 3), strides=2)(x)))


def head(x):
    return nn.Dense(3)(x.mean((1, 2)))


def excited(x, gate, between=nn.relu):
    """Squeeze and excite: a product with one number a channel."""
    y = x.mean((1, 2), keepdims=True)
    y = act()(between(nn.Conv(3, (1, 1))(y)))
    return x * act()(gate(nn.Conv(x.shape[-1], (1, 1))(y)))


class Gated(nn.Module):
    """A squeeze-excite gate behind ReLU."""

    @nn.compact
    def __call__(self, x):
        return head(excited(stem(x), nn.sigmoid))


class EfficientNetBlock(nn.Module):
    """Expansion, depthwise, gate, linear bottleneck, skip; SiLU as pairs."""

    @nn.compact
    def __call__(self, x):
        x = stem(x)
        y = pair(nn.silu(norm()(nn.Conv(8, (1, 1), use_bias=False)(x))))
        y = norm()(nn.Conv(8, (3, 3), feature_group_count=8, use_bias=False)(y))
        y = excited(pair(nn.silu(y)), nn.sigmoid, nn.silu)
        x = x + norm()(nn.Conv(6, (1, 1), use_bias=False)(y))
        return head(pair(nn.silu(nn.Conv(8, (1, 1))(x))))


class MobileNetV3Block(nn.Module):
    """The same with hard-swish and hard-sigmoid."""

    @nn.compact
    def __call__(self, x):
        x = stem(x)
        y = pair(nn.hard_swish(norm()(nn.Conv(8, (1, 1), use_bias=False)(x))))
        y = norm()(nn.Conv(8, (3, 3), feature_group_count=8, use_bias=False)(y))
        y = excited(act()(nn.hard_swish(y)), nn.hard_sigmoid)
        x = x + norm()(nn.Conv(6, (1, 1), use_bias=False)(y))
        return head(act()(nn.hard_swish(nn.Conv(8, (1, 1))(x))))


class ConvNeXtBlock(nn.Module):
    """A large depthwise kernel, batch norm, GELU as a pair, a scale, a skip."""

    @nn.compact
    def __call__(self, x):
        x = stem(x)
        y = norm()(nn.Conv(6, (7, 7), feature_group_count=6)(x))
        y = nn.Dense(6)(pair(nn.gelu(nn.Dense(12)(y), approximate=False), off=0.17))
        scale = self.param("scale", nn.initializers.constant(0.5), (6,))
        return head(act()(x + scale * y))


class GoogLeNetBlock(nn.Module):
    """Four branches side by side, one of them pooled; then all of them are."""

    @nn.compact
    def __call__(self, x):
        x = stem(x)
        y = act()(nn.Conv(2, (1, 1))(x))
        branches = [
            act()(nn.Conv(3, (1, 1))(x)),
            act(theta_init=0.7)(nn.Conv(4, (3, 3))(y)),
            act(per_channel=True)(nn.Conv(3, (3, 3))(y)),
            act()(nn.Conv(2, (1, 1))(nn.max_pool(x, (3, 3), padding="SAME"))),
        ]
        x = jnp.concatenate(branches, axis=-1)
        x = nn.max_pool(x, (3, 3), (2, 2), padding="SAME")
        return head(act()(nn.Conv(5, (1, 1))(x)))


class PrePooling(nn.Module):
    """Pooling in front of a ReLU, over currents; `quantise` puts the codes."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.max_pool(norm()(nn.Conv(6, (3, 3))(x)), (2, 2), (2, 2)))
        x = nn.max_pool(nn.Conv(5, (3, 3))(x), (3, 3), (2, 2), padding="SAME")
        return head(nn.relu(x))


BLOCKS = (
    Gated,
    EfficientNetBlock,
    MobileNetV3Block,
    ConvNeXtBlock,
    GoogLeNetBlock,
    PrePooling,
)


def build_block(block, seed=0):
    """(apply_fn, variables, x) with every parameter and statistic off its default."""
    model, key = block(), jax.random.key(seed)
    x = image(key)
    variables = with_odd_variables(jax.jit(model.init)(key, x), seed + 1)
    if block is PrePooling:
        quantised = quantise(model.apply, variables, [x])
        return quantised.apply_fn, quantised.variables, x
    return model.apply, variables, x


@functools.cache
def lowered_block(block):
    """The layer graph of the block, of pixels 0..255."""
    apply_fn, variables, _ = build_block(block)
    example = np.zeros((1, 8, 8, 3), np.float32)
    return lower(lambda v, x: apply_fn(v, x / 64 - 2), variables, example)
