"""Laws of softmax, LayerNorm without weights and lookup, as primitives of JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitsnn_jax.numerics.mixing import FORWARD, lookup, normalise, softmax

Z = jax.random.normal(jax.random.key(0), (2, 3, 4))
TABLE, IDS = Z[0], jnp.array([[2, 0, 2], [-5, 1, 9]])
CASES = {
    "softmax": (softmax, Z),
    "normalise": (lambda z: normalise(z, epsilon=1e-3), Z),
    "lookup": (lambda table: lookup(table, IDS), TABLE),
}
any_case = pytest.mark.parametrize("name", CASES)


def plain(fn, x):
    """Make the function of the operations that its primitive stands for."""
    [eqn] = jax.make_jaxpr(fn)(x).eqns
    given = [IDS] if eqn.primitive.name == "lookup" else []
    return lambda x: FORWARD[eqn.primitive](x, *given, **eqn.params)


@any_case
def test_each_is_one_equation_with_the_values_and_gradients_of_its_operations(name):
    fn, x = CASES[name]
    same = plain(fn, x)

    def all_of_them(fn):
        def results(x):
            y, pull = jax.vjp(fn, x)
            return y, pull(jnp.cos(y)), jax.jvp(fn, (x,), (jnp.sin(x),))

        return jax.tree.leaves(jax.jit(results)(x))

    for a, b in zip(all_of_them(fn), all_of_them(same), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["softmax", "normalise"])
def test_rows_are_mapped_over_any_other_axis_by_the_same_primitive(name):
    fn, _ = CASES[name]
    mapped = jax.vmap(fn, 1)
    assert name in [e.primitive.name for e in jax.make_jaxpr(mapped)(Z).eqns]
    np.testing.assert_allclose(mapped(Z), fn(Z).swapaxes(0, 1), rtol=1e-6)


def test_lookups_are_mapped_over_ids_and_over_tables():
    over_ids = jax.vmap(lookup, (None, 1))(TABLE, IDS)
    np.testing.assert_array_equal(over_ids, lookup(TABLE, IDS).swapaxes(0, 1))
    over_tables = jax.vmap(lookup, (0, None))(Z, IDS)
    for got, table in zip(over_tables, Z, strict=True):
        np.testing.assert_array_equal(got, lookup(table, IDS))


def test_what_has_no_rows_is_refused():
    with pytest.raises(ValueError, match="floating type, got int32"):
        softmax(IDS)
    with pytest.raises(ValueError, match="floating type"):
        normalise(jnp.float32(1))
    with pytest.raises(ValueError, match="ids that are integers"):
        lookup(TABLE, Z)
