"""Every architecture as a spiking network: exact in float64 at T = 4.

The networks are narrow and deep as published; see `test_second_formulation.py` for why
float64 must show no difference at all.
"""

from functools import partial

import jax
import numpy as np
import pytest
from test_second_formulation import randomised

from bitsnn_jax import convert, verify
from bitsnn_jax.config import Model
from bitsnn_jax.conversion.readings import Spikes, Stepped, run
from bitsnn_jax.models import MODELS, build_model

STEPS = 4
narrow = partial(Model, width=0.125)
# Config, and a side of the image that leaves pixels to the last stage.
CASES = {
    "mobilenetv2": (narrow(name="mobilenetv2", stem="imagenet"), 16),
    "mobilenetv2_spiking": (narrow(name="mobilenetv2", bottleneck="qcfs"), 8),
    "plif_net": (Model(name="plif_net", width=0.03), 8),
    "plif_net_max": (Model(name="plif_net", width=0.03, pool="max"), 8),
    "resnet18_max": (narrow(name="resnet18", stem="imagenet", pool="max"), 16),
    "resnet20": (Model(name="resnet20", width=0.5), 8),
    "resnet34": (narrow(name="resnet34", stem="imagenet"), 16),
    "sdt_v2": (narrow(name="sdt_v2_small"), 8),
    "small": (Model(name="small"), 8),
    "spikformer": (narrow(name="spikformer_small", pool="max"), 8),
    "vgg16": (narrow(name="vgg16", stem="imagenet"), 16),
}
FED_BY_THE_IMAGE = {
    "params/stem/norm/bias",
    "params/conv_0_0/norm/bias",  # of VGG
    "params/conv_1/norm/bias",  # of PLIFNet
    "params/stem_0/norm/bias",  # of Spikformer
    "params/downsample_0/norm/bias",  # of the spike-driven transformer
    "params/conv_1/bias",  # of Small
}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def network(name):
    """Model, random float64 variables and two images."""
    config, side = CASES[name]
    model = build_model(config, image_shape=(side, side, 3))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, side, side, 3))
    shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), x)
    return model, randomised(shapes, rng), x


def test_every_model_is_among_the_cases():
    # Transformers have a file of their own, models/test_transformers.py.
    assert {config.name for config, _ in CASES.values()} == set(MODELS) - {"vit_small"}


@pytest.mark.parametrize(
    "name",
    [
        # The blocks of the others are those of smaller networks in other tests.
        pytest.param(
            n,
            marks=() if n in ("resnet20", "small") else pytest.mark.slow,
        )
        for n in sorted(CASES)
    ],
)
def test_a_converted_model_is_exact(name):
    model, variables, x = network(name)
    apply_fn = partial(model.apply, train=False)
    conversion = convert(apply_fn, variables, x[:1], steps=STEPS)
    biases = {
        "/".join(part.key for part in path)
        for path, _ in jax.tree_util.tree_leaves_with_path(variables)
        if path[-1].key == "bias"
    }
    changed = {shift.path for shift in conversion.report.changed}
    assert changed == biases - FED_BY_THE_IMAGE

    snn_variables = conversion.variables
    proof = verify(apply_fn, variables, x, steps=STEPS, snn_variables=snn_variables)
    assert proof.exact, proof
    # And not because its layers say nothing: none is silent, none all at the top.
    sown = jax.jit(partial(apply_fn, mutable=["activations"]))(variables, x)[1]
    sites = jax.tree.leaves(
        sown["activations"], is_leaf=lambda node: isinstance(node, tuple)
    )
    assert len(sites) == len(proof.layers)
    for ((a, theta),) in sites:
        assert 0 < (a / theta).mean() < 1


class Fed(Stepped):
    """The stepped reading, noting whether each convolution is fed by spikes."""

    def __init__(self, **options):
        super().__init__(**options)
        self.by_spikes = []

    def linear(self, eqn, values, operands, path):
        if eqn.primitive.name == "conv_general_dilated":
            self.by_spikes.append(isinstance(values[0].value, Spikes))
        return super().linear(eqn, values, operands, path)


@pytest.mark.parametrize(
    ("name", "by_currents"),
    [
        ("mobilenetv2_spiking", 0),
        # The expansions of the 16 blocks that expand, and the last convolution.
        ("mobilenetv2", 17),
        ("resnet34", 1),  # the first block, behind an average of spikes
        ("resnet18_max", 0),  # a maximum of spikes is spikes
    ],
)
def test_convolutions_are_fed_by_spikes_unless_something_linear_stands_between(
    name, by_currents
):
    model, variables, x = network(name)
    reading = Fed(steps=STEPS)
    apply_fn = partial(model.apply, train=False)
    jax.eval_shape(partial(run, reading, apply_fn), variables, x)
    assert reading.by_spikes.count(False) == by_currents
    assert len(reading.by_spikes) > 15
