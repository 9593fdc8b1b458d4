"""Scenes: several small pictures of objects on one canvas, some in front of others."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8
from PIL import Image
from scipy import ndimage

_DARK = 8  # the brightest pixel of what is around an object
_SPECK = 10  # pixels of a part that is too small to belong to it
_OPAQUE = 0.5  # of a pixel that counts as the object's own
_VISIBLE = 0.5  # share of its pixels that an object shows at least
_PLACES = 20  # that are tried for an object


class Scene(NamedTuple):
    """A picture and what is in it.

    Attributes:
      pixels: grey, uint8.
      boxes: x0, y0, x1, y1 around the pixels of each object that are seen.
      classes: of the objects.
      areas: number of these pixels.
    """

    pixels: UInt8[np.ndarray, "size size"]
    boxes: Int32[np.ndarray, "n 4"]
    classes: Int32[np.ndarray, " n"]
    areas: Int32[np.ndarray, " n"]


class _Cutout(NamedTuple):
    """An object without what was around it, on the smallest rectangle."""

    light: Float32[np.ndarray, "h w"]  # pixels times opacity
    opacity: Float32[np.ndarray, "h w"]

    @property
    def own(self) -> Bool[np.ndarray, "h w"]:
        return self.opacity >= _OPAQUE


class Objects(NamedTuple):
    """Small pictures on black, and their classes."""

    images: UInt8[np.ndarray, "n h w"]
    classes: Int32[np.ndarray, " n"]


def draw_scene(
    objects: Objects,
    rng: np.random.RandomState,
    *,
    size: int,
    count: tuple[int, int],
    scales: tuple[float, float],
) -> Scene:
    """Draw objects on a textured background, each in front of those before it.

    An object lies inside the canvas and shows at least half of its pixels. For one that
    would hide more of another, another place is drawn; after 20 it is left away. So
    every object that can be seen has a box.

    Args:
      objects: to choose from, all equally likely.
      rng: the same state gives the same scene.
      size: of the canvas, in pixels; at least that of the largest object.
      count: fewest and most objects.
      scales: smallest and largest factor of an object's size.
    """
    canvas, owner = _background(rng, size), np.full((size, size), -1)
    classes, totals = [], []
    for _ in range(rng.randint(count[0], count[1] + 1)):
        chosen = rng.randint(len(objects.images))
        cut = _cut_out(objects.images[chosen], rng.uniform(*scales))
        place = _place(cut.own, owner, totals, rng)
        if place is None:
            continue
        canvas[place] = canvas[place] * (1 - cut.opacity) + cut.light
        owner[place][cut.own] = len(totals)
        classes.append(objects.classes[chosen])
        totals.append(np.count_nonzero(cut.own))
    boxes = [_box(owner == i) for i in range(len(totals))]
    return Scene(
        np.rint(canvas).clip(0, 255).astype(np.uint8),
        np.array(boxes, np.int32).reshape(-1, 4),
        np.array(classes, np.int32),
        _seen(owner, len(totals)).astype(np.int32),
    )


def _background(rng, size):
    """Return a grey with soft, larger shades and some noise on every pixel."""
    side = rng.randint(2, 9)
    shades = rng.normal(0, 25, (side, side)).astype(np.float32)
    soft = Image.fromarray(shades).resize((size, size), Image.Resampling.BICUBIC)
    noise = rng.normal(0, rng.uniform(2, 10), (size, size))
    return np.asarray(soft) + noise + rng.uniform(20, 110)


def _cut_out(image, scale) -> _Cutout:
    mask = ndimage.binary_fill_holes(image > _DARK)
    parts, _ = ndimage.label(mask, np.ones((3, 3)))
    large = np.bincount(parts.ravel()) >= _SPECK
    large[0] = False
    opacity = large[parts].astype(np.float32)
    height, width = (max(1, round(n * scale)) for n in image.shape)
    opacity, light = (
        np.asarray(
            Image.fromarray(x).resize((width, height), Image.Resampling.BILINEAR)
        )
        for x in (opacity, image * opacity)
    )
    whole = _Cutout(light, opacity)
    if not whole.own.any():
        return _Cutout(light[:0, :0], opacity[:0, :0])
    x0, y0, x1, y1 = _box(whole.own)
    return _Cutout(*(x[y0:y1, x0:x1] for x in whole))


def _place(own, owner, totals, rng):
    """Find a place where an object hides no other too much; None if there is none."""
    height, width = own.shape
    if not own.any():
        return None
    least = _VISIBLE * np.array(totals)
    for _ in range(_PLACES):
        top = rng.randint(len(owner) - height + 1)
        left = rng.randint(len(owner) - width + 1)
        place = np.s_[top : top + height, left : left + width]
        hidden = _seen(owner[place][own], len(totals))
        if (_seen(owner, len(totals)) - hidden >= least).all():
            return place
    return None


def _seen(owner, count):
    """Count the pixels of each object."""
    return np.bincount(owner.ravel() + 1, minlength=count + 1)[1:]


def _box(own):
    rows, columns = (np.flatnonzero(own.any(axis)) for axis in (1, 0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
