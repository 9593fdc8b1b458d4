"""Convolutions in other forms: equal to lax's, with their gradients, on CPUs only."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

from bitsnn_jax.numerics.convolution_forms import (
    FORMS,
    able_forms,
    described,
    form_of,
)
from bitsnn_jax.numerics.convolutions import convolve

LAYOUTS = {  # by the axes of space: channels last, channels first
    1: [("NHC", "HIO", "NHC"), ("NCH", "OIH", "NCH")],
    2: [("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW")],
}


def case(space, window, inputs, outputs, **options):
    """Shapes of x and of a kernel, channels last, and the options of a convolution."""
    plain = {"strides": (1,) * len(space), "padding": "SAME", "groups": 1}
    options = plain | options
    kernel = (*window, inputs // options["groups"], outputs)
    return (2, *space, inputs), kernel, options


# A few channels for each class of shapes in the networks of the package, and more.
CASES = {
    "plain": case((4, 5), (3, 3), 2, 3),
    "one tap": case((5, 4), (1, 1), 2, 3, strides=(2, 2), padding="VALID"),
    "one tap, transposed": case(
        (3, 4), (1, 1), 2, 3, lhs_dilation=(2, 1), padding=[(1, 0), (-1, 2)]
    ),
    "tiny image": case((2, 2), (3, 3), 2, 3),
    "one pixel": case((1, 1), (3, 3), 2, 3),
    "covered": case((3, 2), (3, 2), 2, 3, padding="VALID"),
    "depthwise": case((5, 4), (3, 3), 4, 4, groups=4),
    "depthwise, stride 2": case((5, 6), (3, 3), 4, 4, groups=4, strides=(2, 2)),
    "depthwise, doubled": case((4, 3), (3, 2), 3, 6, groups=3),
    "grouped": case((4, 5), (3, 3), 4, 6, groups=2, strides=(1, 2)),
    "dilated": case(
        (5, 6), (3, 2), 2, 3, rhs_dilation=(2, 1), padding=[(1, 0), (2, 1)]
    ),
    "transposed": case(
        (3, 4), (3, 3), 2, 3, lhs_dilation=(2, 1), padding=[(2, 1), (1, 1)]
    ),
    "cut off": case((5, 5), (3, 3), 2, 3, padding=[(-1, 1), (2, -1)]),
    "depthwise, wide": case((4, 4), (9, 9), 2, 2, groups=2),
    "one axis": case((6,), (3,), 3, 3, groups=3),
    # As in the gradient of a 3x3 kernel, whose channels are the batch.
    "many channels": case((3, 4), (3, 4), 130, 2, padding=[(1, 1), (1, 1)]),
}
FORM = {
    "one tap": "pointwise",
    "one tap, transposed": "pointwise",
    "tiny image": "columns",
    "one pixel": "columns",
    "covered": "placed",
    "depthwise": "shifted",
    "depthwise, stride 2": "shifted",
    "depthwise, doubled": "shifted",
    "one axis": "shifted",
    "many channels": "split",
}


def operands(name, channels_last, dtype):
    rng = np.random.default_rng(0)
    x, kernel = (rng.integers(-9, 10, shape) for shape in CASES[name][:2])
    if dtype == np.float64:
        x, kernel = (a + rng.normal(size=a.shape) for a in (x, kernel))
    if not channels_last:
        x, kernel = np.moveaxis(x, -1, 1), np.moveaxis(kernel, (-1, -2), (0, 1))
    return x.astype(dtype), kernel.astype(dtype)


def both(name, channels_last, **more):
    """The convolution as ours, and as lax's."""
    options = CASES[name][2] | more
    layout = LAYOUTS[len(options["strides"])][not channels_last]
    renamed = {"strides": "window_strides", "groups": "feature_group_count"}
    of_lax = {renamed.get(key, key): value for key, value in options.items()}
    return (
        lambda x, kernel: convolve(x, kernel, dimensions=layout, **options),
        lambda x, kernel: lax.conv_general_dilated(
            x, kernel, dimension_numbers=layout, **of_lax
        ),
    )


def described_in(fn, *arrays):
    """The one convolution of a program."""
    [eqn] = [
        eqn
        for eqn in jax.make_jaxpr(fn)(*arrays).eqns
        if eqn.primitive.name == "conv_general_dilated"
    ]
    return described(*(v.aval for v in eqn.invars), **eqn.params)


@pytest.mark.parametrize("last, dtype", [(True, np.float64), (False, np.int8)])
def test_every_form_equals_the_convolution_that_it_stands_for(last, dtype):
    names = [name for name in CASES if name != "depthwise, wide"]  # 81 terms
    if dtype == np.int8:  # XLA compiles these slowly
        names = ["one tap", "tiny image", "depthwise, stride 2", "grouped"]
    more = {"preferred_element_type": np.int32} if dtype == np.int8 else {}

    def pairs(arrays):
        for name, (x, kernel) in arrays.items():
            _, lax_conv = both(name, last, **more)
            known = described_in(lax_conv, x, kernel)
            for form in able_forms(known):
                yield FORMS[form](x, kernel, known), lax_conv(x, kernel)

    with jax.enable_x64(True):
        arrays = {name: operands(name, last, dtype) for name in names}
        found = jax.jit(lambda arrays: list(pairs(arrays)))(arrays)
    assert len(found) > 1.5 * len(names)
    # Sums of at most 18 products of some 10 * 10.
    atol = 0 if dtype == np.int8 else 1e-11
    for form, expected in found:
        assert form.dtype == expected.dtype
        np.testing.assert_allclose(form, expected, rtol=0, atol=atol)


def test_derivatives_of_every_kind_are_those_of_lax():
    kinds = [("tiny image", False), ("depthwise, stride 2", True)]

    def derivatives(fn, x, kernel):
        y, transposed = jax.vjp(fn, x, kernel)
        kernels = jnp.stack([kernel, 2 * kernel])

        def loss(x, kernel):
            return jnp.sum(fn(x, kernel) ** 2)

        return {
            "value": y,
            "reverse": transposed(jnp.cos(y)),
            "forward": jax.jvp(fn, (x, kernel), (x + 1, kernel - 1))[1],
            "second": jax.grad(lambda x: jnp.sum(jax.grad(loss, 1)(x, kernel) ** 2))(x),
            "mapped": jax.vmap(fn)(jnp.stack([x, -x]), kernels),
        }

    def pairs(arrays):
        return {
            kind: [derivatives(fn, x, kernel) for fn in both(*kind)]
            for kind, (x, kernel) in arrays.items()
        }

    with jax.enable_x64(True):
        arrays = {kind: operands(*kind, np.float64) for kind in kinds}
        for ours, expected in jax.jit(pairs)(arrays).values():
            jax.tree.map(
                # The second derivative is of values to the fourth power.
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-7),
                ours,
                expected,
            )


def test_the_form_follows_from_shapes_and_types():
    for (name, last), dtype in itertools.product(
        itertools.product(CASES, (True, False)), (np.float32, jnp.bfloat16)
    ):
        _, lax_conv = both(name, last)
        known = described_in(lax_conv, *operands(name, last, dtype))
        expected = "lax"
        if dtype == np.float32:
            is_plain = last or known.groups > 1
            expected = FORM.get(name, "lax" if is_plain else "canonical")
        assert form_of(known) == expected, (name, last)


def test_sizes_that_are_not_known_or_0_are_left_to_lax():
    def form(x, kernel, axes, dtype=np.float32, **options):
        x, kernel = (jax.ShapeDtypeStruct(shape, dtype) for shape in (x, kernel))
        more = {"feature_group_count": options.pop("groups", 1), **options}
        conv = functools.partial(
            lax.conv_general_dilated,
            window_strides=(1,) * axes,
            padding=[(0, 0)] * axes,
            **more,
        )
        return form_of(described_in(conv, x, kernel))

    n, h, w = export.symbolic_shape("n, h, w", constraints=["h >= 2", "w >= 2"])
    assert form((n, 3, 8, 8), (4, 3, 1, 1), 2) == "pointwise"
    for groups, window in itertools.product((1, 4), (1, 2)):
        kernel = (4, 4 // groups, window, window)
        assert form((n, 4, h, w), kernel, 2, groups=groups) == "lax"
    assert form((2, 0, 3), (4, 0, 1), 1) == form((2, 3, 3), (0, 3, 4), 1) == "lax"
    assert form((2, 4), (4, 1), 0, np.int32, groups=4) == "shifted"


def test_the_gradient_of_a_depthwise_kernel_has_a_form_of_its_own():
    ours, _ = both("depthwise", True)
    x, kernel = operands("depthwise", True, np.float32)
    gradient = jax.grad(lambda kernel: ours(x, kernel).sum())
    known = described_in(
        lambda x, ct: jax.linear_transpose(lambda k: ours(x, k), kernel)(ct)[0], x, x
    )
    assert form_of(known) == "correlated"
    assert gradient(kernel).shape == kernel.shape


def test_gradients_are_convolutions_that_xla_has_a_fast_form_of():
    # In a loop XLA leaves the axes as they are, and others than these become loops.
    ours, _ = both("plain", True)
    x, kernel = operands("plain", True, np.float32)

    def total(kernel, x):
        return jax.lax.map(lambda x: (ours(x, kernel) ** 2).sum(), x).sum()

    both_gradients = jax.jit(jax.grad(total, argnums=(0, 1)))
    text = both_gradients.lower(kernel, np.stack([x, x])).as_text()
    found = re.findall(r"stablehlo.convolution.*dim_numbers = (.*?), window", text)
    assert len(found) == 3
    assert set(found) == {"[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"}


def test_only_a_cpu_has_the_forms():
    ours, lax_conv = both("depthwise", True)
    arrays = operands("depthwise", True, np.float32)

    def text(fn, platform):
        return (
            jax.jit(fn).trace(*arrays).lower(lowering_platforms=(platform,)).as_text()
        )

    assert "stablehlo.convolution" not in text(ours, "cpu")
    for platform in ("cuda", "tpu"):
        assert "stablehlo.convolution" in text(ours, platform)
