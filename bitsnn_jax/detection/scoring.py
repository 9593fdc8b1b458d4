"""Average precision of boxes, as COCO defines it."""

import contextlib
import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from bitsnn_jax.detection.detections import Detections

# Names of the first six of COCO's measures, in the order of `COCOeval.stats`.
MEASURES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")


def average_precision(
    truth: Mapping[str, Any], found: Detections, *, categories: int
) -> dict[str, float]:
    """Return COCO's average precision of detections, in 0..1, by pycocotools.

    AP is the mean over categories and over IoU .5, .55, ... .95 of the precision at
    recalls 0, .01, ... 1; AP50 and AP75 are at one IoU. AP_small, AP_medium and
    AP_large are of boxes below 32^2 pixels, below 96^2, and above. A detection that
    falls on a crowd box counts neither for nor against.

    Args:
      truth: arrays of all images: "boxes" [n, M, 4], "classes" [n, M] (negative where
        there is no box), and, where they are known, "crowd" [n, M], "area" [n, M], and
        "scale" [n], by which all boxes are divided first, those found, too. Without
        areas those of the boxes count.
      found: of the same images, in the same order.
      categories: how many there are, K; classes are 0..K - 1.

    Returns:
      The measures. One that no box of the truth counts for is absent, where COCO has
      -1.

    Raises:
      ImportError: pycocotools is not installed.
    """
    coco, evaluation = _pycocotools()
    boxes, scores, classes = map(np.asarray, found)
    scale = np.asarray(truth.get("scale", np.ones(len(boxes))), float)[:, None, None]
    there = _truth(truth, scale)
    ours = _found(boxes / scale, scores, classes)
    with contextlib.redirect_stdout(io.StringIO()):
        judge = evaluation.COCOeval(
            _data_set(coco, there, len(boxes), categories),
            _data_set(coco, ours, len(boxes), categories),
            "bbox",
        )
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    measures = zip(MEASURES, judge.stats, strict=False)
    return {name: float(value) for name, value in measures if value >= 0}


def _data_set(coco, rows, images, categories):
    content: Any = {
        "images": [{"id": index} for index in range(images)],
        "categories": [{"id": index} for index in range(categories)],
        # From 1 on: number 0 means "no match" there.
        "annotations": [{**row, "id": id} for id, row in enumerate(rows, 1)],
    }
    result = coco.COCO()
    result.dataset = content
    result.createIndex()
    return result


def _truth(truth, scale):
    boxes, classes = np.asarray(truth["boxes"]) / scale, np.asarray(truth["classes"])
    sizes = np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1)
    areas = np.asarray(truth.get("area", sizes))
    crowd = np.asarray(truth.get("crowd", np.zeros(classes.shape, bool)))
    for place in zip(*np.nonzero((classes >= 0) & (sizes > 0)), strict=True):
        yield {
            **_row(place, boxes, classes),
            "area": float(areas[place]),
            "iscrowd": int(crowd[place]),
        }


def _found(boxes, scores, classes):
    for place in zip(*np.nonzero(classes >= 0), strict=True):
        row = _row(place, boxes, classes)
        _, _, width, height = row["bbox"]
        yield {**row, "area": width * height, "score": float(scores[place])}


def _row(place, boxes, classes):
    x0, y0, x1, y1 = boxes[place].tolist()
    return {
        "image_id": int(place[0]),
        "category_id": int(classes[place]),
        "bbox": [x0, y0, x1 - x0, y1 - y0],
    }


def _pycocotools():
    try:
        from pycocotools import coco, cocoeval
    except ImportError as error:
        raise ImportError(
            "average precision is computed by pycocotools, which is not installed: "
            "pip install 'bitsnn-jax[detection]'"
        ) from error
    return coco, cocoeval
