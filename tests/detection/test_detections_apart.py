"""Detections of two networks, compared whatever their order."""

import numpy as np
import pytest

from bitsnn_jax.detection import Detections, agreement


def drawn(seed=0, images=3, boxes=12):
    """Boxes of five classes at random places, the last two of each image none."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 50, (images, boxes, 2))
    sides = rng.uniform(5, 30, (images, boxes, 2))
    classes = rng.integers(0, 5, (images, boxes)).astype(np.int32)
    classes[:, -2:] = -1
    both = np.concatenate([corners, corners + sides], -1)
    return Detections(both, rng.uniform(0.05, 1, (images, boxes)), classes)


def test_the_order_of_boxes_is_of_no_account():
    found = drawn()
    turned = Detections(*(rows[:, ::-1] for rows in found))
    same = agreement(found, turned)
    assert not same.unlike.any() and not same.boxes.any() and not same.scores.any()


def test_the_largest_distance_is_told_as_it_is():
    found, moved = drawn(), drawn()
    moved.boxes[1, 4, 2] += 1e-3
    moved.boxes[1, 5, 0] -= 5e-4
    moved.scores[2, 3] -= 0.25
    moved.boxes[:, -1] += 7  # what is none has no place
    apart = agreement(found, Detections(*(rows[:, ::-1] for rows in moved)))
    assert not apart.unlike.any()
    assert apart.boxes == pytest.approx([0, 1e-3, 0])
    assert apart.scores == pytest.approx([0, 0, 0.25])


def test_another_number_or_class_of_boxes_makes_images_unlike():
    found, other = drawn(), drawn()
    other.classes[0, 0] = (other.classes[0, 0] + 1) % 5
    other.classes[2, 1] = -1
    apart = agreement(found, other)
    assert apart.unlike.tolist() == [True, False, True]
    assert not apart.boxes.any() and not apart.scores.any()
