"""RetinaNet: five maps of the sizes that the paper says, heads that all share."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from bitsnn_jax.config import Model
from bitsnn_jax.conversion.readings import Spikes, Stepped, run
from bitsnn_jax.models import ResNet, RetinaNet, build_model
from bitsnn_jax.models.retinanet import Head, twice
from bitsnn_jax.numerics.layers import QCFS

X = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32)


def tiny(*, blocks=(1, 1, 1), stem="cifar", act=QCFS, dtype=None, **options):
    """A backbone of few blocks, so that a trace costs little."""
    norm = partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5)
    layers = {"act": act, "dtype": dtype}
    stages = ResNet(blocks, (2, 3, 4, 5)[: len(blocks)], None, norm=norm, **layers)
    stages = stages.clone(stem=stem)
    return RetinaNet(stages, 3, 4, **layers, **options)


def abstract(model, x=X):
    """Variables and outputs without values."""
    init = partial(model.init_with_output, train=False)
    return jax.eval_shape(init, jax.random.key(0), x)[::-1]


def weights(variables):
    """The shapes of all parameters but thetas, by path."""
    leaves = flatten_dict(variables["params"], sep="/").items()
    return {path: x.shape for path, x in leaves if not path.endswith("theta")}


def test_retinanet_34_has_the_parameters_of_torchvision():
    config = Model(name="retinanet_resnet34", num_classes=80, stem="imagenet")
    shapes = weights(abstract(build_model(config), X.update(shape=(1, 32, 32, 3)))[0])

    def count(module):
        return sum(np.prod(s) for path, s in shapes.items() if path.startswith(module))

    # torchvision's RetinaNet over resnet_fpn_backbone("resnet34", returned_layers=[2,
    # 3, 4], extra_blocks=LastLevelP6P7(512, 256)) has 25,055,040 and 6,463,220.
    assert count("backbone") + count("pyramid") == 25_055_040
    assert count("boxes") + count("classes") == 6_463_220


@pytest.mark.parametrize(
    ("stages", "stem", "strides", "size"),
    [
        (4, "imagenet", (8, 16, 32, 64, 128), (250, 97)),
        (3, "imagenet", (4, 8, 16, 32, 64), (256, 128)),
        (3, "cifar", (1, 2, 4, 8, 16), (1, 1)),
    ],
)
def test_each_map_halves_the_one_before(stages, stem, strides, size):
    # Also where sides do not divide: there is a place for whatever is left over.
    model = tiny(blocks=(1,) * stages, stem=stem)
    _, outputs = abstract(model, X.update(shape=(2, *size, 3)))
    for kind, channels in (("boxes", 9 * 4), ("classes", 9 * 3)):
        assert [level.shape for level in outputs[kind]] == [
            (2, -(-size[0] // stride), -(-size[1] // stride), channels)
            for stride in strides
        ]


def test_the_backbone_has_the_variables_of_the_classifier():
    detector, _ = abstract(build_model(Model(name="retinanet_resnet20")))
    variables, _ = abstract(build_model(Model(name="resnet20")))
    del variables["params"]["head"]
    assert {kind: modules["backbone"] for kind, modules in detector.items()} == (
        variables
    )


def test_repetition_is_the_nearest_neighbour_cropped():
    x = np.arange(2 * 2 * 3 * 2).reshape(2, 2, 3, 2)
    found = twice(jnp.asarray(x), like=jnp.zeros((2, 3, 6, 1)))
    np.testing.assert_array_equal(found, x.repeat(2, 1).repeat(2, 2)[:, :3])


@pytest.mark.parametrize(
    ("pyramid", "by_currents"),
    [pytest.param("spikes", 0, marks=pytest.mark.slow), ("currents", 13)],
)
def test_currents_feed_only_what_the_pyramid_says(pyramid, by_currents):
    """Of currents: three convolutions on sums, and two first ones of heads, 5 times."""

    class Fed(Stepped):
        def linear(self, eqn, values, operands, path):
            if eqn.primitive.name == "conv_general_dilated":
                fed.append(isinstance(values[0].value, Spikes))
            return super().linear(eqn, values, operands, path)

    fed = []
    model = tiny(pyramid=pyramid)
    variables, _ = abstract(model)
    apply_fn = partial(model.apply, train=False)
    jax.eval_shape(partial(run, Fed(steps=1), apply_fn), variables, X)
    assert fed.count(False) == by_currents
    # 3 blocks, 2 shortcuts; 8 in the pyramid; 5 in a head, for each map.
    assert len(fed) == 2 * 3 + 2 + 8 + 5 * 2 * 5


@pytest.mark.parametrize(
    "norm", [pytest.param(None, marks=pytest.mark.slow), nn.BatchNorm]
)
def test_maps_share_convolutions_and_thetas_of_a_head_but_no_statistics(norm):
    variables, _ = abstract(tiny(head_norm=norm))
    head = variables["params"]["boxes"]
    layers = {f"{kind}_{i}" for kind in ("conv", "act") for i in range(1, 5)}
    norms = {f"norm_{i}_p{level}" for i in range(1, 5) for level in range(3, 8)}
    assert head.keys() == layers | {"output"} | (norms if norm else set())
    assert ("bias" in head["conv_1"]) == (norm is None)


@pytest.mark.slow
def test_at_the_start_each_class_has_a_probability_of_a_hundredth():
    biases = {}

    def keep(call, args, kwargs, context):
        if isinstance(context.module, Head):
            biases[context.module.name] = context.module.bias
        return call(*args, **kwargs)

    with nn.intercept_methods(keep):
        abstract(tiny())
    assert biases["boxes"] == 0
    head = Head(2, lambda name: nn.relu, 9, bias=biases["classes"])
    x = jnp.zeros((1, 1, 1, 2))
    logits, _ = head.init_with_output(jax.random.key(0), x, "p3", train=False)
    # logit(0.01) has 7 digits.
    np.testing.assert_allclose(jax.nn.sigmoid(logits), 0.01, rtol=1e-5)


def test_in_bfloat16_all_is_narrow_but_what_leaves():
    model = tiny(dtype=jnp.bfloat16)
    variables, outputs = abstract(model)
    assert {x.dtype for x in jax.tree.leaves(outputs)} == {jnp.dtype("f4")}
    trace = jax.make_jaxpr(partial(model.apply, train=False))(variables, X)
    types = [
        eqn.invars[0].aval.dtype.name
        for eqn in trace.jaxpr.eqns
        if eqn.primitive.name == "conv_general_dilated"
    ]
    assert types.count("float32") == 2 * 5
    assert types.count("bfloat16") == 1 + 2 * 3 + 2 + 8 + 4 * 2 * 5


def test_the_fields_of_a_config_reach_all_parts_of_a_detector():
    config = Model(
        name="retinanet_resnet34",
        width=0.125,
        num_classes=7,
        stem="imagenet",
        pool="max",
        pyramid="currents",
        head_norm="batch",
        dtype="bfloat16",
        per_channel=True,
        levels=3,
    )
    model = build_model(config)
    assert (model.features, model.num_classes, model.pyramid) == (32, 7, "currents")
    assert model.backbone.widths == (8, 16, 32, 64)
    assert (model.backbone.stem, model.backbone.pool) == ("imagenet", nn.max_pool)
    for part in (model, model.backbone):
        assert part.dtype == jnp.bfloat16
        assert part.act(name="a") == QCFS(3, 8.0, True, name="a")
    assert model.head_norm is model.backbone.norm
    assert build_model(Model(name="retinanet_resnet20")).head_norm is None
