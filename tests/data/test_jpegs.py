"""Ordinary JPEGs are decoded without Pillow, to its pixels; faults are left to it."""

import io
from itertools import product

import numpy as np
import pytest
from pictures import encoded
from PIL import Image

from bitsnn_jax.data import images
from bitsnn_jax.data.images import Unreadable, decode

SUBSAMPLING = (0, 1, 2)  # 4:4:4, 4:2:2, 4:2:0
SIZES = ((1, 1), (15, 17), (64, 48), (33, 7))


def picture(width, height, mode="RGB"):
    """Noise that is smooth enough for colours to be interpolated."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    smooth = Image.Resampling.BICUBIC
    return Image.fromarray(noise).resize((width, height), smooth).convert(mode)


def by_pillow(content, channels):
    image = Image.open(io.BytesIO(content)).convert("L" if channels == 1 else "RGB")
    return np.asarray(image).reshape(image.height, image.width, channels)


def refuse(*_, **__):
    raise AssertionError("Pillow was asked")


def test_an_ordinary_jpeg_has_the_pixels_of_pillow_and_does_not_need_it(monkeypatch):
    contents = [
        encoded(
            picture(*size),
            "JPEG",
            subsampling=subsampling,
            quality=quality,
            progressive=progressive,
            restart_marker_blocks=restart,
        )
        for size, subsampling, quality, progressive, restart in product(
            SIZES, SUBSAMPLING, (30, 95), (False, True), (0, 3)
        )
    ]
    contents += [encoded(picture(*size, mode="L"), "JPEG") for size in SIZES]
    expected = [by_pillow(content, 3) for content in contents]
    grey = [by_pillow(content, 1) for content in contents[-len(SIZES) :]]
    monkeypatch.setattr(Image, "open", refuse)
    for content, pixels in zip(contents, expected, strict=True):
        got = decode(content, channels=3, place="")
        np.testing.assert_array_equal(got, pixels, strict=True)
    for content, pixels in zip(contents[-len(SIZES) :], grey, strict=True):
        got = decode(content, channels=1, place="")
        np.testing.assert_array_equal(got, pixels, strict=True)


@pytest.mark.parametrize("channels", [1, 3])
def test_of_other_jpegs_the_pixels_are_those_of_pillow(channels):
    cmyk = encoded(picture(31, 20, mode="CMYK"), "JPEG")
    colours = encoded(picture(31, 20), "JPEG", keep_rgb=True)
    for content in (cmyk, colours, encoded(picture(31, 20), "JPEG")):
        got = decode(content, channels=channels, place="")
        np.testing.assert_array_equal(got, by_pillow(content, channels), strict=True)


def outcome(content):
    try:
        return decode(content, channels=3, place="here").tolist()
    except Unreadable as error:
        return str(error)


def test_of_a_damaged_jpeg_is_said_what_pillow_says(monkeypatch):
    rng = np.random.default_rng(0)
    whole = encoded(picture(40, 30), "JPEG")
    damaged = [whole[: int(n)] for n in rng.integers(2, len(whole), 20)]
    damaged += [whole[:-2], whole + b"\xff\xda" * 200, whole[:-2] + whole]
    for count in (1, 4, 16):
        for _ in range(20):
            content = bytearray(whole)
            for at in rng.integers(2, len(whole), count):
                content[at] = rng.integers(256)
            damaged.append(bytes(content))
    found = [outcome(content) for content in damaged]
    monkeypatch.setattr(images, "_ordinary_jpeg", lambda *_: None)
    assert found == [outcome(content) for content in damaged]
    assert 10 < sum(isinstance(each, str) for each in found) < len(found) - 10
