"""Models: sizes from the literature, one activation everywhere, one batch for all."""

from functools import partial
from typing import Literal, get_args, get_origin, get_type_hints

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitsnn_jax.config import Model
from bitsnn_jax.models import MODELS, VGG, MobileNetV2, ResNet, Small, build_model
from bitsnn_jax.models.mobilenet import InvertedResidual, Stage
from bitsnn_jax.models.vgg import _to_grid
from bitsnn_jax.numerics.layers import QCFS, ClippedReLU, ConvNorm

norm = partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5)


class Identity(nn.Module):
    """An activation that is none."""

    @nn.compact
    def __call__(self, x):
        return x


def tiny(act=QCFS, norm=norm):
    """One small instance of each architecture and form, for images of 8x8x1."""
    layers = {"num_classes": 3, "act": act, "norm": norm}
    stages = (Stage(1, 4, 1, 1), Stage(2, 4, 2, 2))
    mobilenet = partial(MobileNetV2, stages, stem_features=4, last_features=6, **layers)
    return {
        "mobilenet": mobilenet(),
        "mobilenet_spiking": mobilenet(stem_strides=1, linear_bottleneck=False),
        "resnet": ResNet((1, 1), (4, 6), **layers),
        "resnet_imagenet": ResNet((1, 1), (4, 6), stem="imagenet", **layers),
        "vgg": VGG(((4,), (6, 6)), pools=2, hidden=8, **layers),
        "vgg_imagenet": VGG(((4,), (6,)), pools=1, grid=3, hidden=8, **layers),
        "small": Small((4, 6, 6), pools=2, **layers),
    }


CONVOLUTIONAL = sorted(MODELS.keys() - {"vit_small"})
each_tiny = pytest.mark.parametrize("name", sorted(tiny()))


def images(n, *, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, 8, 8, 1)), "f4")


def init(model, x):
    return model.init(jax.random.key(0), x, train=False)


def random_variables(model):
    """Values for all variables, none of them special; without compiling `init`."""
    rng = np.random.default_rng(0)

    def value(path, leaf):
        noise = rng.normal(size=leaf.shape)
        match path[-1].key:
            case "theta":
                return jnp.asarray(2 + noise / 8, "f4")
            case "var" | "scale":
                return jnp.asarray(1 + np.abs(noise) / 8, "f4")
            case "kernel":
                return jnp.asarray(noise / np.sqrt(np.prod(leaf.shape[:-1])), "f4")
        return jnp.asarray(noise / 8, "f4")

    return jax.tree_util.tree_map_with_path(value, abstract(model, (8, 8, 1))[0])


def infer(model, variables, x):
    return jax.jit(partial(model.apply, train=False))(variables, x)


def abstract(model, shape):
    """Variables without values, so that the largest networks cost nothing here."""
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    return jax.eval_shape(partial(init, model), x), x


def equations(jaxpr):
    """All operations of a trace, those inside of calls included."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in eqn.params.values():
            if hasattr(inner := getattr(inner, "jaxpr", inner), "eqns"):
                yield from equations(inner)


def applied(model, shape, *names):
    """The operations with one of these names in the trace of a model, in inference."""
    variables, x = abstract(model, shape)
    trace = jax.make_jaxpr(partial(model.apply, train=False))(variables, x)
    return [eqn for eqn in equations(trace.jaxpr) if eqn.primitive.name in names]


# Sizes


@pytest.mark.parametrize(
    ("config", "shape", "parameters", "sites"),
    [
        # stem 432 + 32; stages 13,824 + 192, 50,688 + 512 + 448, 202,752 + 2,048 + 896;
        # head 650. He et al. give 0.27M with shortcuts that have no parameters.
        (Model(name="resnet20"), (32, 32, 3), 272_474, 19),
        # The counts of torchvision's resnet18 and resnet34.
        (
            Model(name="resnet18", num_classes=1000, stem="imagenet"),
            (224, 224, 3),
            11_689_512,
            17,
        ),
        (
            Model(name="resnet34", num_classes=1000, stem="imagenet"),
            (224, 224, 3),
            21_797_672,
            33,
        ),
        # Convolutions 14,710,464, norms 2 * 4,224, dense 2,101,248 + 16,781,312 +
        # 40,970.
        (Model(name="vgg16"), (32, 32, 3), 33_642_442, 15),
        # torchvision's vgg16_bn, 138,365,992, less its 4,224 convolution biases.
        # vgg16, 138,357,544, has these biases and not the 8,448 numbers of the norms.
        (
            Model(name="vgg16", num_classes=1000, stem="imagenet"),
            (224, 224, 3),
            138_361_768,
            15,
        ),
        # torchvision's mobilenet_v2; for CIFAR 1,267,990 less in the classifier.
        (
            Model(name="mobilenetv2", num_classes=1000, stem="imagenet"),
            (224, 224, 3),
            3_504_872,
            35,
        ),
        (Model(name="mobilenetv2"), (32, 32, 3), 2_236_682, 35),
        # One activation more for each of 17 blocks.
        (Model(name="mobilenetv2", bottleneck="qcfs"), (32, 32, 3), 2_236_682, 52),
        # The authors' ResNet-34: 27 * 64 in place of 147 * 64 numbers in the stem.
        (Model(name="resnet34", num_classes=1000), (224, 224, 3), 21_789_992, 33),
        # 80; 1,152 + 32; 2,320; 2 * 2 * 16 * 10 + 10.
        (Model(name="small"), (8, 8, 1), 4_234, 3),
        # Convolutions 1,152 and 147,456, norms 2 * 256, dense 6,272 * 2,048 and
        # 2,048 * 100.
        (Model(name="plif_net"), (28, 28, 1), 13_198_976, 4),
    ],
    ids=lambda value: value.name if isinstance(value, Model) else None,
)
def test_parameters_and_activations_are_as_many_as_published(
    config, shape, parameters, sites
):
    model = build_model(config, image_shape=shape)
    variables, _ = abstract(model, shape)
    leaves = jax.tree_util.tree_leaves_with_path(variables["params"])
    thetas = [leaf for path, leaf in leaves if path[-1].key == "theta"]
    assert sum(leaf.size for _, leaf in leaves) - len(thetas) == parameters
    assert len(thetas) == sites
    assert len(applied(model, shape, "qcfs")) == sites


@pytest.mark.parametrize("shape", [(1, 1, 1), (8, 8, 1), (28, 28, 1), (32, 48, 3)])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_network_takes_every_size_of_image(name, shape):
    model = build_model(Model(name=name, num_classes=7), image_shape=shape)
    variables, _ = abstract(model, shape)
    x = jax.ShapeDtypeStruct((5, *shape), jnp.float32)
    logits = jax.eval_shape(partial(model.apply, train=False), variables, x)
    assert logits.shape == (5, 7) and logits.dtype == jnp.float32


@pytest.mark.parametrize(
    ("name", "stem", "side", "sides"),
    [
        ("resnet20", "cifar", 32, [32, 32, 16, 8]),
        ("resnet18", "cifar", 32, [32, 32, 16, 8, 4]),
        ("resnet34", "imagenet", 224, [112, 56, 28, 14, 7]),
    ],
)
def test_each_stage_of_a_resnet_halves_the_image(name, stem, side, sides):
    model = build_model(Model(name=name, stem=stem))
    variables, x = abstract(model, (side, side, 3))
    apply = partial(model.apply, train=False, mutable=["activations"])
    sown = jax.eval_shape(apply, variables, x)[1]["activations"]
    stages = [sown[f"stages_{i}_1"]["act_2"] for i in range(len(sides) - 1)]
    assert [site["a"][0][0].shape[1] for site in (sown["stem_act"], *stages)] == sides


@pytest.mark.parametrize(
    ("stem", "side", "sides"),
    [
        ("cifar", 32, [32, 32, 16, 8, 8, 4, 4]),
        ("imagenet", 224, [112, 56, 28, 14, 14, 7, 7]),
    ],
)
def test_the_stages_of_mobilenet_are_as_large_as_published(stem, side, sides):
    model = build_model(Model(name="mobilenetv2", stem=stem))
    convolutions = applied(model, (side, side, 3), "conv_general_dilated")
    depthwise = [
        eqn.outvars[0].aval
        for eqn in convolutions
        if eqn.params["feature_group_count"] > 1
    ]
    first_of_stage = [0, 1, 3, 6, 10, 13, 16]
    assert [depthwise[i].shape[1] for i in first_of_stage] == sides
    # Six times what goes into the block.
    channels = [32, 96, 144, 192, 384, 576, 960]
    assert [depthwise[i].shape[3] for i in first_of_stage] == channels


@pytest.mark.parametrize(
    ("features", "strides", "linear", "expected"),
    [
        (4, 1, True, lambda x: x),
        (4, 1, False, lambda x: np.clip(x, 0, 1)),
        (4, 2, True, lambda x: 0 * x[:, ::2, ::2]),
        (5, 1, True, lambda x: 0 * x[..., [0, 0, 0, 0, 0]]),
    ],
)
def test_an_inverted_residual_skips_what_keeps_its_shape(
    features, strides, linear, expected
):
    act = partial(ClippedReLU, theta_init=1.0)
    block = InvertedResidual(features, 2, strides, act, norm, linear_bottleneck=linear)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4, 4)), "f4")
    variables = jax.tree.map(
        lambda leaf: jnp.ones(leaf.shape), jax.eval_shape(partial(init, block), x)
    )
    # The projection adds nothing.
    variables["params"]["project"]["norm"] = {
        "scale": jnp.zeros(features),
        "bias": jnp.zeros(features),
    }
    np.testing.assert_array_equal(infer(block, variables, x), expected(x))


@pytest.mark.parametrize("sides", [(7, 7), (1, 2), (8, 10), (15, 6)])
def test_the_grid_of_vgg_holds_the_means_of_windows_that_cover_the_image(sides):
    x = np.random.default_rng(0).normal(size=(2, *sides, 3)).astype("f4")

    def window(i, size):  # PyTorch's adaptive pooling, in whole numbers
        return slice(i * size // 7, -(-(i + 1) * size // 7))

    expected = np.empty((2, 7, 7, 3))
    for i, j in np.ndindex(7, 7):
        part = x[:, window(i, sides[0]), window(j, sides[1])]
        expected[:, i, j] = part.astype("f8").mean((1, 2))
    # Means of a few float32 numbers of order 1.
    np.testing.assert_allclose(_to_grid(jnp.asarray(x), 7), expected, atol=1e-6)


def test_the_imagenet_head_of_vgg_has_one_size_for_every_image():
    def shapes(side):
        shape = (side, side, 3)
        config = Model(name="vgg16", stem="imagenet")
        model = build_model(config, image_shape=shape)
        return jax.tree.map(jnp.shape, abstract(model, shape)[0])

    assert shapes(32) == shapes(96) == shapes(224)


def test_poolings_leave_at_least_a_pixel_and_are_as_many_as_fit():
    for side in range(1, 70):
        model = build_model(Model(name="vgg16"), image_shape=(side, 99, 3))
        assert 2**model.pools <= side
        assert model.pools == 5 or 2 ** (model.pools + 1) > side


def test_width_multiplies_the_channels_of_every_layer():
    def sizes(name, width):
        model = build_model(Model(name=name, width=width), image_shape=(8, 8, 1))
        variables, _ = abstract(model, (8, 8, 1))
        return {
            jax.tree_util.keystr(path): leaf.shape[-1]
            for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"])
            if leaf.shape and not {"head", "classifier"} & {key.key for key in path}
        }

    for name in MODELS:
        once, half = sizes(name, 1.0), sizes(name, 0.5)
        assert half == {path: size // 2 for path, size in once.items()}
    assert set(sizes("small", 1e-3).values()) == {1}


# Activations, norms, pooling


@each_tiny
def test_without_its_activation_a_network_is_affine(name):
    # So there is no second nonlinearity beside the injected one.
    model = tiny(act=Identity)[name]
    x, y = images(4), images(4, seed=1)
    variables = random_variables(model)
    f = partial(infer, model, variables)
    # Logits of order 1; sums of some 50 float32 terms of order 1, six layers deep.
    np.testing.assert_allclose(f(0.3 * x + 0.7 * y), 0.3 * f(x) + 0.7 * f(y), atol=1e-5)


@pytest.mark.parametrize(("name", "poolings"), [("resnet18", 1), ("vgg16", 5)])
def test_pooling_is_what_the_config_says(name, poolings):
    for pool, expected in (("average", 0), ("max", poolings)):
        config = Model(name=name, stem="imagenet", pool=pool)
        model = build_model(config, image_shape=(32, 32, 3))
        assert len(applied(model, (32, 32, 3), "reduce_window_max")) == expected


def test_activations_are_as_the_config_says():
    config = Model(name="small", theta_init=3.0, per_channel=True, levels=7)
    model = build_model(config, image_shape=(8, 8, 1))
    params = init(model, images(1))["params"]
    for i, channels in enumerate((8, 16, 16), start=1):
        theta = np.full(channels, 3.0, np.float32)
        np.testing.assert_array_equal(params[f"act_{i}"]["theta"], theta, strict=True)
    assert model.act().levels == 7


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_variables_carry_over_from_one_activation_to_another(name):
    qcfs, clipped_relu, slip_relu, step_relu, relu = (
        abstract(build_model(Model(name=name, activation=act)), (32, 32, 3))[0]
        for act in ("qcfs", "clipped_relu", "slip_relu", "step_relu", "relu")
    )
    for other in (clipped_relu, slip_relu, step_relu):
        chex.assert_trees_all_equal_shapes_and_dtypes(other, qcfs)

    def leaves(variables, without=""):
        found = jax.tree_util.tree_leaves_with_path(variables)
        return {path: leaf for path, leaf in found if path[-1].key != without}

    assert leaves(relu) == leaves(qcfs, without="theta") != leaves(qcfs)


@pytest.mark.parametrize(
    ("activation", "name"),
    [
        ("qcfs", "qcfs"),
        ("clipped_relu", "ge"),
        ("slip_relu", "qcfs"),
        ("step_relu", "floor"),
        ("rate_norm", "ge"),
        ("relu", "max"),
    ],
)
def test_every_activation_is_that_of_the_config(activation, name):
    model = build_model(Model(name="resnet20", activation=activation))
    assert len(applied(model, (32, 32, 3), name)) == 19


@each_tiny
def test_every_parameter_learns(name):
    model, x = tiny()[name], images(16)
    variables = random_variables(model)

    def loss(params):
        logits, _ = model.apply(
            {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
        )
        return -jax.nn.log_softmax(logits)[:, 0].mean()

    for path, g in jax.tree_util.tree_leaves_with_path(
        jax.jit(jax.grad(loss))(variables["params"])
    ):
        assert jnp.isfinite(g).all() and jnp.abs(g).max() > 0, path


def test_running_statistics_move_a_tenth_of_the_way():
    x = images(16)
    model = tiny(norm=build_model(Model()).norm)["resnet"]
    variables = random_variables(model)
    train = jax.jit(partial(model.apply, train=True, mutable=["batch_stats"]))
    _, updated = train(variables, x)
    kernel = variables["params"]["stem"]["conv"]["kernel"]
    z = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    before, after = (v["batch_stats"]["stem"]["norm"] for v in (variables, updated))
    for key, of_batch in (("mean", z.mean((0, 1, 2))), ("var", z.var((0, 1, 2)))):
        expected = 0.9 * before[key] + 0.1 * of_batch
        # Means of 1024 float32 numbers of order 1.
        np.testing.assert_allclose(after[key], expected, atol=1e-6)


@each_tiny
def test_replicas_normalise_by_the_statistics_of_the_whole_batch(name):
    x = images(8)
    model = tiny()[name]
    replica = tiny(norm=partial(norm, axis_name="batch"))[name]
    variables = random_variables(model)

    @partial(jax.jit, static_argnums=0)
    def train(model, x):
        return model.apply(variables, x, train=True, mutable=["batch_stats"])

    logits, stats = train(model, x)
    halves, half_stats = jax.vmap(partial(train, replica), axis_name="batch")(
        x.reshape(2, 4, 8, 8, 1)
    )
    # Means are summed in another order. The logits are on a grid of codes that a
    # rounding could move by a step, 8 / 15; with these images it moves none.
    np.testing.assert_allclose(halves.reshape(8, 3), logits, atol=1e-5)
    for a, b in zip(jax.tree.leaves(half_stats), jax.tree.leaves(stats), strict=True):
        np.testing.assert_allclose(a, jnp.stack([b, b]), atol=1e-5)


def test_build_model_passes_the_axis_on():
    assert build_model(Model(), axis_name="batch").norm().axis_name == "batch"


@each_tiny
def test_at_inference_an_image_does_not_see_its_neighbours(name):
    model, x = tiny()[name], images(6)
    variables = random_variables(model)
    logits = infer(model, variables, x)
    others = infer(model, variables, x.at[1:].set(images(5, seed=1)))
    np.testing.assert_array_equal(others[0], logits[0])
    assert (others[1:] != logits[1:]).any()


def test_dropout_is_for_training_only():
    without, x = tiny()["vgg"], images(4)
    model = without.clone(dropout=0.5)
    variables = random_variables(model)
    np.testing.assert_array_equal(
        infer(model, variables, x), infer(without, variables, x)
    )

    @jax.jit
    def train(seed):
        keys = {"dropout": jax.random.key(seed)}
        return model.apply(
            variables, x, train=True, mutable=["batch_stats"], rngs=keys
        )[0]

    np.testing.assert_array_equal(train(1), train(1))
    assert (train(1) != train(2)).any()


@each_tiny
def test_bfloat16_is_for_convolutions_and_hidden_layers_alone(name):
    model = tiny()[name].clone(dtype=jnp.bfloat16)
    variables, x = abstract(model, (8, 8, 1))
    train = partial(model.apply, train=True, mutable=["batch_stats"])
    everything = variables, jax.eval_shape(train, variables, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(everything)} == {jnp.dtype("f4")}

    def types(*names):
        found = applied(model, (8, 8, 1), *names)
        return [eqn.invars[0].aval.dtype for eqn in found]

    assert set(types("conv_general_dilated")) == {jnp.dtype("bfloat16")}
    assert set(types("qcfs")) == {jnp.dtype("f4")}
    *_, head = products = types("dot_general")
    assert head == jnp.float32
    if name.startswith("vgg"):
        assert products[-3:-1] == [jnp.bfloat16, jnp.bfloat16]


def test_the_norm_behind_a_narrow_convolution_is_wide():
    layer = ConvNorm(2, norm=norm, dtype=jnp.bfloat16)
    for train in (False, True):
        apply = partial(layer.init_with_output, train=train)
        y, _ = jax.eval_shape(apply, jax.random.key(0), images(1))
        assert y.dtype == jnp.float32


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_type_of_the_config_reaches_every_network(name):
    narrow, wide = (
        build_model(Model(name=name, dtype=dtype)) for dtype in ("bfloat16", "float32")
    )
    if name not in CONVOLUTIONAL:
        narrow, wide = narrow.block, wide.block
    assert narrow.dtype == jnp.bfloat16 and wide.dtype is None


@pytest.mark.parametrize(("kernel_size", "size"), [(1, 8), (3, 8), (7, 8)])
def test_convolutions_are_centred_whatever_their_strides(kernel_size, size):
    # A stride only leaves out outputs: it does not move the kernel, as "SAME" does.
    x = images(1)
    dense = ConvNorm(2, norm=norm, kernel_size=kernel_size)
    strided = ConvNorm(2, norm=norm, kernel_size=kernel_size, strides=2)
    kernel = np.random.default_rng(1).normal(size=(kernel_size, kernel_size, 1, 2))
    variables = jax.eval_shape(partial(init, dense), x)
    variables = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), variables)
    variables["params"]["conv"]["kernel"] = jnp.asarray(kernel, "f4")
    every = infer(dense, variables, x)
    assert every.shape == (1, size, size, 2)
    np.testing.assert_allclose(
        infer(strided, variables, x),
        every[:, ::2, ::2],
        atol=1e-5,  # sums of up to 49 terms of order 1, in another order
    )


def test_kernels_start_with_the_variance_of_he():
    layer = ConvNorm(64, norm=norm)
    variables = init(layer, jnp.zeros((1, 4, 4, 16)))
    # 2 / fan-in = 2 / (9 * 16); the standard error of a variance of 9216 numbers is
    # below 2 %.
    kernel = variables["params"]["conv"]["kernel"]
    np.testing.assert_allclose(kernel.var(), 2 / 144, rtol=0.05)


# Bad input


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            Model(name="resnet"),
            "model.name .* mobilenetv2, .*resnet18, .*vgg16, .*; got 'resnet'",
        ),
        (Model(pool="avg"), "model.pool must be one of average, max; got 'avg'"),
        (Model(stem="7x7"), "stem must be one of cifar, imagenet; got '7x7'"),
        (
            Model(activation="silu"),
            "model.activation .* qcfs, rate_norm, relu, relu6, .* got 'silu'",
        ),
        (Model(dtype="float16"), "model.dtype .* bfloat16, float32; got 'float16'"),
        (
            Model(bottleneck="qcfs"),
            "model.bottleneck must be 'linear' for resnet20, .* it is for mobilenetv2",
        ),
        (Model(name="small", stem="imagenet"), "model.stem must be 'cifar' for small"),
        (Model(attention="relu"), "model.attention must be 'softmax' .* vit_small"),
        (Model(norm="layer"), "model.norm must be 'batch' for resnet20, .* bert_base"),
        (
            Model(name="vit_small", norm="none"),
            "model.norm must be 'batch' for vit_small, got 'none': it is for vgg16",
        ),
        (Model(name="minilm", pool="max"), "model.pool must be 'average' for minilm"),
        (
            Model(name="minilm", activation="gelu", hidden_act="relu"),
            "model.hidden_act must be 'gelu' for model.activation=gelu",
        ),
        (
            Model(pyramid="currents"),
            "model.pyramid must be 'spikes' for resnet20, .* it is for retinanet_resn",
        ),
        (
            Model(name="retinanet_resnet34", norm="none"),
            "model.norm must be 'batch' for retinanet_resnet34, got 'none'",
        ),
        (
            Model(name="retinanet_resnet34", activation="spiking"),
            "model.activation must be 'qcfs' for retinanet_resnet34, got 'spiking'",
        ),
        (Model(width=0.0), "model.width must be positive, got 0.0"),
        (
            Model(activation="rate_norm", per_channel=True),
            "per_channel must be False for model.activation=rate_norm",
        ),
        (
            Model(name="small", activation="binary"),
            "binary has layers of binary.method, which is not given",
        ),
    ],
)
def test_unknown_names_are_answered_with_the_known_ones(config, message):
    with pytest.raises(ValueError, match=message):
        build_model(config)


def test_every_choice_of_a_field_builds_a_network():
    choices = {
        field: get_args(kind)
        for field, kind in get_type_hints(Model).items()
        if get_origin(kind) is Literal
    }
    assert len(choices) == 10
    of = {"bottleneck": "mobilenetv2", "hidden_act": "bert_tiny", "attention": "minilm"}
    of |= dict.fromkeys(("pyramid", "head_norm"), "retinanet_resnet20")
    for field, values in choices.items():
        for value in values:
            if value in ("spiking", "binary"):  # made by a method of their own
                continue
            name = "vit_small" if value == "layer" else of.get(field, "vgg16")
            build_model(Model(**{"name": name, field: value}))


def test_more_poolings_than_the_image_has_halves_are_refused():
    model = tiny()["vgg"].clone(pools=4)
    with pytest.raises(ValueError, match="4 poolings need .* 16 pixels .* got 8x8"):
        init(model, images(1))
