"""What `convert` takes: the same in integers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from bitsnn_jax import qcfs
from bitsnn_jax.integers.execution import one_shot, stepped
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.integers.graph import evaluate
from bitsnn_jax.integers.lowering import lower

RNG = np.random.default_rng(0)
HEADS = RNG.normal(size=(2, 6, 3)) / 2
FILTER = RNG.normal(size=(3, 3, 3, 4)) / 3
PLACES = np.array([1, 1, 3])
CHANNELS_LAST = ("NHWC", "HWIO", "NHWC")


def pooled(x, combine, start, base=1):
    around = ((0, 0), (1, 0), (0, 1), (0, 0))
    return lax.reduce_window(
        *(x, start, combine, (1, 2, 2, 1), (1, 1, 1, 1), around),
        base_dilation=(1, base, 1, 1),
        window_dilation=(1, 2, 2, 1),
    )


# What stands between two layers of neurons, the first of 4 x 4 x 3.
BETWEEN = {
    "cumulative sum": lambda a: jnp.cumsum(a, 1),
    "cumulative sum, backwards": lambda a: lax.cumsum(a, 2, reverse=True),
    "weights with a batch axis": lambda a: jnp.einsum(
        "nhi,hio->nho", a.reshape(1, 8, 6)[:, :2], HEADS
    ),
    "sum over windows with dilations": lambda a: pooled(a, lax.add, 0.0, base=2),
    "maximum over windows with dilations": lambda a: pooled(a, lax.max, -jnp.inf),
    "scatter-add": lambda a: a.at[:, PLACES].add(2 * a[:, :3]),
    "scatter-sub": lambda a: a.at[:, PLACES].subtract(a[:, 1:]),
    "negative padding": lambda a: lax.pad(
        a, 0.0, [(0, 0, 0), (-1, 1, 0), (0, -1, 1), (0, 0, 0)]
    ),
    "convolution with negative padding": lambda a: lax.conv_general_dilated(
        a, FILTER, (1, 1), ((-1, 1), (0, -1)), dimension_numbers=CHANNELS_LAST
    ),
    "resize": lambda a: jax.image.resize(a, (1, 6, 6, 3), "linear"),
    "concatenation": lambda a: jnp.concatenate([a, 2 * a, 0.5 - a], -1),
    "product of two layers": lambda a: a * qcfs(1 - a, 0.7),
    "product of matrices": lambda a: jnp.einsum(
        "nhwc,nhvc->nwvh", a, qcfs(a - 0.1, 0.9)
    ),
    "function before a code": lambda a: jax.nn.silu(a - 0.5),
}


@pytest.mark.slow
def test_what_converts_also_lowers():
    def net(_, x):
        a = qcfs(x / 255, 1.0)
        parts = [qcfs(between(a), 1.93) for between in BETWEEN.values()]
        return jnp.concatenate([part.reshape(1, -1) for part in parts], -1)

    x = RNG.integers(0, 256, (2, 4, 4, 3))
    with jax.enable_x64(True):
        graph = lower(net, {}, np.zeros((1, 4, 4, 3)))
        wanted = [np.asarray(net({}, jnp.asarray(one[None], float))) for one in x]
        got = evaluate(graph, jnp.asarray(x, float))[0]["output"][:, 0]
    # No sum is half way between two codes, so that all of them agree.
    np.testing.assert_allclose(got, np.concatenate(wanted), atol=1e-12)
    network = fixed_point(graph, steps=4)
    once, spikes = (jax.jit(make(network))(x) for make in (one_shot, stepped))
    jax.tree.map(np.testing.assert_array_equal, once, spikes)
