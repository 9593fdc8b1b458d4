"""The networks of `bitsnn_jax.models` in PyTorch, as benchmarks of rivals take them.

Same layers, same shapes, in the form for small images ("cifar"); weights are random.
Import this where PyTorch is installed.
"""

from collections.abc import Callable

import torch
from torch import nn

from bitsnn_jax.models.mobilenet import MOBILENET_V2
from bitsnn_jax.models.vgg import VGG16

Act = Callable[[], nn.Module]
_RESNETS = {
    "resnet18": ((2, 2, 2, 2), (64, 128, 256, 512)),
    "resnet20": ((3, 3, 3), (16, 32, 64)),
    "resnet34": ((3, 4, 6, 3), (64, 128, 256, 512)),
}


def torch_network(
    name: str, *, channels: int = 3, act: Act = nn.ReLU, classes: int = 10
) -> nn.Module:
    """Build a network by name; `act` makes each of its activations."""
    if name in _RESNETS:
        return _resnet(*_RESNETS[name], channels, act, classes)
    others = {"vgg16": _vgg16, "mobilenetv2": _mobilenetv2, "small": _small}
    return others[name](channels, act, classes)


def conv_norm(
    inputs: int, outputs: int, stride: int = 1, kernel: int = 3, groups: int = 1
) -> list[nn.Module]:
    conv = nn.Conv2d(
        inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False
    )
    return [conv, nn.BatchNorm2d(outputs)]


class _Sum(nn.Module):
    """Two branches of one input, added up."""

    def __init__(self, body: nn.Module, skip: nn.Module, after: nn.Module):
        super().__init__()
        self.body, self.skip, self.after = body, skip, after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(self.body(x) + self.skip(x))


def _block(inputs, outputs, stride, act):
    body = [*conv_norm(inputs, outputs, stride), act(), *conv_norm(outputs, outputs)]
    skip = [] if inputs == outputs else conv_norm(inputs, outputs, stride, kernel=1)
    return _Sum(nn.Sequential(*body), nn.Sequential(*skip), act())


def _resnet(blocks, widths, channels, act, classes):
    layers = [*conv_norm(channels, widths[0]), act()]
    inputs = widths[0]
    for stage, (count, width) in enumerate(zip(blocks, widths, strict=True)):
        for i in range(count):
            layers.append(_block(inputs, width, 2 if stage and not i else 1, act))
            inputs = width
    return nn.Sequential(*layers, *_averaged(inputs, classes))


def _small(channels, act, classes):
    layers = [nn.Conv2d(channels, 8, 3, padding=1), act(), *conv_norm(8, 16), act()]
    layers += [nn.AvgPool2d(2), nn.Conv2d(16, 16, 3, padding=1), act()]
    # Sizes of the classifier follow from the first image.
    return nn.Sequential(*layers, nn.AvgPool2d(2), nn.Flatten(), nn.LazyLinear(classes))


def _vgg16(channels, act, classes):
    layers, inputs = [], channels
    for stage in VGG16:
        for width in stage:
            layers += [*conv_norm(inputs, width), act()]
            inputs = width
        layers.append(nn.AvgPool2d(2))
    layers += [nn.Flatten(), nn.Linear(inputs, 4096), act(), nn.Linear(4096, 4096)]
    return nn.Sequential(*layers, act(), nn.Linear(4096, classes))


def _mobilenetv2(channels, act, classes):
    layers, inputs = [*conv_norm(channels, 32), act()], 32
    for number, stage in enumerate(MOBILENET_V2):
        for i in range(stage.blocks):
            # Stem and second stage at full resolution: the form for small images.
            stride = stage.strides if number > 1 and not i else 1
            layers.append(_inverted(inputs, stage, stride, act))
            inputs = stage.features
    layers += [*conv_norm(inputs, 1280, kernel=1), act()]
    return nn.Sequential(*layers, *_averaged(1280, classes))


def _inverted(inputs, stage, stride, act):
    hidden, body = stage.expansion * inputs, []
    if stage.expansion > 1:
        body += [*conv_norm(inputs, hidden, kernel=1), act()]
    body += [*conv_norm(hidden, hidden, stride, groups=hidden), act()]
    body = nn.Sequential(*body, *conv_norm(hidden, stage.features, kernel=1))
    if stride == 1 and inputs == stage.features:
        return _Sum(body, nn.Identity(), nn.Identity())
    return body


def _averaged(features, classes):
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, classes)]
