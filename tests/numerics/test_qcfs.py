"""Laws of the activation, Eq. (2), and of its gradient."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bitsnn_jax.numerics.qcfs import codes, qcfs
from bitsnn_jax.numerics.stored import stored

LEVELS = (1, 2, 3, 15, 16, 255)
EPS = float(np.finfo(np.float32).eps)
any_levels = pytest.mark.parametrize("levels", LEVELS)

# One shape, so that each number of levels is compiled once.
pre_activations = hnp.arrays(
    np.float32, 32, elements=st.floats(-100, 100, width=32)
).map(jnp.asarray)
thetas = st.floats(0.015625, 64, width=32).map(jnp.float32)


def grid(theta):
    """Pre-activations from far below 0 to far above theta, both edges among them."""
    inner = np.linspace(-0.5 * theta, 1.5 * theta, 4001)
    return jnp.asarray(np.r_[-1e6, 0, theta, 1e6, inner].astype(np.float32))


@any_levels
@settings(max_examples=15)
@given(z=pre_activations, theta=thetas)
def test_values_lie_on_the_grid_from_zero_to_theta(levels, z, theta):
    a = np.float64(qcfs(z, theta, levels=levels))
    code = a / float(theta) * levels
    # theta / levels and its product with the code are each rounded once.
    assert np.all(np.abs(code - np.round(code)) <= 2 * levels * EPS)
    assert np.all(np.round(code) >= 0) and np.all(np.round(code) <= levels)


@any_levels
@settings(max_examples=15)
@given(z=pre_activations, theta=thetas)
def test_quantisation_is_monotone_and_idempotent(levels, z, theta):
    a = qcfs(jnp.sort(z), theta, levels=levels)
    assert jnp.all(jnp.diff(a) >= 0)
    assert jnp.array_equal(qcfs(a, theta, levels=levels), a)


@any_levels
@pytest.mark.parametrize("theta", [0.7, 1.0, 8.0])
def test_error_inside_is_at_most_half_a_step(levels, theta):
    z = jnp.linspace(0, theta, 5003)
    error = np.abs(np.float64(qcfs(z, theta, levels=levels)) - np.float64(z))
    # z / delta, of size up to levels, is rounded three times (delta, quotient, 1/2).
    assert error.max() <= theta / levels / 2 + 3 * theta * EPS


@any_levels
def test_what_lies_outside_is_clipped(levels):
    z = jnp.array([-jnp.inf, -1e30, -0.25, 2.0, 1e30, jnp.inf])
    # theta = levels makes delta exactly 1.
    a = qcfs(levels * z, float(levels), levels=levels)
    assert a.tolist() == [0, 0, 0, levels, levels, levels]


@any_levels
@pytest.mark.parametrize("shape", [(), (3,), (3, 1, 1)])
def test_the_code_times_the_step_is_the_value(levels, shape):
    key = jax.random.key(0)
    theta = jax.random.uniform(key, shape, minval=0.1, maxval=9.0)
    z = jax.random.uniform(key, (7, 3, 5, 3), minval=-3.0, maxval=12.0)

    # In one program. Compilers replace a division by a constant in one program and not
    # in the next, which moves delta by one rounding.
    @jax.jit
    def both(z, theta):
        k = codes(z, theta, levels=levels)
        delta = jnp.broadcast_to(theta / levels, z.shape)
        return qcfs(z, theta, levels=levels), k, delta * k

    a, k, decoded = both(z, theta)
    assert jnp.array_equal(a, decoded)
    assert k.dtype == jnp.int32
    assert set(np.unique(k)) <= set(range(levels + 1))


@pytest.mark.parametrize("levels", [*LEVELS, 2**16 - 1])
def test_halves_round_up(levels):
    # delta = 1/4: z / delta = k + 1/2 is exact, and so is the float below it.
    k = np.unique(np.linspace(0, levels - 1, 300).astype(int))
    halves = jnp.asarray((k + 0.5) / 4, jnp.float32)
    below = jnp.nextafter(halves, jnp.float32(0))
    of = partial(codes, theta=jnp.float32(levels / 4), levels=levels)
    assert jnp.array_equal(of(halves), k + 1)
    # Not for k = 0: the float just below 1/2, plus 1/2, is 1 after rounding.
    assert jnp.array_equal(of(below)[k > 0], k[k > 0])


def test_a_value_at_the_middle_of_two_codes_in_small_numbers():
    # theta / levels = 1/4: 0.3 / 0.25 = 1.2 -> 1;  0.375 / 0.25 = 1.5 -> 2;  9 -> 4
    z = jnp.array([-1.0, 0.3, 0.375, 0.9, 9.0])
    assert codes(z, 1.0, levels=4).tolist() == [0, 1, 2, 4, 4]
    assert qcfs(z, 1.0, levels=4).tolist() == [0, 0.25, 0.5, 1, 1]


@any_levels
@pytest.mark.parametrize("theta", [0.75, 8.0])
def test_gradient_to_z_is_one_strictly_inside(levels, theta):
    last = np.nextafter(np.float32(theta), np.float32(0))
    z = jnp.array([-3.0, -1e-30, 0.0, 1e-30, last, theta, 2 * theta])
    gradient = jax.grad(lambda z: qcfs(z, theta, levels=levels).sum())(z)
    assert gradient.tolist() == [0, 0, 0, 1, 1, 0, 0]


@pytest.mark.parametrize("levels", [1, 15, 16])
@pytest.mark.parametrize("shape", [(), (4,), (4, 1, 1), (1, 4), (2, 1, 5, 1)])
def test_gradients_follow_the_equation(levels, shape):
    """da/dtheta is (a - z) / theta inside, 1 at and above theta, 0 at and below 0."""
    rng = np.random.default_rng(levels)
    theta = rng.uniform(0.5, 4.0, shape).astype(np.float32)
    z = rng.uniform(-2.0, 6.0, (2, 4, 5, 4)).astype(np.float32)
    z[0, :, 0] = 0
    z[1, :, 1] = np.broadcast_to(theta, z.shape)[1, :, 1]
    g = rng.normal(size=z.shape).astype(np.float32)

    _, pull = jax.vjp(partial(qcfs, levels=levels), jnp.asarray(z), jnp.asarray(theta))
    to_z, to_theta = pull(jnp.asarray(g))

    z, theta, g = np.float64(z), np.float64(theta), np.float64(g)
    inside = (0 < z) & (z < theta)
    delta = theta / levels
    a = delta * np.clip(np.floor(z / delta + 0.5), 0, levels)
    slope = np.where(inside, (a - z) / theta, z >= theta)
    # Broadcasting is undone by a sum over the axes that it made.
    axes = [i for i, n in enumerate((1,) * (4 - len(shape)) + shape) if n == 1]
    expected = (g * slope).sum(tuple(axes), keepdims=True).reshape(shape)
    assert jnp.array_equal(to_z, np.where(inside, g, 0))
    # 160 float32 terms of size up to 4 are added; no code is near a half here.
    np.testing.assert_allclose(to_theta, expected, atol=160 * 4 * EPS)


def loop(fn, *args):
    return jnp.stack([fn(*each) for each in zip(*args, strict=True)])


@pytest.mark.parametrize("shape", [(), (3,), (5, 1)])
@pytest.mark.parametrize("axis", [0, -1])
def test_vmap_is_a_loop(shape, axis):
    z_key, theta_key = jax.random.split(jax.random.key(1))
    z = jax.random.uniform(z_key, (4, 5, 3), minval=-2.0, maxval=5.0)
    theta = jax.random.uniform(theta_key, (4, *shape), minval=1.0, maxval=4.0)
    moved_z, moved_theta = jnp.moveaxis(z, 0, axis), jnp.moveaxis(theta, 0, axis)

    def mapped(in_axes, fn, *args):
        return jax.vmap(fn, in_axes)(*args)

    assert jnp.array_equal(
        mapped((axis, axis), qcfs, moved_z, moved_theta), loop(qcfs, z, theta)
    )
    assert jnp.array_equal(
        mapped((axis, None), qcfs, moved_z, theta[0]), loop(qcfs, z, [theta[0]] * 4)
    )
    assert jnp.array_equal(
        mapped((None, axis), qcfs, z[0], moved_theta), loop(qcfs, [z[0]] * 4, theta)
    )


def test_vmap_nests():
    z = jax.random.uniform(jax.random.key(2), (2, 3, 4), minval=-1.0, maxval=3.0)
    theta = jnp.array([1.0, 2.0, 3.0])
    nested = jax.vmap(jax.vmap(qcfs), (0, None))(z, theta)
    assert jnp.array_equal(nested, qcfs(z, theta[:, None]))


@pytest.mark.parametrize("shape", [(), (3,)])
def test_gradients_under_vmap_and_pmap_are_those_of_each_example(shape):
    key = jax.random.key(3)
    z = jax.random.uniform(key, (4, 5, 3), minval=-1.0, maxval=4.0)
    theta = jnp.full(shape, 2.3)

    def loss(z, theta):
        return jnp.sum(jnp.sin(qcfs(z, theta)))

    both = jax.grad(loss, (0, 1))
    each = [both(example, theta) for example in z]
    for mapped in (jax.vmap, jax.pmap):
        to_z, to_theta = mapped(both, in_axes=(0, None))(z, theta)
        assert to_theta.shape == (4, *shape)
        # sin and cos are rounded differently in programs of different shapes.
        np.testing.assert_allclose(to_z, [g for g, _ in each], rtol=4 * EPS)
        np.testing.assert_allclose(
            to_theta, [g for _, g in each], rtol=15 * EPS, atol=15 * EPS
        )


@any_levels
@pytest.mark.parametrize("theta", [0.7, 3.3])
def test_compiled_is_eager(levels, theta):
    z, theta = grid(theta), jnp.float32(theta)
    fn = partial(qcfs, levels=levels)
    assert jnp.array_equal(jax.jit(fn)(z, theta), fn(z, theta))
    gradient = jax.grad(lambda z, theta: fn(z, theta).sum())
    assert jnp.array_equal(jax.jit(gradient)(z, theta), gradient(z, theta))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_the_type_of_z_is_kept(dtype):
    with jax.enable_x64(True):
        # theta = 4 and levels = 16: a step of 1/4 is exact in each of the types.
        z = jnp.asarray([-1.0, 0.3, 0.375, 9.0], dtype)
        a, pull = jax.vjp(partial(qcfs, levels=16), z, jnp.asarray(4.0, dtype))
        assert a.dtype == dtype and a.tolist() == [0, 0.25, 0.5, 4]
        assert [g.dtype for g in pull(jnp.ones_like(a))] == [dtype, dtype]
        # theta in another type follows z.
        assert qcfs(z, jnp.float32(4.0), levels=16).dtype == dtype
        assert codes(z, 4.0, levels=16).dtype == jnp.int32


def test_float64_resolves_what_float32_cannot():
    with jax.enable_x64(True):
        z = jnp.asarray([0.5 - 1e-12, 0.5 + 1e-12])
        assert codes(z, 15.0).tolist() == [0, 1]
        assert codes(z.astype(jnp.float32), 15.0).tolist() == [1, 1]


@pytest.mark.parametrize("shape", [(), (3,)])
def test_the_activation_stays_visible_in_a_trace(shape):
    z, theta = jnp.ones((2, 3)), jnp.ones(shape)
    for fn in (qcfs, jax.vmap(qcfs, (0, None)), jax.jit(jax.vmap(qcfs, (0, None)))):
        program = str(jax.make_jaxpr(fn)(z, theta))
        assert program.count("qcfs[levels=15]") == 1


@pytest.mark.parametrize("fn", [qcfs, codes])
def test_errors_say_what_came(fn):
    z = jnp.zeros((2, 8, 3))
    for levels in (0, -1):
        with pytest.raises(ValueError, match=f"^levels .* at least 1, got {levels}$"):
            fn(z, 1.0, levels=levels)
    for shape in ((8,), (4, 2, 8, 3), (3, 1, 1)):
        with pytest.raises(ValueError) as error:
            fn(z, jnp.ones(shape))
        assert str(shape) in str(error.value) and "(2, 8, 3)" in str(error.value)
        assert "\n" not in str(error.value)


def test_what_is_stored_is_the_value_itself_whatever_reads_it():
    x = jnp.array([1.5, -0.0, jnp.inf, jnp.nan])
    twice = jax.jit(lambda x: (stored(x), stored(x) * 2))
    for got in (stored(x), twice(x)[0], jax.vmap(stored)(x[None])[0]):
        assert np.array_equal(got, x, equal_nan=True) and np.signbit(got[1])
    assert jax.grad(lambda x: (stored(x) ** 2).sum())(x[:2]).tolist() == [3.0, 0.0]
    assert stored(jnp.arange(3)).dtype == jnp.int32
