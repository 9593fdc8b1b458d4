"""AutoAugment (Cubuk et al., CVPR 2019): the policy that was found on CIFAR-10.

The policy is a table of 25 sub-policies, those of the paper's appendix. One is drawn
for an image, and each of its two operations is applied with a probability of its own.
Strengths are those of torchvision and of DeepVoltaire's code, with which QCFS networks
have been trained: level 9 is the end of the paper's range for the operation, and the
150 pixels of a translation are a fraction of an image of 331. Differs from the code of
AutoAugment's authors: there level 10 is the end, translations reach 9 pixels (not 14 of
32), and 95 sub-policies are drawn from.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import ImageEnhance, ImageOps
from PIL.Image import Image, Resampling, Transform

# (operation, probability, level 0..9) twice; None for operations without a strength.
POLICY = (
    (("invert", 0.1, None), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.5, None), ("equalize", 0.9, None)),
    (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
    (("color", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, None), ("equalize", 0.5, None)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("color", 0.7, 7), ("translate_x", 0.5, 8)),
    (("equalize", 0.3, None), ("autocontrast", 0.4, None)),
    (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("color", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, None)),
    (("equalize", 0.2, None), ("autocontrast", 0.6, None)),
    (("equalize", 0.2, None), ("equalize", 0.6, None)),
    (("color", 0.9, 9), ("equalize", 0.6, None)),
    (("autocontrast", 0.8, None), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("color", 0.7, 0)),
    (("solarize", 0.4, 5), ("autocontrast", 0.9, None)),
    (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.9, None), ("solarize", 0.8, 3)),
    (("equalize", 0.8, None), ("invert", 0.1, None)),
    (("translate_y", 0.7, 9), ("autocontrast", 0.9, None)),
)


class Operation(NamedTuple):
    """A change of a picture, and what the levels 0 to 9 mean for it, linearly."""

    change: Callable[[Image, float, tuple[int, ...]], Image]
    level_0: float = 0.0  # changes nothing, where there are levels
    level_9: float = 0.0
    signed: bool = False  # the strength is negated half of the time

    def strength(self, level: int | None) -> float:
        return self.level_0 + (self.level_9 - self.level_0) * (level or 0) / 9


def autoaugment(
    picture: Image, rng: np.random.Generator, *, blank: tuple[int, ...]
) -> Image:
    """Change the picture by a sub-policy drawn from `POLICY`.

    A grey picture is changed as a coloured one with three equal channels would be: its
    saturation is left as it is. Geometric operations take the nearest pixel and cut
    translations to whole pixels, as torchvision's.

    Args:
      picture: of mode L or RGB, 0 is black and 255 white.
      rng: drawn from equally often whatever happens to the picture.
      blank: for each channel, the colour of what moves in from outside the picture.
    """
    for name, strength in draw(rng):
        picture = OPERATIONS[name].change(picture, strength, blank)
    return picture


def draw(rng: np.random.Generator) -> list[tuple[str, float]]:
    """Draw names and strengths of none, one or two operations to apply in turn."""
    subpolicy = POLICY[rng.integers(len(POLICY))]
    drawn = []
    for (name, probability, level), (chance, sign) in zip(
        subpolicy, rng.random((2, 2)), strict=True
    ):
        strength = OPERATIONS[name].strength(level)
        if chance < probability:
            negated = OPERATIONS[name].signed and sign < 0.5
            drawn.append((name, -strength if negated else strength))
    return drawn


def _moved(picture, matrix, blank):
    """Take pixel (x, y) from (a x + b y + c, d x + e y + f)."""
    return picture.transform(
        picture.size, Transform.AFFINE, matrix, Resampling.NEAREST, fillcolor=blank
    )


def _shear_y(picture, slope, blank):
    return _moved(picture, (1, 0, 0, slope, 1, 0), blank)


def _translate_x(picture, fraction, blank):
    return _moved(picture, (1, 0, int(fraction * picture.width), 0, 1, 0), blank)


def _translate_y(picture, fraction, blank):
    return _moved(picture, (1, 0, 0, 0, 1, int(fraction * picture.height)), blank)


def _rotate(picture, degrees, blank):
    return picture.rotate(degrees, Resampling.NEAREST, fillcolor=blank)


def _enhance(enhancer):
    return lambda picture, by, blank: enhancer(picture).enhance(1 + by)


def _posterize(picture, bits, blank):
    return ImageOps.posterize(picture, round(bits))


def _solarize(picture, threshold, blank):
    # Pixels that are not below the threshold are inverted, hence the rounding.
    return ImageOps.solarize(picture, math.ceil(threshold))


def _without_strength(change):
    return lambda picture, strength, blank: change(picture)


OPERATIONS = {
    "shear_y": Operation(_shear_y, level_9=0.3, signed=True),
    "translate_x": Operation(_translate_x, level_9=150 / 331, signed=True),
    "translate_y": Operation(_translate_y, level_9=150 / 331, signed=True),
    "rotate": Operation(_rotate, level_9=30, signed=True),
    "color": Operation(_enhance(ImageEnhance.Color), level_9=0.9, signed=True),
    "contrast": Operation(_enhance(ImageEnhance.Contrast), level_9=0.9, signed=True),
    "brightness": Operation(
        _enhance(ImageEnhance.Brightness), level_9=0.9, signed=True
    ),
    "sharpness": Operation(_enhance(ImageEnhance.Sharpness), level_9=0.9, signed=True),
    "posterize": Operation(_posterize, level_0=8, level_9=4),
    "solarize": Operation(_solarize, level_0=256, level_9=0),
    "autocontrast": Operation(_without_strength(ImageOps.autocontrast)),
    "equalize": Operation(_without_strength(ImageOps.equalize)),
    "invert": Operation(_without_strength(ImageOps.invert)),
}
