"""The exchange of convolutions: in any program, wherever they stand."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bitsnn_jax import qcfs, spiking, verify, with_fast_convolutions
from bitsnn_jax.numerics.convolutions import convolution_p
from bitsnn_jax.tracing.equations import module_path, parts

LAYOUT = ("NHWC", "HWIO", "NHWC")
KERNEL = np.random.default_rng(0).normal(size=(3, 3, 1, 4)).astype(np.float32)
X = np.random.default_rng(1).normal(size=(2, 4, 4, 4)).astype(np.float32)


def conv(x, kernel):
    """Depthwise."""
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=LAYOUT, feature_group_count=4
    )


def equations(program, scope=()):
    """All operations, in order, with the modules that they stand in."""
    for eqn in program.jaxpr.eqns:
        inside = (*scope, *module_path(eqn))
        yield eqn.primitive, inside
        for part in parts(eqn):
            yield from equations(part, inside)


@jax.custom_vjp
def odd(x, kernel):
    return conv(x, kernel)


odd.defvjp(lambda x, k: (odd(x, k), (x, k)), lambda xk, g: (7 * g, 5 * xk[1]))


def program(kernel, x):
    """A convolution in everything that can hold one."""
    with jax.named_scope("looped"):
        x, _ = lax.scan(lambda x, k: (conv(x, k), None), x, kernel[None])
        x = lax.fori_loop(0, 2, lambda i, x: conv(x, kernel), x)
    x = lax.cond(x.sum() > 1e9, lambda x: x, lambda x: conv(x, kernel), x)
    with jax.named_scope("kept"):
        x = jax.checkpoint(lambda x: jnp.tanh(conv(x, kernel)))(x)
    return jax.vmap(lambda x: jax.jit(odd)(x[None], kernel)[0])(x)


def test_every_convolution_is_exchanged_and_nothing_else_changes():
    before = jax.make_jaxpr(program)(KERNEL, X)
    after = jax.make_jaxpr(with_fast_convolutions(program))(KERNEL, X)
    expected = [
        (convolution_p if primitive is lax.conv_general_dilated_p else primitive, scope)
        for primitive, scope in equations(before)
    ]
    assert expected == list(equations(after))
    assert sum(primitive is convolution_p for primitive, _ in expected) == 5


def test_a_convolution_in_a_linear_solver_is_exchanged():
    def solved(x):
        return lax.custom_linear_solve(
            lambda x: conv(x, KERNEL), x, lambda conv, x: x, lambda conv, x: x
        )

    program = jax.make_jaxpr(
        with_fast_convolutions(jax.grad(lambda x: solved(x).sum()))
    )
    assert program(X).out_avals[0].shape == X.shape


def loss(kernel, x):
    x = jax.checkpoint(lambda x: jnp.tanh(conv(x, kernel)))(x)
    return jnp.sum(odd(x, kernel))


def test_gradients_under_a_map_over_devices_are_the_same_outside_and_inside():
    """Those of `custom_vjp` are its own, not those of its convolution."""

    def step(kernel, x):
        return lax.psum(jax.grad(loss)(kernel, x), "batch")

    def outside(kernel, x):
        return lax.psum(jax.grad(with_fast_convolutions(loss))(kernel, x), "batch")

    devices = jax.devices()[:2]
    results = [
        jax.pmap(fn, axis_name="batch", in_axes=(None, 0), devices=devices)(
            KERNEL, X[:, None]
        )
        for fn in (step, with_fast_convolutions(step), outside)
    ]
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=1e-5, atol=1e-5)


def network(variables, x):
    x = qcfs(conv(x, variables["kernel"]) + variables["bias"], 2.0)
    return qcfs(conv(x, variables["kernel"]), 2.0)


def test_readings_take_fast_convolutions_and_read_programs_that_have_them():
    variables = {"kernel": KERNEL, "bias": np.full(4, 0.3, np.float32)}
    for options in ({"mode": "fused"}, {}, {"unroll": False}):
        snn = spiking(network, steps=2, **options)
        found = [p for p, _ in equations(jax.make_jaxpr(snn)(variables, X))]
        assert convolution_p in found
        assert lax.conv_general_dilated_p not in found
    assert verify(with_fast_convolutions(network), variables, X, steps=2).exact
