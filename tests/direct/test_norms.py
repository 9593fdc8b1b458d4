"""Norms over time and batch, value and gradient, against their equations in float64."""

from functools import partial

import flax.linen as nn
import jax
import numpy as np
import pytest

from bitsnn_jax.direct.norms import (
    over_time_and_batch,
    temporal_effective,
    threshold_dependent,
)

STEPS, N, PLACES, CHANNELS, EPSILON = 3, 2, 4, 2, 1e-5
NORM = partial(nn.BatchNorm, momentum=0.9, epsilon=EPSILON)
KINDS = {
    "batch": over_time_and_batch,
    "tdBN": partial(threshold_dependent, theta=0.5),
    "TEBN": temporal_effective,
}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def by_hand(x, gamma, beta, p, g):
    """y_t = p_t (gamma (x - mean) / sigma + beta), and its gradients; x is [T, .., C].

    With r = (x - mean) / sigma, and means over all but the channels:
    dx = gamma / sigma (p g - mean(p g) - r mean(p g r))
    """
    over = tuple(range(x.ndim - 1))
    mean, var = x.mean(over), x.var(over)
    sigma = np.sqrt(var + EPSILON)
    r = (x - mean) / sigma
    by_step = p.reshape(-1, *[1] * (x.ndim - 1))
    plain = gamma * r + beta
    pg = by_step * g
    dx = gamma / sigma * (pg - pg.mean(over) - r * (pg * r).mean(over))
    dp = (g * plain).sum(tuple(range(1, x.ndim)))
    return by_step * plain, (mean, var), dx, (pg * r).sum(over), pg.sum(over), dp


@pytest.mark.parametrize("name", KINDS)
def test_a_norm_has_statistics_over_time_and_batch_and_their_gradient(name):
    rng = np.random.default_rng(0)
    shape = (STEPS, N, PLACES, CHANNELS)
    # Steps of another mean and width each, so that they matter.
    x = rng.normal(size=shape) * np.array([1, 2, 0.5]).reshape(3, 1, 1, 1)
    x += np.array([0, 3, -1]).reshape(3, 1, 1, 1)
    g, rows = rng.normal(size=shape), (STEPS * N, PLACES, CHANNELS)
    gamma, beta = rng.normal(size=(2, CHANNELS))
    p = rng.normal(size=STEPS) if name == "TEBN" else np.ones(STEPS)
    params = {"scale": gamma, "bias": beta}
    stats = {"mean": np.zeros(CHANNELS), "var": np.zeros(CHANNELS)}
    if name == "TEBN":
        params, stats = {"norm": params, "steps": p}, {"norm": stats}
    norm = KINDS[name](NORM, STEPS)(use_running_average=False)

    @jax.jit
    def ours(params, x, g):
        def normed(params, x):
            variables = {"params": params, "batch_stats": stats}
            return norm.apply(variables, x, mutable=["batch_stats"])

        y, backward, updates = jax.vjp(normed, params, x, has_aux=True)
        return y, updates["batch_stats"], backward(g)

    y, updates, (dparams, dx) = ours(params, x.reshape(rows), g.reshape(rows))
    if name == "TEBN":
        dp, dparams, updates = dparams["steps"], dparams["norm"], updates["norm"]
    else:
        dp = (g * y.reshape(shape)).sum((1, 2, 3))  # that of a p that is 1
    found = (y.reshape(shape), (updates["mean"], updates["var"]), dx.reshape(shape))
    found += (dparams["scale"], dparams["bias"], dp)
    want = by_hand(x, gamma, beta, p, g)
    mean, var = want[1]
    want = (want[0], (0.1 * mean, 0.1 * var), *want[2:])
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12), found, want
    )


@pytest.mark.parametrize(("name", "scale"), [("batch", 1), ("tdBN", 0.5), ("TEBN", 1)])
def test_a_norm_starts_at_the_scale_of_its_equation(name, scale):
    norm = KINDS[name](NORM, STEPS)(use_running_average=True)
    params = norm.init(jax.random.key(0), np.ones((STEPS, CHANNELS)))["params"]
    if name == "TEBN":
        assert params["steps"].tolist() == [1] * STEPS
        params = params["norm"]
    np.testing.assert_array_equal(params["scale"], scale)


def test_outside_training_a_norm_is_the_same_at_every_step_but_for_its_weight():
    norm = temporal_effective(NORM, STEPS)(use_running_average=True)
    x = np.random.default_rng(1).normal(size=(N, CHANNELS))
    rows = np.tile(x, (STEPS, 1))
    variables = norm.init(jax.random.key(0), rows)
    params = variables["params"] | {"steps": np.array([1.0, -2.0, 0.5])}
    y = norm.apply({**variables, "params": params}, rows).reshape(STEPS, N, CHANNELS)
    np.testing.assert_allclose(y[1], -2 * y[0])
    np.testing.assert_allclose(y[2], 0.5 * y[0])
