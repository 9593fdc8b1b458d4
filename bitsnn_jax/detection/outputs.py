"""What a network says of each anchor: one array a level, or all of them in a row."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from bitsnn_jax.detection.anchor_grid import ANCHORS_PER_PLACE

Outputs = Mapping[str, Sequence[jax.Array]]


def shapes(outputs: Outputs) -> tuple[tuple[int, int], ...]:
    """Return height and width of each level.

    Args:
      outputs: "boxes", one [n, h, w, 9 * 4] a level.
    """
    return tuple((level.shape[1], level.shape[2]) for level in outputs["boxes"])


def flat(outputs: Outputs) -> tuple[jax.Array, jax.Array]:
    """Join the levels in the order level, row, column, anchor.

    Args:
      outputs: "boxes", one [n, h, w, 9 * 4] a level, and "classes", one
        [n, h, w, 9 * K]. Anchor a of a place owns channels 4 a to 4 a + 3, and K a to
        K a + K - 1.

    Returns:
      Logits [n, A, K] and offsets [n, A, 4].
    """
    return _joined(outputs["classes"]), _joined(outputs["boxes"])


def _joined(levels):
    def rows(level):
        n, height, width, channels = level.shape
        places = height * width * ANCHORS_PER_PLACE
        if channels % ANCHORS_PER_PLACE:
            raise ValueError(
                f"expected channels in {ANCHORS_PER_PLACE} equal parts, one for each "
                f"anchor of a place, got {channels}"
            )
        return level.reshape(n, places, channels // ANCHORS_PER_PLACE)

    return jnp.concatenate([rows(level) for level in levels], axis=1)
