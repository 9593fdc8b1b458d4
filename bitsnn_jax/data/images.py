"""Encoded pictures to pixels: the one place where they are read and decoded.

Ordinary JPEGs are decoded by simplejpeg, to the pixels that Pillow gives. Pillow
decodes, or refuses, all others.
"""

import io
import os
import threading
import warnings
from contextlib import nullcontext

import numpy as np
import simplejpeg
from jaxtyping import UInt8

# Two that Pillow would look for among all others, Ghostscript's included.
from PIL import Image, TiffImagePlugin, WebPImagePlugin  # noqa: F401

# By content, whatever the name: of an EPS in a .png Pillow would start Ghostscript.
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
# Larger ones are no examples, but cost a gigabyte: a camera makes 50 million pixels.
MAX_PIXELS, MAX_SIDE, MAX_BYTES = 2**26, 2**16 - 1, 2**28
# A progressive JPEG has 10, of which each is as long as the picture, however small.
MAX_SCANS = 100
_SCAN, _ALONE = b"\xff\xda", b"\0\1\xff\xd0\xd1\xd2\xd3\xd4\xd5\xd6\xd7"
_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK")
_MODES += ("YCbCr", "LAB", "HSV")
_BAND = 2**22  # pixels that are converted at once
_ONE_BY_ONE = threading.Lock()  # images of more, of which each takes up to 470 MB

# Ours is the lower limit, and an error.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class Unreadable(ValueError):
    """The content of an image is damaged, or more than an example can be."""

    @classmethod
    def because(cls, place: str | os.PathLike[str], found: str) -> "Unreadable":
        return cls(
            f"{place}: expected a whole image, got {found}; mend or delete it, or set "
            'data.unreadable="skip"'
        )


def read(path: str | os.PathLike[str]) -> bytes:
    """Read the content of an image file.

    Raises:
      Unreadable: more than `MAX_BYTES`.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_BYTES:
            raise Unreadable.because(path, f"{size} bytes, the limit is {MAX_BYTES}")
        return file.read()


def decode(content: bytes, *, channels: int, place: str) -> UInt8[np.ndarray, "h w c"]:
    """Decode an image as 8-bit grey (1 channel) or RGB (3), whatever it was.

    Palettes are looked up, CMYK is converted, transparency is dropped, and of 16 bits
    the upper 8 are kept. The pixels lie as they are stored: a rotation that EXIF asks
    for is not done, as in torchvision and TensorFlow, for which most weights were made.

    Args:
      content: of a file in one of `FORMATS`.
      channels: 1 or 3.
      place: where it comes from, for the message.

    Raises:
      Unreadable: damaged or truncated content, another format, more pixels than
        `MAX_PIXELS`, sides longer than `MAX_SIDE`, or numbers whose white is unknown;
        with its place.

    >>> file = io.BytesIO()
    >>> Image.new("L", (3, 2), 7).save(file, "PNG")
    >>> decode(file.getvalue(), channels=3, place="here").shape
    (2, 3, 3)
    """
    pixels = _ordinary_jpeg(content, channels)
    return _by_pillow(content, channels, place) if pixels is None else pixels


def _ordinary_jpeg(content, channels):
    """Decode a JPEG without a fault and without Pillow; None for anything else.

    It takes two thirds of Pillow's time. Both have libjpeg-turbo inside, which is asked
    for the same: the exact DCT, and colours that are interpolated. Here its warnings
    are errors, so that a file with a fault is left to Pillow.
    """
    if not content.startswith(b"\xff\xd8\xff"):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        ordinary = ("Gray",) if channels == 1 else ("YCbCr", "Gray")
        pixels = int(height) * int(width)
        if colours not in ordinary or pixels > MAX_PIXELS or _many(content):
            return None
        with _room(pixels):
            into = "GRAY" if channels == 1 else "RGB"
            return simplejpeg.decode_jpeg(content, into, strict=True)
    except ValueError:
        return None


def _room(pixels):
    """Wait until an image of so many pixels may take its memory."""
    return nullcontext() if pixels <= _BAND else _ONE_BY_ONE


def _many(content):
    """Tell whether there may be more scans than the limit, fast."""
    bytes_ = np.frombuffer(content, np.uint8)
    found = (bytes_[:-1] == _SCAN[0]) & (bytes_[1:] == _SCAN[1])
    return np.count_nonzero(found) > MAX_SCANS


def _by_pillow(content, channels, place):
    size, cause = f"{len(content)} bytes", None
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        _check_header(image, content)
        with _room(image.width * image.height):
            return _pixels(image, "L" if channels == 1 else "RGB")
    except _Refused as refusal:
        found = str(refusal)
    except Image.UnidentifiedImageError:
        found = f"{size} that cannot be decoded as any of {', '.join(FORMATS)}"
    except Image.DecompressionBombError:
        found = f"more than the {MAX_PIXELS} pixels that are the limit"
    except Exception as error:  # decoders raise whatever the damage makes of them
        found, cause = f"{size} that cannot be decoded", error
    raise Unreadable.because(place, found) from cause


class _Refused(ValueError):
    pass


def _check_header(image, content):
    """Refuse what is too large or unknown, before anything is decoded."""
    width, height = image.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise _Refused(
            f"{width} x {height} pixels, the limits are {MAX_PIXELS} in all and "
            f"{MAX_SIDE} a side"
        )
    scans = content.count(_SCAN) if image.format in ("JPEG", "MPO") else 0
    if scans > MAX_SCANS and (scans := _scans(content)) > MAX_SCANS:
        raise _Refused(f"a JPEG of {scans} scans, the limit is {MAX_SCANS}")
    if image.mode not in _MODES and not _sixteen_bits(image):
        raise _Refused(f"pixels of Pillow's mode {image.mode}, whose white is unknown")


def _scans(content):
    """Count the scans of a JPEG's first image; behind its end there may be a film."""
    at, scans = 2, 0
    while (at := content.find(b"\xff", at)) >= 0:
        marker = content[at : at + 2]
        if marker == b"\xff\xd9":
            break
        scans += marker == _SCAN
        # A zero, a restart or another 0xff is no head of a segment, which has a length.
        alone = marker[1:] in _ALONE
        at += 1 if alone else 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return scans


def _sixteen_bits(image):
    """Tell whether it has one channel of 16 bits, white the largest number."""
    if image.format == "TIFF":
        # Pillow widens 12 bits as they are, and turns nothing round.
        bits, white_is_zero = image.tag_v2.get(258), image.tag_v2.get(262) == 0
        return image.mode.startswith("I;16") and bits == (16,) and not white_is_zero
    return image.mode == "I" or image.mode.startswith("I;16")


def _pixels(image, mode):
    """Return pixels as uint8 [h, w, c], converted in bands to save memory."""
    image.load()
    image.info.pop("transparency", None)  # of which Pillow would warn that it goes
    width, height = image.size
    out = np.empty((height, width, len(mode)), np.uint8)
    rows = max(1, _BAND // width)
    for top in range(0, height, rows):
        whole = rows >= height
        band = image if whole else image.crop((0, top, width, min(top + rows, height)))
        if band.mode.startswith("I"):  # 16 bits, which Pillow would clip at 255
            band = Image.fromarray((np.asarray(band) >> 8).astype(np.uint8))
        if band.mode != mode:
            band = band.convert(mode)
        out[top : top + rows] = np.asarray(band).reshape(-1, width, len(mode))
    return out
