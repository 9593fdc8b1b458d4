"""JPEG and PNG to pixels."""

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image


class Unreadable(ValueError):
    """The content of an image is damaged."""


def decode(content: bytes, *, channels: int, place: str) -> UInt8[np.ndarray, "h w c"]:
    """An encoded image as 8-bit grey (1 channel) or RGB (3), whatever it was.

    Palettes are looked up, CMYK is converted, transparency is dropped, and of 16 bits
    the upper 8 are kept. The pixels lie as they are stored: a rotation that EXIF asks
    for is not done, as in torchvision and TensorFlow, for which most weights were made.

    Args:
      content: of a file in any format that Pillow knows.
      channels: 1 or 3.
      place: where it comes from, for the message.

    Raises:
      Unreadable: damaged or truncated content, with its place.

    >>> file = io.BytesIO()
    >>> Image.new("L", (3, 2), 7).save(file, "PNG")
    >>> decode(file.getvalue(), channels=3, place="here").shape
    (2, 3, 3)
    """
    try:
        image = Image.open(io.BytesIO(content))
        if image.mode.startswith("I;16"):  # which Pillow would clip at 255
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    except Exception as error:  # decoders raise whatever the damage makes of them
        raise Unreadable(
            f"{place}: expected a whole image, got {len(content)} bytes that cannot be "
            'decoded; mend or delete it, or set data.unreadable="skip"'
        ) from error
    return pixels.reshape(*pixels.shape[:2], channels)
