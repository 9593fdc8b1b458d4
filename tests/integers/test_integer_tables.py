"""Tables of thresholds: the codes of a function, for every integer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitsnn_jax.integers.fixed_point import FixedPointError, fixed_point
from bitsnn_jax.integers.graph import Dense, Graph, Node, Term
from bitsnn_jax.integers.network import IntegerNode
from bitsnn_jax.integers.tables import (
    ALWAYS,
    NEVER,
    TableError,
    differentiable_codes,
    fired_codes,
    one_shot_codes,
    sides,
    table,
)
from bitsnn_jax.numerics.qcfs import codes

SLOPES = np.array([0.1, 0.25, 0.5])
# A function, its largest code, and the comparisons that a step needs.
FUNCTIONS = {
    "silu": (jax.nn.silu, 3.0, 1),
    "negative lobe of silu": (lambda z: -jax.nn.silu(z), 0.27, 2),
    "negative part of tanh": (lambda z: -jnp.tanh(z), 1.0, 1),
    "negative lobe of hard-swish": (lambda z: -jax.nn.hard_swish(z), 0.4, 2),
    "sigmoid": (jax.nn.sigmoid, 1.0, 1),
    "slopes of channels": (lambda z: -jnp.where(z > 0, z, z * SLOPES), 1.0, 1),
    "steps": (lambda z: jnp.where(z > 0.3, z, 0.0), 2.0, 1),
    "a constant": (lambda z: 0 * z + 0.5, 1.0, 1),
}


def made(fn, theta, unit):
    rise, fall = table(fn, np.full((1, 1), theta), unit, steps=4, reach=30_000)
    return IntegerNode("a", "neurons", (1, 3), rise=rise, fall=fall)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_table_has_the_code_of_every_integer(name):
    """Of those between -6,000 and 6,000, and of the thresholds themselves."""
    fn, theta, comparisons = FUNCTIONS[name]
    unit = theta / 15 / np.array([[60.0, 100.0, 301.0]])
    node = made(fn, theta, unit)
    assert sides(node) == comparisons
    assert len(node.rise) == 15 and node.half == 0
    ends = np.unique(np.stack([node.rise, node.fall]))
    ends = ends[(ends != ALWAYS) & (ends != NEVER)][:, None]
    u = np.concatenate([np.arange(-6000, 6001)[:, None], ends, ends - 1])

    @jax.jit
    def both(u):
        wanted = codes(fn(u * unit), np.full((1, 1), theta), levels=15)
        u = u.astype(jnp.int32)
        spikes = jax.vmap(lambda u: fired_codes(node, u, steps=4, unroll=False)[0])
        return wanted, jax.vmap(lambda u: one_shot_codes(node, u)[0])(u), spikes(u)

    with jax.enable_x64(True):
        wanted, counted, fired = both(jnp.broadcast_to(u, (len(u), 3)).astype(float))
    np.testing.assert_array_equal(counted, wanted)
    np.testing.assert_array_equal(fired, wanted)


def test_the_gradient_is_the_slope_between_two_thresholds():
    unit = np.full((1, 3), 0.01)
    node = made(lambda z: -jax.nn.silu(z), 0.27, unit)
    u = jnp.asarray([[-60.0, -200.0, 900.0]])  # falling, rising and beyond
    slopes = jax.grad(lambda u: differentiable_codes(node, u).sum())(u)[0] / 0.01
    exact = jax.vmap(jax.grad(lambda z: -jax.nn.silu(z) * 15 / 0.27))(0.01 * u[0])
    # From one threshold to the next the slope of the lobe changes by as much.
    np.testing.assert_allclose(slopes[:2], exact[:2], rtol=0.3)
    assert slopes[2] == 0 and exact[0] < 0 < exact[1]
    np.testing.assert_array_equal(
        differentiable_codes(node, u), one_shot_codes(node, u)
    )


def test_a_function_that_rises_again_is_an_error_of_its_layer():
    with pytest.raises(TableError, match="rises, falls and rises again"):
        made(jnp.sin, 1.0, np.full((1, 3), 0.01))
    kernel = Dense(np.ones((2, 3)))
    neurons = Node("wave", "neurons", (1, 3), (Term("input", (), kernel, ()),))
    neurons = neurons._replace(theta=np.ones((1, 1)), levels=15, fn=jnp.sin)
    graph = Graph((Node("input", "input", (1, 2)), neurons))
    with pytest.raises(FixedPointError, match="^wave: the function in front of"):
        fixed_point(graph, steps=4)


def test_a_table_that_is_too_large_is_an_error():
    with pytest.raises(TableError, match="1,048,575 x 9 entries"):
        table(
            lambda z: z + np.arange(9.0), np.ones((1, 1)), np.ones((1, 1)),
            steps=20, reach=100,
        )  # fmt: skip
