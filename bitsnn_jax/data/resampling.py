"""Windows of pictures brought to their size, for training: faster than by Pillow.

The filter is Pillow's bilinear one, a triangle over as many pixels as fall together.
Columns and rows are products with sparse matrices, in float32, rounded once. Pillow
rounds in between too, so that a pixel may differ by one.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from scipy.sparse import csr_array


def resized(
    image: UInt8[np.ndarray, "h w c"], *, size: int, mirrored: bool = False
) -> UInt8[np.ndarray, "size size c"]:
    """Resize to size x size pixels.

    Args:
      image: 1 or 3 channels.
      size: of the result, in pixels.
      mirrored: left and right are exchanged.

    >>> resized(np.full((5, 9, 3), 7, np.uint8), size=2)[..., 0]
    array([[7, 7],
           [7, 7]], dtype=uint8)
    """
    height, width, channels = image.shape
    rows = image.astype(np.float32).reshape(height, width * channels)
    rows = _weights(height, size) @ rows
    columns = np.empty((width, size), f"V{4 * channels}")
    columns.T[...] = rows.view(columns.dtype)
    columns = columns.view(np.float32)
    turned = _weights(width, size) @ columns  # [x, y c]
    turned += 0.5
    pixels = turned.astype(np.uint8).reshape(size, size, channels)
    # Back by Pillow, since NumPy takes several times as long.
    picture = Image.fromarray(pixels if channels == 3 else pixels[..., 0])
    back = Image.Transpose.ROTATE_270 if mirrored else Image.Transpose.TRANSPOSE
    return np.asarray(picture.transpose(back)).reshape(size, size, channels)


@lru_cache(maxsize=512)
def _weights(length, size):
    """Return what each of `size` pixels takes of each of `length`."""
    step = length / size
    reach = max(step, 1.0)  # of the triangle, to either side
    centre = (np.arange(size) + 0.5)[:, None] * step
    first = np.maximum(centre - reach + 0.5, 0).astype(np.int32)
    last = np.minimum(centre + reach + 0.5, length).astype(np.int32)
    taken = first + np.arange((last - first).max(), dtype=np.int32)
    weights = np.maximum(1 - np.abs(taken + 0.5 - centre) / reach, 0) * (taken < last)
    weights /= weights.sum(1, keepdims=True)
    starts = np.arange(size + 1, dtype=np.int32) * taken.shape[1]
    columns = np.minimum(taken, length - 1).ravel()
    return csr_array(
        (weights.astype(np.float32).ravel(), columns, starts), shape=(size, length)
    )
