"""Multiply-accumulates, and those that spikes drive."""

import jax.numpy as jnp
from jax import lax

from bitsnn_jax import qcfs
from bitsnn_jax.tracing.multiplications import multiplications


def test_each_weight_counts_once_for_each_place_that_it_is_used_at():
    def net(v, x):
        z = lax.conv_general_dilated(x, v["first"], (1, 1), "VALID")
        a = qcfs(z, 1.0)
        z = lax.conv_general_dilated(
            a, v["second"], (2, 2), [(1, 1), (1, 1)], feature_group_count=2
        )
        a = qcfs(z.mean((2, 3)), 1.0)
        return a @ v["third"]

    weights = {
        "first": jnp.ones((4, 3, 3, 3)),
        "second": jnp.ones((6, 2, 3, 3)),
        "third": jnp.ones((6, 5)),
    }
    first, second, third = 6 * 6 * 4 * 27, 3 * 3 * 6 * 18, 30
    found = multiplications(net, weights, jnp.ones((1, 3, 8, 8)))
    assert found == (second + third, first + second + third)
    assert found.share == found.driven / found.total


def test_numbers_that_were_decoded_drive_nothing_and_held_ones_are_driven():
    def net(w, x):
        a, b = qcfs(x @ w, 1.0), qcfs(x @ w, 1.0)
        scores = a @ b.T  # spikes gate what is held
        return jnp.tanh(qcfs(scores, 1.0) @ scores) @ w

    found = multiplications(net, jnp.eye(3), jnp.ones((3, 3)))
    assert found == (27 * 2, 27 * 5)
