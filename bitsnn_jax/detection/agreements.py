"""How far what two networks find in the same images is apart."""

from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from bitsnn_jax.detection.detections import Detections


class Agreement(NamedTuple):
    """Two networks' detections, compared image by image.

    Attributes:
      unlike: bool [n]; some class has more boxes in one than in the other.
      boxes: [n], the largest distance of a coordinate, in pixels; 0 of unlike images.
      scores: [n], the largest difference of a score; 0 of unlike images.
    """

    unlike: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray


def agreement(one: Detections, other: Detections) -> Agreement:
    """Compare detections, in whatever order they are.

    The boxes of a class are paired so that the sum of distances is least (Kuhn and
    Munkres). The distance of two boxes is the largest of their four coordinates'. No
    tolerance is applied.

    Args:
      one, other: of the same n images, in the same order of images.
    """
    ours, theirs = ([np.asarray(rows) for rows in each] for each in (one, other))
    count = len(ours[0])
    found = Agreement(np.zeros(count, bool), np.zeros(count), np.zeros(count))
    for i in range(count):
        alone = ([rows[i] for rows in each] for each in (ours, theirs))
        found.unlike[i], found.boxes[i], found.scores[i] = _of_image(*alone)
    return found


def _of_image(one, other) -> tuple[bool, float, float]:
    (boxes, scores, classes), (boxes_2, scores_2, classes_2) = one, other
    distance = gap = 0.0
    for category in np.union1d(classes, classes_2):
        if category < 0:
            continue
        here, there = classes == category, classes_2 == category
        if here.sum() != there.sum():
            return True, 0.0, 0.0
        apart = np.abs(boxes[here][:, None] - boxes_2[there][None]).max(-1)
        rows, columns = linear_sum_assignment(apart)
        gaps = np.abs(scores[here][rows] - scores_2[there][columns])
        distance = max(distance, float(apart[rows, columns].max()))
        gap = max(gap, float(gaps.max()))
    return False, distance, gap
