"""A residual block and attention between spikes, against those of SpikingJelly.

In float64. Skipped where it is not installed; `pip install 'bitsnn-jax[oracles]'`
installs it.
"""

import itertools
from functools import partial
from importlib import import_module

import flax.linen as nn
import jax
import numpy as np
import pytest

from bitsnn_jax.direct import METHODS, Spiking
from bitsnn_jax.models.sew import SEWBlock
from bitsnn_jax.models.spiking_attention import SpikingAttention

pytest.importorskip("spikingjelly", reason="needs bitsnn-jax[oracles]")
# Imported by name: if SpikingJelly is there, whatever else is missing is an error.
torch = import_module("torch")
base = "spikingjelly.activation_based"
functional, nodes, surrogate, attention, sew = (
    import_module(f"{base}.{name}")
    for name in (
        "functional",
        "neuron",
        "surrogate",
        "layer.attention",
        "model.sew_resnet",
    )
)

STEPS, BATCH, SIDE, CHANNELS = 3, 2, 4, 8
# Float64 on both sides; sums of at most 72 numbers.
CLOSE = {"rtol": 1e-9, "atol": 1e-11}
pytestmark = pytest.mark.usefixtures("float64")
norm = partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5)


def act(method):
    return partial(Spiking, METHODS[method].neuron(0.0), STEPS)


def spikes():
    """Random ones, [T, n, c, h, w] for PyTorch, and [T n, h, w, c]."""
    shape = (STEPS, BATCH, CHANNELS, SIDE, SIDE)
    x = np.random.default_rng(0).integers(0, 2, shape).astype(np.float64)
    return x, np.moveaxis(x, 2, -1).reshape(-1, SIDE, SIDE, CHANNELS)


def random_params(module):
    """Draw PyTorch's own weights, none of them special."""
    rng = np.random.default_rng(1)
    with torch.no_grad():
        for p in module.parameters():
            scale = 1 if p.ndim == 1 else 2 / np.sqrt(p[0].numel())
            p.copy_(
                torch.tensor(1.0 * (p.ndim == 1) + scale * rng.normal(size=p.shape) / 2)
            )


def conv_norm(conv, norm):
    """Their convolution and norm as the parameters of a `ConvNorm`."""
    kernel = conv.weight.detach().numpy()
    kernel = kernel.reshape(*kernel.shape, *(1,) * (4 - kernel.ndim))
    scale, bias = (p.detach().numpy() for p in (norm.weight, norm.bias))
    return {
        "conv": {"kernel": kernel.transpose(2, 3, 1, 0)},
        "norm": {"scale": scale, "bias": bias},
    }


def ours(module, params, rows):
    """Outputs in training, and what turns their gradients into those of `rows`."""

    def of(rows):
        variables = {"params": params, "batch_stats": {}}
        return module.apply(
            variables, rows, train=True, mutable=["batch_stats", "activations"]
        )[0]

    return jax.vjp(of, rows)


@pytest.mark.parametrize(
    ("connect", "strides"), list(itertools.product(("add", "and", "iand"), (1, 2)))
)
def test_a_block_of_spikes_is_that_of_spikingjelly(connect, strides):
    shortcut = None
    if strides > 1:
        shortcut = torch.nn.Sequential(
            sew.conv1x1(CHANNELS, CHANNELS, strides), sew.layer.BatchNorm2d(CHANNELS)
        )
    there = sew.BasicBlock(
        CHANNELS,
        CHANNELS,
        strides,
        shortcut,
        cnf=connect.upper(),
        spiking_neuron=nodes.IFNode,
        surrogate_function=surrogate.ATan(2.0),
        detach_reset=True,
    )
    random_params(there)
    functional.set_step_mode(there, "m")
    x, rows = spikes()
    currents = torch.tensor(x, requires_grad=True)
    want = there(currents)
    g = np.random.default_rng(2).normal(size=want.shape)
    want.backward(torch.tensor(g))

    params = {
        "conv_1": conv_norm(there.conv1, there.bn1),
        "conv_2": conv_norm(there.conv2, there.bn2),
    }
    if shortcut is not None:
        params["shortcut"] = conv_norm(*shortcut)
    block = SEWBlock(CHANNELS, strides, act("sew_add"), norm, connect=connect)
    found, backward = ours(block, params, rows)
    np.testing.assert_array_equal(
        found, np.moveaxis(want.detach().numpy(), 2, -1).reshape(found.shape)
    )
    assert 0.05 < found.mean() < 1.5
    (gradient,) = backward(np.moveaxis(g, 2, -1).reshape(found.shape))
    expected = np.moveaxis(currents.grad.numpy(), 2, -1).reshape(rows.shape)
    np.testing.assert_allclose(gradient, expected, **CLOSE)


def test_attention_between_spikes_is_that_of_spikingjelly():
    """A doubled current stands for their threshold of one half."""
    there = attention.SpikingSelfAttention(CHANNELS, num_heads=2)
    random_params(there)
    x, rows = spikes()
    want = there(torch.tensor(x.reshape(STEPS, BATCH, CHANNELS, -1)))
    want = np.moveaxis(want.detach().numpy(), 2, -1).reshape(rows.shape)

    (conv, bn), project = there.qkv_conv_bn, there.proj_conv_bn
    qkv = conv_norm(conv, bn)

    def part(i):
        mine = slice(i * CHANNELS, (i + 1) * CHANNELS)
        return jax.tree.map(lambda p: p[..., mine], qkv)

    params = {name: part(i) for i, name in enumerate(("query", "key", "value"))}
    params["project"] = conv_norm(*project)
    layer = SpikingAttention(2, act("spikformer"), norm)

    class Fires(nn.Module):
        """Attention, and the neurons behind it, which theirs has inside."""

        @nn.compact
        def __call__(self, x, *, train):
            y = layer.clone(name="attention", parent=self)(x, train=train)
            return act("spikformer")(name="act")(y)

    found, _ = ours(Fires(), {"attention": params}, rows)
    np.testing.assert_array_equal(found, want)
    assert 0.02 < found.mean() < 0.9
