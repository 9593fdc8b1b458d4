"""COCO's average precision: answers by hand, and those of a loop."""

import sys

import boxes_by_hand as by_hand
import numpy as np
import pytest

from bitsnn_jax import detection
from bitsnn_jax.detection import Detections

ALL = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
A, B, FAR = [0.0, 0, 20, 20], [100.0, 100, 120, 120], [200.0, 0, 220, 20]


def truth(*boxes, classes=None, **more):
    """One image with these boxes, and a row that is none."""
    rows = np.array([*boxes, np.zeros(4)])[None]
    classes = [0] * len(boxes) if classes is None else classes
    return {"boxes": rows, "classes": np.array([[*classes, -1]]), **more}


def found(*rows):
    """One image of (box, score, class), and a row that is none."""
    boxes, scores, classes = zip(*rows, (np.zeros(4), 0.0, -1), strict=True)
    return Detections(*(np.array(part)[None] for part in (boxes, scores, classes)))


def measures(truth, found, categories=1):
    return detection.average_precision(truth, found, categories=categories)


def test_boxes_that_are_all_found_have_an_ap_of_1_where_there_are_any(capsys):
    """Sides of 20 are small; no medium or large box, so no measure of them."""
    one = measures(truth(A), found((A, 0.3, 0)))
    assert one == pytest.approx(dict.fromkeys((*ALL[:3], "AP_small"), 1))
    sizes = {"AP_small": 31, "AP_medium": 33, "AP_large": 97}
    for name, side in sizes.items():
        box = [0.0, 0, side, side]
        one = measures(truth(box), found((box, 0.3, 0)))
        assert one == pytest.approx(dict.fromkeys((*ALL[:3], name), 1))
    assert capsys.readouterr().out == ""


def test_the_first_hit_behind_a_miss_halves_the_precision():
    """Of two boxes one is found, at rank 2: precision 1/2 at recalls 0 to .5."""
    one = measures(truth(A, B), found((FAR, 0.9, 0), (A, 0.8, 0)))
    assert one["AP50"] == pytest.approx(51 / 101 / 2)


def test_a_box_that_is_found_twice_is_a_miss_once():
    one = measures(truth(A, B), found((A, 0.9, 0), (A, 0.8, 0), (B, 0.7, 0)))
    assert one["AP50"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_ap_is_the_mean_over_ten_thresholds_of_the_iou():
    """20 of 20 x 28 pixels: IoU .714, above .5, .55, .6, .65 and .7."""
    one = measures(truth([0.0, 0, 20, 28]), found((A, 0.9, 0)))
    assert one == pytest.approx({"AP50": 1, "AP75": 0, "AP": 0.5, "AP_small": 0.5})


def test_classes_count_alike_and_those_without_a_box_do_not():
    """Class 0 is found, class 1 is not, of class 2 there is no box."""
    there = truth(A, B, B, classes=[0, 1, 1])
    one = measures(there, found((A, 0.9, 0), (FAR, 0.8, 2)), categories=3)
    assert one["AP50"] == pytest.approx(1 / 2)


def test_a_detection_on_a_crowd_counts_neither_for_nor_against():
    """Half of it lies inside the crowd, of which it is a small part."""
    crowd = np.array([[False, True, False]])
    there = truth(A, [100.0, 100, 200, 200], crowd=crowd)
    on_crowd = [90.0, 100, 110, 120]
    rows = (on_crowd, 0.9, 0), (on_crowd, 0.8, 0), (A, 0.7, 0)
    assert measures(there, found(*rows))["AP50"] == pytest.approx(1)
    # Were the crowd a box, it would be missed, and two detections be wrong.
    there["crowd"] = np.zeros((1, 3), bool)
    one = measures(there, found(*rows))
    assert one["AP50"] == pytest.approx(51 / 101 / 3)


def test_sizes_are_those_of_the_annotation_in_pixels_of_the_original():
    """A box of 80 x 80 in an input twice as large; its object covers a third of it."""
    box = [0.0, 0, 80, 80]
    there = truth(box, scale=np.array([2.0]), area=np.array([[500.0, 0]]))
    one = measures(there, found((box, 0.9, 0)))
    assert one == pytest.approx(dict.fromkeys((*ALL[:3], "AP_small"), 1))
    del there["area"]
    assert "AP_medium" in measures(there, found((box, 0.9, 0)))


def test_without_boxes_there_is_no_measure_and_without_detections_it_is_0():
    assert measures(truth(), found((A, 0.9, 0))) == {}
    one = measures(truth(A), found())
    assert one == {"AP": 0, "AP50": 0, "AP75": 0, "AP_small": 0}


@pytest.mark.parametrize("seed", range(3))
def test_measures_are_those_of_a_loop(seed):
    """Boxes near the bounds of the sizes, crowds, equal scores, four images."""
    rng = np.random.default_rng(seed)
    images, rows, many, classes = 4, 7, 12, 2
    low = rng.uniform(0, 200, (images, rows, 2))
    sides = rng.choice([20, 31, 33, 60, 95, 97, 130], (images, rows, 1))
    boxes = np.concatenate([low, low + sides * rng.uniform(0.9, 1.1, low.shape)], -1)
    there = {
        "boxes": boxes,
        "classes": rng.integers(-1, classes, (images, rows)),
        "crowd": rng.random((images, rows)) < 0.2,
        "area": np.prod(boxes[..., 2:] - boxes[..., :2], -1) * rng.uniform(0.5, 1),
        "scale": rng.uniform(0.5, 2, images),
    }
    near = boxes[np.arange(images)[:, None], rng.integers(0, rows, (images, many))]
    there["boxes"] = boxes * there["scale"][:, None, None]
    seen = near + rng.normal(size=near.shape) * rng.choice(
        [1, 5, 20], (images, many, 1)
    )
    seen[..., 2:] = np.maximum(seen[..., 2:], seen[..., :2] + 1)
    scores = rng.integers(1, 9, (images, many)) / 8
    labels = rng.integers(-1, classes, (images, many))
    given = Detections(seen * there["scale"][:, None, None], scores, labels)
    known = [
        [
            (
                boxes[i, m],
                there["classes"][i, m],
                there["area"][i, m],
                there["crowd"][i, m],
            )
            for m in range(rows)
        ]
        for i in range(images)
    ]
    ours = [
        [row for row in zip(seen[i], scores[i], labels[i], strict=True) if row[2] >= 0]
        for i in range(images)
    ]
    wanted = by_hand.average_precision(known, ours, classes)
    assert measures(there, given, classes) == pytest.approx(wanted, rel=1e-9)
    assert set(wanted) == set(ALL) and 0.05 < wanted["AP"] < 0.95


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(ImportError, match=r"pip install 'bitsnn-jax\[detection\]'"):
        measures(truth(A), found((A, 0.9, 0)))
