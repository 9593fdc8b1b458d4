"""Boxes: anchors, offsets, matching, losses, detections, average precision."""

from bitsnn_jax.detection.agreements import Agreement, agreement
from bitsnn_jax.detection.anchor_grid import ANCHORS_PER_PLACE, anchors, level_sizes
from bitsnn_jax.detection.boxes import area, clip, decode, encode, iou
from bitsnn_jax.detection.detections import Detections, detect
from bitsnn_jax.detection.losses import (
    BOX_LOSSES,
    focal_loss,
    giou_loss,
    loss,
    smooth_l1,
)
from bitsnn_jax.detection.matching import BACKGROUND, IGNORED, match
from bitsnn_jax.detection.outputs import flat, shapes
from bitsnn_jax.detection.scoring import average_precision
from bitsnn_jax.detection.suppression import nms

__all__ = [
    "ANCHORS_PER_PLACE",
    "BACKGROUND",
    "BOX_LOSSES",
    "IGNORED",
    "Agreement",
    "Detections",
    "agreement",
    "anchors",
    "area",
    "average_precision",
    "clip",
    "decode",
    "detect",
    "encode",
    "flat",
    "focal_loss",
    "giou_loss",
    "iou",
    "level_sizes",
    "loss",
    "match",
    "nms",
    "shapes",
    "smooth_l1",
]
