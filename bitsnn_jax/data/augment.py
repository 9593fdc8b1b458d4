"""How an image is brought to its size and, in training, changed at random.

Arrays in, arrays out, 8-bit all the way; Pillow moves the pixels. Nothing is drawn from
a generator for a change that is off.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance

from bitsnn_jax import config
from bitsnn_jax.data.autoaugment import autoaugment
from bitsnn_jax.data.resampling import resized

Pixels = UInt8[np.ndarray, "h w c"]
_AREA = 0.08, 1.0  # of a window, as a part of the image
_ASPECT = 3 / 4, 4 / 3  # its width by its height
_LARGE = 2**24  # values, of which there is no further copy at once
_WHOLE = 2**24  # pixels that are resized as a whole, of which the middle is kept


def augment(
    example: dict,
    rng: np.random.Generator,
    *,
    settings: config.Data,
    blank: int | Sequence[int] = 128,
) -> dict:
    """Change the image of one example as `settings` asks, in the order of its fields.

        size -> crop -> flip -> AutoAugment -> colour jitter -> Cutout

    Args:
      example: `image`, uint8 [h, w, c], is read and left as it is.
      rng: the same state gives the same bits.
      settings: what to do; `image_size` without `random_resized_crop` is the view of
        `resize_and_crop`.
      blank: the pixel, one for all channels or one for each, that AutoAugment moves in
        and Cutout paints with. In the code of both papers it is 0 after normalisation:
        pass the mean colour of the data. Mid-grey is near it for photographs.

    Returns:
      The example with an image of 8-bit pixels; all else is as it was.

    Raises:
      ValueError: resizing or a change of colour for other than 1 or 3 channels.

    >>> black = {"image": np.zeros((6, 9, 1), np.uint8), "label": 3}
    >>> rng = np.random.default_rng(0)
    >>> settings = config.Data(image_size=2, flip=True, cutout=4)
    >>> augment(black, rng, settings=settings)["image"][..., 0]
    array([[128, 128],
           [128, 128]], dtype=uint8)
    """
    image, size = example["image"], settings.image_size
    flip, crop = settings.flip, settings.crop
    if settings.random_resized_crop:
        window = random_window(image.shape[0], image.shape[1], rng)
        mirrored = flip and not crop and _heads(rng)  # cheaper here than below
        image = _window_resized(image, window, size, mirrored=mirrored)
        flip = flip and crop
    elif size:
        image = resize_and_crop(image, size=size)
    if crop:
        image = random_crop(image, rng, padding=crop)
    if flip:
        image = random_flip(image, rng)
    if settings.autoaugment:
        colour = tuple(np.broadcast_to(blank, image.shape[-1:]).tolist())
        image = _pixels(autoaugment(_picture(image), rng, blank=colour))
    if settings.color_jitter:
        image = color_jitter(image, rng, strength=settings.color_jitter)
    if settings.cutout:
        image = cutout(image, rng, side=settings.cutout, blank=blank)
    return {**example, "image": image}


def resize_and_crop(image: Pixels, *, size: int) -> UInt8[np.ndarray, "size size c"]:
    """Cut out the middle of an image: the view to evaluate on.

    The shorter side is brought to size * 256 / 224, rounded, and the other in
    proportion, rounded down; then the centre is cropped. Bilinear, over as many pixels
    as fall together. As torchvision's `Resize(256)` and `CenterCrop(224)`; only of an
    image so long that more than 2**24 pixels would be thrown away, nothing but the
    middle is resized, which may round another way.

    Args:
      image: of any height and width, 1 or 3 channels.
      size: of the result, in pixels.

    >>> resize_and_crop(np.zeros((375, 500, 3), np.uint8), size=224).shape
    (224, 224, 3)
    """
    height, width, _ = image.shape
    shorter = round(size * 256 / 224)
    wide, high = (int(shorter * n / min(height, width)) for n in (width, height))
    scaled = wide, high
    left, top = (round((n - size) / 2) for n in scaled)
    if math.prod(scaled) > _WHOLE:
        x, y = width / scaled[0], height / scaled[1]  # pixels of the image for one
        middle = left * x, top * y, (left + size) * x, (top + size) * y
        return resize(image, (size, size), middle)
    return resize(image, scaled)[top : top + size, left : left + size]


def random_resized_crop(
    image: Pixels, rng: np.random.Generator, *, size: int
) -> UInt8[np.ndarray, "size size c"]:
    """Scale a `random_window` of the image to size x size pixels, by `resized`."""
    window = random_window(image.shape[0], image.shape[1], rng)
    return _window_resized(image, window, size)


def random_window(
    height: int, width: int, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draw top, left, height and width of the window of Szegedy et al. (2015).

    Its area is uniform over 8 to 100 % of the image's, its aspect log-uniform over 3/4
    to 4/3, its place uniform. Drawn up to ten times until it fits into the image; then,
    as in torchvision, the largest window in the middle that has an allowed aspect.
    """
    low, high = np.log(_ASPECT)
    for _ in range(10):
        area = height * width * rng.uniform(*_AREA)
        aspect = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
            return int(top), int(left), h, w
    w = min(width, round(height * _ASPECT[1]))
    h = min(height, round(width / _ASPECT[0]))
    return (height - h) // 2, (width - w) // 2, h, w


def random_crop(image: Pixels, rng: np.random.Generator, *, padding: int) -> Pixels:
    """Cut a window of the image's own size from the image framed in black.

    The frame is black before normalisation (pixel 0), as in the common CIFAR recipe,
    and not the mean. Each of the (2 padding + 1)^2 windows is equally likely.
    """
    height, width, channels = image.shape
    framed = np.zeros(
        (height + 2 * padding, width + 2 * padding, channels), image.dtype
    )
    framed[padding : padding + height, padding : padding + width] = image
    top, left = rng.integers(2 * padding + 1, size=2)
    return framed[top : top + height, left : left + width]


def random_flip(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Return the image or, half of the time, its mirror image (left and right)."""
    return image[:, ::-1] if _heads(rng) else image


def color_jitter(image: Pixels, rng: np.random.Generator, *, strength: float) -> Pixels:
    """Change brightness, contrast and saturation in a random order.

    Each by a factor uniform in [1 - strength, 1 + strength]: 0 is black, the image's
    mean grey, or its shades of grey; 1 is the image as it is. A grey image has no
    saturation to change. As torchvision's `ColorJitter`, without hue.
    """
    picture = _picture(image)
    factors = rng.uniform(1 - strength, 1 + strength, size=3)
    for i in rng.permutation(3):
        picture = _JITTERED[i](picture).enhance(factors[i])
    return _pixels(picture)


_JITTERED = ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color


def cutout(
    image: Pixels,
    rng: np.random.Generator,
    *,
    side: int,
    blank: int | Sequence[int] = 128,
) -> Pixels:
    """Paint over a square of `side` pixels (DeVries and Taylor, 2017).

    The square's centre is uniform over the pixels, so that it may hang over the edges.
    Differs from their code where `side` is odd: the square is not a pixel smaller.
    """
    height, width, _ = image.shape
    # An even square has no pixel in its middle: the one right of and below it counts.
    top, left = (int(rng.integers(n)) - side // 2 for n in (height, width))
    image = image.copy()
    image[max(top, 0) : top + side, max(left, 0) : left + side] = blank
    return image


def _heads(rng):
    return rng.random() < 0.5


def _window_resized(image, window, size, *, mirrored=False):
    top, left, height, width = window
    inside = image[top : top + height, left : left + width]
    if inside.size <= _LARGE:
        _check_channels(image)
        return resized(inside, size=size, mirrored=mirrored)
    whole = resize(inside, (size, size))
    return whole[:, ::-1] if mirrored else whole


def resize(
    image: Pixels,
    size: tuple[int, int],
    box: tuple[float, float, float, float] | None = None,
) -> Pixels:
    """Resize as Pillow does: bilinear, over as many pixels as fall together.

    Args:
      image: of any height and width, 1 or 3 channels.
      size: of the result: width and height.
      box: the part to take, x0, y0, x1, y1 in pixels; by default all.
    """
    bilinear = Image.Resampling.BILINEAR
    if image.size <= _LARGE:
        return _pixels(_picture(image).resize(size, bilinear, box))
    # One channel after the other, for the sake of memory; the same bits.
    channels = [image[..., i : i + 1] for i in range(image.shape[-1])]
    pictures = [_picture(channel).resize(size, bilinear, box) for channel in channels]
    return np.concatenate([_pixels(picture) for picture in pictures], axis=-1)


def _check_channels(image):
    if image.shape[-1] not in (1, 3):
        raise ValueError(
            f"expected an image of 1 or 3 channels, got {image.shape[-1]}: others need "
            f"data.image_size, data.autoaugment and data.color_jitter off"
        )


def _picture(image):
    _check_channels(image)
    return Image.fromarray(image if image.shape[-1] == 3 else image[..., 0])


def _pixels(picture):
    return np.asarray(picture).reshape(picture.height, picture.width, -1)
