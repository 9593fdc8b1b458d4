"""Neurons with a table of thresholds: T comparisons give the code of qcfs(f(u))."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitsnn_jax import codes
from bitsnn_jax.numerics.tables import (
    Thresholds,
    fire_table,
    known_turning_point,
    threshold_table,
    turning_point,
)

THETA, LEVELS, STEPS = 1.5, 15, 4
FUNCTIONS = {
    "silu": jax.nn.silu,
    "gelu": jax.nn.gelu,
    "hard_swish": jax.nn.hard_swish,
    "tanh": jnp.tanh,
    "leaky": lambda z: jnp.where(z > 0, z, 0.1 * z),
    "clip": lambda z: jnp.clip(z, 0, 1),
    "falling": lambda z: jax.nn.sigmoid(-z),
    "lobe of silu": lambda z: -4 * jax.nn.silu(z),
    "negative side of tanh": lambda z: -jnp.tanh(z),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_comparisons_find_the_code_of_every_membrane_and_at_the_thresholds(name):
    fn, is_tanh = FUNCTIONS[name], "tanh" in name

    def code(z):
        return codes(fn(z), THETA, levels=LEVELS)

    @jax.jit
    def all_of_it(grid):
        shape = known_turning_point(fn, dtype=grid.dtype)
        table = threshold_table(code, shape, levels=LEVELS, dtype=grid.dtype)
        edges = jnp.concatenate(table)
        edges = jnp.where(jnp.isfinite(edges), edges, 0)
        below, above = jnp.nextafter(edges, -jnp.inf), jnp.nextafter(edges, jnp.inf)
        if is_tanh:  # whose last bit depends on the program that computes it
            below, edges, above = edges - 1e-12, edges + 1e-12, edges + 2e-12
        membranes = jnp.concatenate([grid, below, edges, above])
        fired = fire_table(membranes, table, steps=STEPS, dtype=jnp.uint8)
        return fired, code(membranes)

    with jax.enable_x64(True):
        fired, wanted = all_of_it(jnp.linspace(-9, 9, 20_001))
    np.testing.assert_array_equal(fired, wanted)
    assert len(np.unique(fired)) > 5


def test_thresholds_differ_from_neuron_to_neuron_as_the_function_does():
    slopes = jnp.array([[0.05, -0.3, 1.0]])

    def fn(z):
        return -jnp.where(z > 0, z, slopes * z)

    def code(z):
        return codes(fn(z), THETA, levels=LEVELS)

    z = jnp.linspace(-40, 40, 900).reshape(300, 3)
    sizes = (1, 3)

    @jax.jit
    def fired(z):
        shape = turning_point(fn, sizes=sizes, dtype=z.dtype)
        table = threshold_table(code, shape, levels=LEVELS, sizes=sizes, dtype=z.dtype)
        assert table.rise.shape == (LEVELS, *sizes)
        return fire_table(z, table, steps=STEPS, dtype=jnp.uint8, unroll=False)

    np.testing.assert_array_equal(fired(z), code(z))


def test_equal_steps_are_those_of_eq_10():
    def code(z):
        return codes(z, 15.0, levels=15)

    shape = known_turning_point(lambda z: z, dtype="float32")
    table = threshold_table(code, shape, levels=15, dtype="float32")
    # Up to the rounding of z + 1/2, which is 1 just below one half.
    np.testing.assert_allclose(table.rise, np.arange(1, 16) - 0.5, rtol=1e-7)
    assert np.isposinf(table.fall).all()


@pytest.mark.parametrize("sizes", [(), (1, 3), (2, 3)])
@pytest.mark.parametrize("steps", [1, 4, 6])  # by halves up to 4, beyond by look-ups
def test_a_code_is_how_many_thresholds_hold(steps, sizes):
    rng = np.random.default_rng(steps)
    rise = np.sort(rng.integers(-9, 9, (2**steps - 1, *sizes)), axis=0)
    fall = rise[-1] + np.sort(rng.integers(-5, 9, rise.shape), axis=0)[::-1]
    table = Thresholds(jnp.asarray(rise, "f4"), jnp.asarray(fall, "f4"))
    membrane = rng.integers(-12, 20, (50, 2, 3)).astype("f4")
    pairs = zip(rise, fall, strict=True)
    wanted = sum(
        ((low <= membrane) & (membrane < high)).astype(int) for low, high in pairs
    )
    for unroll in (True, False):
        fired = fire_table(
            jnp.asarray(membrane), table, steps=steps, dtype=jnp.uint8, unroll=unroll
        )
        np.testing.assert_array_equal(fired, wanted)
    assert 0 < wanted.max()
