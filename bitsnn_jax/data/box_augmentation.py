"""How a picture with boxes is brought to its size and, in training, changed at random.

A picture is scaled, and what of it falls into a square is kept. The rest of the square,
on the right and at the bottom, has one colour. Boxes move along.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from bitsnn_jax import config
from bitsnn_jax.data.augment import color_jitter, resize

Pixels = UInt8[np.ndarray, "h w c"]
_VISIBLE = 0.25  # share of a box; of less, nothing is to be learnt


class View(NamedTuple):
    """What is seen of a picture.

    Attributes:
      scale: pixels of the view for one of the picture.
      left, top: where the view begins, in pixels of the scaled picture.
      width, height: pixels of it that show the picture.
    """

    scale: float
    left: int
    top: int
    width: int
    height: int

    def pixels(self, image: Pixels) -> Pixels:
        """Return the pixels that are seen, without padding."""
        height, width, _ = image.shape
        corners = (
            self.left / self.scale,
            self.top / self.scale,
            min((self.left + self.width) / self.scale, width),
            min((self.top + self.height) / self.scale, height),
        )
        return resize(image, (self.width, self.height), corners)

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Return boxes in pixels of the view, also what of them is not seen."""
        corner = np.array([self.left, self.top] * 2, np.float32)
        return boxes * np.float32(self.scale) - corner

    def mirrored(self, boxes: np.ndarray) -> np.ndarray:
        """Exchange left and right of boxes in pixels of the view."""
        x0, y0, x1, y1 = boxes.T
        width = np.float32(self.width)
        return np.stack([width - x1, y0, width - x0, y1], axis=1)


def whole_view(height: int, width: int, *, size: int) -> View:
    """Look at all of a picture, its longer side at `size` pixels.

    >>> whole_view(375, 500, size=256)
    View(scale=0.512, left=0, top=0, width=256, height=192)
    """
    scale = size / max(height, width)
    return View(scale, 0, 0, _scaled(width, scale), _scaled(height, scale))


def random_view(
    height: int, width: int, rng: np.random.Generator, *, size: int, jitter: float
) -> View:
    """Scale a picture more or less than that, and look at a random square of it.

    The factor is log-uniform over 1 / (1 + jitter) .. 1 + jitter.
    """
    reach = math.log1p(jitter)
    scale = size / max(height, width) * math.exp(rng.uniform(-reach, reach))
    width, height = _scaled(width, scale), _scaled(height, scale)
    left, top = (int(rng.integers(max(n - size, 0) + 1)) for n in (width, height))
    return View(scale, left, top, min(width, size), min(height, size))


def fit_boxes(
    example: Mapping[str, Any], *, size: int, most: int, blank: Sequence[int]
) -> dict[str, Any]:
    """Return the row of one example for evaluation: all of it, longer side at `size`.

    Args:
      example: of `BoxedPictures`.
      size: side of the network's input.
      most: boxes that a row has place for.
      blank: the pixel beside the picture.

    Returns:
      {"image": uint8 [size, size, c], "boxes": float32 [most, 4], "classes": int32
      [most], -1 where there is no box, "crowd": bool [most], "area": float32 [most],
      "scale": float32, "id": int32}. Boxes are in pixels of the input; divided by
      `scale`, they are in those of the picture, as areas are.
    """
    image = example["image"]
    height, width, _ = image.shape
    view = whole_view(height, width, size=size)
    found = {**example, "boxes": view.boxes(example["boxes"])}
    return _row(view.pixels(image), found, view.scale, size, most, blank)


def fit_unread(
    truth: Mapping[str, Any],
    shape: tuple[int, int],
    *,
    size: int,
    most: int,
    blank: Sequence[int],
) -> dict[str, Any]:
    """Return the row of `fit_boxes` for a picture that is not there: nothing is seen.

    Args:
      truth: an example without its image.
      shape: height and width that the picture should have.
      size, most, blank: as in `fit_boxes`.
    """
    view = whole_view(*shape, size=size)
    found = {**truth, "boxes": view.boxes(truth["boxes"])}
    nothing = np.empty((0, 0, len(blank)), np.uint8)
    return _row(nothing, found, view.scale, size, most, blank)


def augment_boxes(
    example: Mapping[str, Any],
    rng: np.random.Generator,
    *,
    settings: config.Data,
    most: int,
    blank: Sequence[int],
) -> dict[str, Any]:
    """Return the row of one example for training, changed as `settings` asks.

        scale_jitter -> flip -> color_jitter

    Boxes are clipped to what is seen. One of which less than a quarter is seen, or less
    than a pixel of width or height, becomes a crowd: it counts as no object, and its
    place as no background.

    Args:
      example: of `BoxedPictures`; it stays as it is.
      rng: the same state gives the same bits.
      settings: `image_size`, `scale_jitter`, `flip` and `color_jitter` are read.
      most, blank: as in `fit_boxes`.

    Returns:
      What `fit_boxes` returns.
    """
    image, size = example["image"], settings.image_size
    height, width, _ = image.shape
    view = whole_view(height, width, size=size)
    if jitter := settings.scale_jitter:
        view = random_view(height, width, rng, size=size, jitter=jitter)
    pixels, boxes = view.pixels(image), view.boxes(example["boxes"])
    if settings.flip and rng.random() < 0.5:
        pixels, boxes = pixels[:, ::-1], view.mirrored(boxes)
    if settings.color_jitter:
        pixels = color_jitter(pixels, rng, strength=settings.color_jitter)
    found = _clipped({**example, "boxes": boxes}, view)
    return _row(pixels, found, view.scale, size, most, blank)


def _scaled(length, scale):
    # Down to whole pixels, so that all of them have the same scale; 512 / 3 * 3 is 512.
    return max(1, math.floor(length * scale + 1e-6))


def _clipped(example, view):
    """Clip boxes to a view, and leave out those that lie outside."""
    whole = example["boxes"]
    corner = np.array([view.width, view.height] * 2, np.float32)
    boxes = np.clip(whole, 0, corner)
    sides, before = (ends[:, 2:] - ends[:, :2] for ends in (boxes, whole))
    seen = (sides > 0).all(1)
    hardly = (sides.prod(1) < _VISIBLE * before.prod(1)) | (sides < 1).any(1)
    found = {**example, "boxes": boxes, "crowd": example["crowd"] | hardly}
    return found | {
        name: found[name][seen] for name in ("boxes", "classes", "crowd", "area")
    }


def _row(pixels, found, scale, size, most, blank):
    """Give everything its fixed shape."""
    height, width, channels = pixels.shape
    image = np.empty((size, size, channels), np.uint8)
    image[:] = np.array(blank, np.uint8)
    image[:height, :width] = pixels
    return {
        "image": image,
        "boxes": _filled(found["boxes"], most, 0),
        "classes": _filled(found["classes"], most, -1),
        "crowd": _filled(found["crowd"], most, False),
        "area": _filled(found["area"], most, 0),
        "scale": np.float32(scale),
        "id": found["id"],
    }


def _filled(array, most, value):
    out = np.full((most, *array.shape[1:]), value, array.dtype)
    out[: len(array)] = array
    return out
