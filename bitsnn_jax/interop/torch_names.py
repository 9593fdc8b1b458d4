"""Names of a network's modules in PyTorch, by their names here.

A naming is a function from a network to {our path: their name}, in PyTorch's order.
There are those of torchvision and those of the QCFS networks of Bu et al. 2022.
"""

from collections.abc import Callable, Container
from functools import partial
from typing import Any

from bitsnn_jax.config import Model
from bitsnn_jax.models import build_model

Naming = Callable[[Any], dict[str, str]]


def namings(model: Model) -> dict[str, Naming]:
    """List the namings of a network, by name.

    Raises:
      ValueError: a network whose names in PyTorch are not known.
    """
    if model.name not in NAMINGS:
        raise ValueError(
            f"model.name must be one of {', '.join(NAMINGS)} for PyTorch's tensors; "
            f"got {model.name!r}"
        )
    return NAMINGS[model.name]


def modern(key: str) -> str:
    """Rename keys of old files as the authors of QCFS do."""
    for old, new in ((".relu.up", ".act.thresh"), (".up", ".thresh")):
        if key.endswith(old):
            return key.removesuffix(old) + new
    return key


def likeliest(tensors: Container[str], model: Model) -> str:
    """Choose the naming with the most names among the tensors."""
    net = build_model(model)
    known = {
        naming: sum(f"{name}.weight" in tensors for name in names(net).values())
        for naming, names in namings(model).items()
    }
    return max(known, key=lambda naming: known[naming])


def _resnet(net, *, stem, stage, first, block):
    names = dict(zip(("stem/conv", "stem/norm", "stem_act"), stem, strict=True))
    for i, count in enumerate(net.blocks):
        for j in range(count):
            for ours, theirs in block.items():
                name = f"{stage.format(i + first)}.{j}.{theirs}"
                names[f"stages_{i}_{j}/{ours}"] = name
    return names | {"head": "fc"}


_TORCHVISION_RESNET = partial(
    _resnet,
    stem=("conv1", "bn1", "relu"),
    stage="layer{}",
    first=1,
    block={
        "conv_1/conv": "conv1",
        "conv_1/norm": "bn1",
        "act_1": "relu1",
        "conv_2/conv": "conv2",
        "conv_2/norm": "bn2",
        "act_2": "relu2",
        "shortcut/conv": "downsample.0",
        "shortcut/norm": "downsample.1",
    },
)
_QCFS_RESNET = partial(
    _resnet,
    stem=("conv1.0", "conv1.1", "conv1.2"),
    stage="conv{}_x",
    first=2,
    block={
        "conv_1/conv": "residual_function.0",
        "conv_1/norm": "residual_function.1",
        "act_1": "residual_function.2",
        "conv_2/conv": "residual_function.3",
        "conv_2/norm": "residual_function.4",
        "shortcut/conv": "shortcut.0",
        "shortcut/norm": "shortcut.1",
        "act_2": "act",
    },
)


def _torchvision_vgg(net):
    names, k = {}, 0
    for i, stage in enumerate(net.widths):
        for j in range(len(stage)):
            parts = _vgg_parts(net, i, j)
            names |= {part: f"features.{k + n}" for n, part in enumerate(parts)}
            k += len(parts)
        k += 1  # pooling
    return names | _vgg_classifier(0)


def _qcfs_vgg(net):
    names = {}
    for i, stage in enumerate(net.widths):
        for j in range(len(stage)):
            parts = _vgg_parts(net, i, j)
            k = j * (len(parts) + 1)  # dropout
            names |= {part: f"layer{i + 1}.{k + n}" for n, part in enumerate(parts)}
    return names | _vgg_classifier(1)  # behind the flattening


def _vgg_parts(net, i, j) -> tuple[str, ...]:
    norm = () if net.norm is None else (f"conv_{i}_{j}/norm",)
    return (f"conv_{i}_{j}/conv", *norm, f"act_{i}_{j}")


def _vgg_classifier(first) -> dict[str, str]:
    parts = ("hidden_1", "hidden_act_1", "", "hidden_2", "hidden_act_2", "", "head")
    return {part: f"classifier.{first + n}" for n, part in enumerate(parts) if part}


def _torchvision_mobilenet(net):
    names, k = _conv_norm_act("stem", "features.0"), 0
    for i, stage in enumerate(net.stages):
        for j in range(stage.blocks):
            k += 1
            ours, theirs = f"stages_{i}_{j}", f"features.{k}.conv"
            inner = ("expand", "depthwise") if stage.expansion > 1 else ("depthwise",)
            for n, conv in enumerate(inner):
                names |= _conv_norm_act(f"{ours}/{conv}", f"{theirs}.{n}")
            names[f"{ours}/project/conv"] = f"{theirs}.{len(inner)}"
            names[f"{ours}/project/norm"] = f"{theirs}.{len(inner) + 1}"
            names[f"{ours}/project_act"] = f"features.{k}.act"
    last = _conv_norm_act("last", f"features.{k + 1}")
    return names | last | {"head": "classifier.1"}


def _conv_norm_act(ours, theirs) -> dict[str, str]:
    parts = (f"{ours}/conv", f"{ours}/norm", f"{ours}_act")
    return {part: f"{theirs}.{n}" for n, part in enumerate(parts)}


NAMINGS: dict[str, dict[str, Naming]] = {
    "mobilenetv2": {"torchvision": _torchvision_mobilenet},
    "resnet18": {"torchvision": _TORCHVISION_RESNET, "qcfs": _QCFS_RESNET},
    "resnet20": {"qcfs": _QCFS_RESNET},
    "resnet34": {"torchvision": _TORCHVISION_RESNET, "qcfs": _QCFS_RESNET},
    "vgg16": {"torchvision": _torchvision_vgg, "qcfs": _qcfs_vgg},
}
