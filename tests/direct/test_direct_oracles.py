"""Neurons, surrogates, norms and a loss against those of SpikingJelly, in float64.

Value and gradient. Skipped where it is not installed; `pip install
'bitsnn-jax[oracles]'` installs it. What differs by convention is said where it does.
"""

import itertools
from functools import partial
from importlib import import_module

import flax.linen as nn
import jax
import numpy as np
import pytest

from bitsnn_jax.direct import METHODS, Seen, tet
from bitsnn_jax.direct.neurons import (
    IntegrateAndFire,
    decay,
    integrate,
    leak,
    parametric_leak,
)
from bitsnn_jax.direct.norms import (
    over_time_and_batch,
    temporal_effective,
    threshold_dependent,
)
from bitsnn_jax.direct.surrogates import SURROGATES

pytest.importorskip("spikingjelly", reason="needs bitsnn-jax[oracles]")
# Imported by name: if SpikingJelly is there, whatever else is missing is an error.
torch = import_module("torch")
nodes, theirs, layers, functional = (
    import_module(f"spikingjelly.activation_based.{name}")
    for name in ("neuron", "surrogate", "layer", "functional")
)

SHAPE, THETA = (5, 200), 0.8
# Name -> (ours, theirs with its options). Their tau is of a LIF neuron that keeps
# 1 - 1 / tau, and takes the current as it is with decay_input=False.
NEURONS = {
    "IF": (integrate, nodes.IFNode, {}),
    "LIF, decay": (decay(0.25), nodes.LIFNode, {"tau": 4 / 3, "decay_input": False}),
    "LIF, tau": (leak(3.0), nodes.LIFNode, {"tau": 3.0, "decay_input": True}),
    "PLIF": (parametric_leak, nodes.ParametricLIFNode, {"init_tau": 1 + np.exp(-0.4)}),
}
LEAK = 0.4  # w of the PLIF neuron, whose tau is 1 + exp(-w)
# Name of ours -> theirs. That of IM-Loss at k is a sigmoid of 2 k.
SURROGATES_THERE = {
    "triangle": partial(theirs.PiecewiseQuadratic, 1.0),
    "arctan": partial(theirs.ATan, 2.0),
    "sigmoid": partial(theirs.Sigmoid, 4.0),
    "rectangle": partial(theirs.Rect, 1.0),
    "evolving": partial(theirs.Sigmoid, 2.0),
}
NORMS = {
    "batch": (over_time_and_batch, layers.BatchNorm2d, {"step_mode": "m"}),
    "tdBN": (
        partial(threshold_dependent, theta=0.5),
        layers.ThresholdDependentBatchNorm2d,
        {"alpha": 1.0, "v_th": 0.5},
    ),
    "TEBN": (temporal_effective, layers.TemporalEffectiveBatchNorm2d, {"T": SHAPE[0]}),
}
# Float64 on both sides; sums over 5 steps, or over 60 numbers a channel.
CLOSE = {"rtol": 1e-10, "atol": 1e-12}
pytestmark = pytest.mark.usefixtures("float64")


def fired(neuron, x, g, w):
    """Spikes, and gradients to x and w, of ours."""
    spikes, backward = jax.vjp(lambda x, w: neuron(x, {"w": w}).spikes, x, w)
    return spikes, *backward(g)


def fired_there(node, x, g):
    currents = torch.tensor(x, requires_grad=True)
    spikes = node(currents)
    spikes.backward(torch.tensor(g))
    (w,) = [p.grad.numpy() for p in node.parameters()] or [np.zeros(())]
    return spikes.detach().numpy(), currents.grad.numpy(), w


def drawn(*, offset=0.4):
    x, g = np.random.default_rng(0).normal(size=(2, *SHAPE))
    return x + offset, g


KINDS = list(itertools.product(NEURONS, (0.0, None), (False, True)))


@pytest.mark.parametrize(("name", "rest", "detached"), KINDS)
def test_a_neuron_is_that_of_spikingjelly(name, rest, detached):
    """Without a reset voltage, theirs resets softly."""
    charge, node, options = NEURONS[name]
    ours = IntegrateAndFire(
        charge,
        SURROGATES["arctan"],
        reset="soft" if rest is None else "hard",
        detached=detached,
        theta=THETA,
    )
    there = node(
        **options,
        v_threshold=THETA,
        v_reset=rest,
        surrogate_function=theirs.ATan(2.0),
        detach_reset=detached,
        step_mode="m",
    )
    x, g = drawn()
    found, want = fired(ours, x, g, LEAK), fired_there(there, x, g)
    for value, expected in zip(found, want, strict=True):
        np.testing.assert_allclose(value, expected, **CLOSE)
    assert 0.05 < want[0].mean() < 0.8
    assert np.any(want[2]) == (name == "PLIF")


@pytest.mark.parametrize("name", SURROGATES_THERE)
def test_a_surrogate_is_that_of_spikingjelly(name):
    neuron = IntegrateAndFire(leak(2.0), SURROGATES[name])
    spike = SURROGATES_THERE[name]()
    node = nodes.LIFNode(2.0, surrogate_function=spike, step_mode="m")
    x, g = drawn(offset=1.5)
    found, want = fired(neuron, x, g, 0.0), fired_there(node, x, g)
    for value, expected in zip(found[:2], want[:2], strict=True):
        np.testing.assert_allclose(value, expected, **CLOSE)
    # At the threshold, where both fire.
    z = torch.zeros(1, requires_grad=True)
    spike(z).backward()
    assert spike(z).item() == SURROGATES[name](np.zeros(1)).item() == 1
    np.testing.assert_allclose(jax.grad(SURROGATES[name])(np.zeros(())), z.grad.item())


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_is_that_of_spikingjelly(name):
    kind, made, options = NORMS[name]
    steps, n, size, channels = SHAPE[0], 3, 2, 4
    rng = np.random.default_rng(1)
    x = rng.normal(size=(steps, n, size, size, channels))
    x *= rng.uniform(0.5, 2, size=(steps, 1, 1, 1, channels))
    g = rng.normal(size=x.shape)
    there = made(num_features=channels, eps=1e-5, momentum=0.1, **options)
    plain = partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5)
    norm = kind(plain, steps)(use_running_average=False)
    rows = x.reshape(-1, *x.shape[2:])
    variables = norm.init(jax.random.key(0), rows)
    # Both start at the same scale; from there on, any.
    scale = variables["params"].get("norm", variables["params"])["scale"]
    np.testing.assert_allclose(there.weight.detach().numpy(), scale)
    params = jax.tree.map(lambda p: rng.normal(size=p.shape), variables["params"])
    before = jax.tree.map(np.float64, variables["batch_stats"])

    def normed(params, rows):
        variables = {"params": params, "batch_stats": before}
        return norm.apply(variables, rows, mutable=["batch_stats"])

    y, backward, updates = jax.vjp(normed, params, rows, has_aux=True)
    dparams, dx = backward(g.reshape(rows.shape))
    dinner = dparams.get("norm", dparams)
    stats = updates["batch_stats"].get("norm", updates["batch_stats"])
    found = [y.reshape(x.shape), dx.reshape(x.shape), dinner["scale"], dinner["bias"]]
    # Theirs keeps the variance of a sample, which is larger by 1 / (count - 1).
    count = rows.size // channels
    sample = 0.9 + (stats["var"] - 0.9) * count / (count - 1)
    found += [stats["mean"], sample]
    found += [dparams["steps"]] if name == "TEBN" else []
    for value, expected in zip(found, normed_there(there, params, x, g), strict=True):
        np.testing.assert_allclose(value, expected, **CLOSE)


def normed_there(there, params, x, g):
    """Value, gradients and running statistics; channels are last, as in ours."""

    def moved(x):
        return torch.tensor(x.transpose(0, 1, 4, 2, 3))

    def back(x):
        return x.detach().numpy().transpose(0, 1, 3, 4, 2)

    inner = params.get("norm", params)
    with torch.no_grad():
        there.weight.copy_(torch.tensor(inner["scale"]))
        there.bias.copy_(torch.tensor(inner["bias"]))
        if "steps" in params:
            there.scale.copy_(torch.tensor(params["steps"]))
    inputs = moved(x).requires_grad_()
    outputs = there(inputs)
    outputs.backward(moved(g))
    found = [back(outputs), back(inputs.grad), there.weight.grad, there.bias.grad]
    found += [there.running_mean, there.running_var]
    return [*found, there.scale.grad] if "steps" in params else found


@pytest.mark.parametrize("name", ["dsr", "dsr_lif"])
def test_a_neuron_of_rates_is_that_of_spikingjelly(name):
    """Theirs rounds spikes and what comes back to float32: the threshold is exact."""
    ours, theta = METHODS[name].neuron(1.0), 0.75
    given = {"T": SHAPE[0], "v_threshold": theta, "alpha": ours.alpha}
    if ours.tau is None:
        there = nodes.DSRIFNode(**given)
    else:
        there = nodes.DSRLIFNode(**given, tau=ours.tau, delta_t=ours.dt)
    rng = np.random.default_rng(2)
    # Neurons of each kind: silent, between, and at their largest rate.
    x = ours.height * rng.uniform(-0.3, 1.2, SHAPE) * rng.uniform(0, 2, SHAPE[1])
    g = rng.normal(size=SHAPE)

    def values(x, theta):
        return ours(x, {"theta": theta}).values

    sent, backward = jax.vjp(values, x, np.float64(theta))
    found, want = (sent, *backward(g)), fired_there(there, x, g)
    for value, expected in zip(found, want, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
    assert 0.1 < (sent > 0).mean() < 0.9


def test_the_loss_of_tet_is_that_of_spikingjelly():
    """Theirs has no part that keeps outputs near the threshold."""
    rng = np.random.default_rng(3)
    outputs, labels = rng.normal(size=(4, 8, 3)), rng.integers(3, size=8)

    def cross_entropy(logits):
        return -jax.nn.log_softmax(logits)[np.arange(8), labels]

    def ours(outputs):
        return tet.loss(Seen(outputs, {}, {}, 0.0), cross_entropy).mean()

    value, gradient = jax.value_and_grad(ours)(outputs)
    logits = torch.tensor(outputs, requires_grad=True)
    there = functional.temporal_efficient_training_cross_entropy
    loss = there(logits, torch.tensor(labels))
    loss = (1 - tet.WEIGHT) * loss + tet.WEIGHT * ((logits - tet.GOAL) ** 2).mean()
    loss.backward()
    np.testing.assert_allclose(value, loss.item(), **CLOSE)
    np.testing.assert_allclose(gradient, logits.grad.numpy(), **CLOSE)
