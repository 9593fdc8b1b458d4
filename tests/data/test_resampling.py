"""Resized windows: the filter of Pillow, rounded once."""

import numpy as np
import pytest
from PIL import Image

from bitsnn_jax.data.resampling import resized

# Smaller and larger than the result in one direction or both, in one or three colours.
SHAPES = [(27, 36, 3), (9, 7, 3), (5, 70, 1), (1, 1, 3), (22, 22, 1), (300, 3, 3)]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_resized_window_is_that_of_pillow_to_one_rounding(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    plain = image if shape[-1] == 3 else image[..., 0]
    expected = Image.fromarray(plain).resize((22, 22), Image.Resampling.BILINEAR)
    got = resized(image, size=22)
    assert got.shape == (22, 22, shape[-1]) and got.dtype == np.uint8
    # Pillow rounds rows before columns, by half a level each time.
    assert np.abs(got.squeeze() - np.asarray(expected, int)).max() <= 1
    mirrored = resized(image, size=22, mirrored=True)
    np.testing.assert_array_equal(mirrored, got[:, ::-1])


def test_one_colour_stays_that_colour():
    for level in range(256):
        image = np.full((13, 9, 3), level, np.uint8)
        assert (resized(image, size=5) == level).all()
