"""Every shape of a convolution in the zoo: its form equals lax's, gradients too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from bitsnn_jax import config
from bitsnn_jax.models import MODELS, build_model
from bitsnn_jax.numerics.convolutions import convolve
from bitsnn_jax.tracing.equations import parts

WITH_STEMS = {"mobilenetv2", "resnet18", "resnet20", "resnet34", "vgg16"}
IMAGES = {"cifar": (32, 32, 3), "imagenet": (224, 224, 3)}


def equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for part in parts(eqn):
            yield from equations(part.jaxpr)


def convolutions(name, stem):
    """Shapes of x and of a kernel, and parameters, each once."""
    stem = stem if name in WITH_STEMS else "cifar"
    settings = config.Model(name=name, stem=stem, num_classes=10)
    shape = IMAGES[stem]
    model = build_model(settings, image_shape=shape)
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)

    def apply_fn(variables, x):
        return model.apply(variables, x, train=False)

    variables = jax.eval_shape(
        lambda x: model.init(jax.random.key(0), x, train=False), image
    )
    program = jax.make_jaxpr(apply_fn)(variables, image)
    found = {}
    for eqn in equations(program.jaxpr):
        if eqn.primitive.name == "conv_general_dilated":
            x, kernel = (v.aval for v in eqn.invars)
            key = (x.shape, kernel.shape, str(eqn.params))
            found[key] = (x, kernel, eqn.params)
    return list(found.values())


def ours_and_lax(params, **more):
    both = {key: params[key] for key in ("padding", "lhs_dilation", "rhs_dilation")}
    both |= more
    strides, groups = params["window_strides"], params["feature_group_count"]
    numbers = params["dimension_numbers"]
    ours = {"strides": strides, "groups": groups, "dimensions": numbers}
    lax_s = {
        "window_strides": strides,
        "feature_group_count": groups,
        "dimension_numbers": numbers,
    }
    return (
        lambda x, kernel: convolve(x, kernel, **both, **ours),
        lambda x, kernel: lax.conv_general_dilated(x, kernel, **both, **lax_s),
    )


def with_gradients(fn):
    def run(x, kernel, g):
        y, transposed = jax.vjp(fn, x, kernel)
        return y, *transposed(g)

    return jax.jit(run)


@pytest.mark.slow
@pytest.mark.parametrize("stem", IMAGES)
@pytest.mark.parametrize("name", sorted(MODELS))
def test_each_convolution_and_its_gradients_are_those_of_lax(name, stem):
    rng = np.random.default_rng(0)
    for x, kernel, params in convolutions(name, stem):
        ours, theirs = ours_and_lax(params)
        arrays = [rng.normal(size=v.shape).astype(np.float32) for v in (x, kernel)]
        arrays.append(rng.normal(size=jax.eval_shape(ours, *arrays).shape))
        arrays[-1] = arrays[-1].astype(np.float32)
        magnitudes = [abs(array) for array in arrays]
        # Of n numbers added in any order, the sum is off by at most n * 2**-24 times
        # the sum of their magnitudes.
        both = with_gradients(ours)(*arrays), with_gradients(theirs)(*arrays)
        limits = with_gradients(theirs)(*magnitudes)
        counts = with_gradients(theirs)(*map(np.ones_like, arrays))
        for a, b, limit, count in zip(*both, limits, counts, strict=True):
            allowed = 2 * (np.asarray(count) + 2) * 2.0**-24 * np.asarray(limit)
            assert (abs(np.asarray(a) - np.asarray(b)) <= allowed).all(), (x, kernel)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MODELS))
def test_each_convolution_of_bytes_is_that_of_lax_in_every_bit(name):
    rng = np.random.default_rng(0)
    for x, kernel, params in convolutions(name, "cifar"):
        ours, theirs = ours_and_lax(params, preferred_element_type=jnp.int32)
        arrays = [rng.integers(-127, 128, v.shape).astype(np.int8) for v in (x, kernel)]
        # Lax has 32 bits throughout: its loops over bytes compile for minutes.
        expected = jax.jit(theirs)(*(array.astype(np.int32) for array in arrays))
        np.testing.assert_array_equal(jax.jit(ours)(*arrays), expected)
