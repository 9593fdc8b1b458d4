"""Random changes to one training image; arrays in, arrays out."""

import numpy as np
from jaxtyping import UInt8


def random_crop(
    image: UInt8[np.ndarray, "h w c"], rng: np.random.Generator, *, padding: int
) -> UInt8[np.ndarray, "h w c"]:
    """A window of the image's own size, from the image framed in black.

    The frame is black before normalisation (pixel 0), as in the common CIFAR recipe,
    and not the mean: pixels stay 8-bit integers. Each of the (2 padding + 1)^2 windows
    is equally likely.
    """
    height, width, channels = image.shape
    framed = np.zeros(
        (height + 2 * padding, width + 2 * padding, channels), image.dtype
    )
    framed[padding : padding + height, padding : padding + width] = image
    top, left = rng.integers(2 * padding + 1, size=2)
    return framed[top : top + height, left : left + width]


def random_flip(
    image: UInt8[np.ndarray, "h w c"], rng: np.random.Generator
) -> UInt8[np.ndarray, "h w c"]:
    """The image or, half of the time, its mirror image (left and right exchanged)."""
    return image[:, ::-1] if rng.random() < 0.5 else image


def augment(example: dict, rng: np.random.Generator, *, crop: int, flip: bool) -> dict:
    """One example, its image cropped (`crop` > 0) and flipped (`flip`) at random."""
    image = example["image"]
    if crop:
        image = random_crop(image, rng, padding=crop)
    if flip:
        image = random_flip(image, rng)
    return {**example, "image": image}
