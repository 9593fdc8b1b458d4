"""Detection as loops of Python over boxes, in float64: nothing of JAX, no arrays.

Each function is the definition written down: one box, one pair, one anchor at a time.
"""

import math

import numpy as np


def area(box):
    x0, y0, x1, y1 = map(float, box)
    return max(x1 - x0, 0) * max(y1 - y0, 0)


def intersection(a, b):
    x0, y0, x1, y1 = map(float, a)
    u0, v0, u1, v1 = map(float, b)
    return area((max(x0, u0), max(y0, v0), min(x1, u1), min(y1, v1)))


def iou(a, b):
    common = intersection(a, b)
    union = area(a) + area(b) - common
    return common / union if union > 0 else 0.0


def centre_and_size(box):
    x0, y0, x1, y1 = map(float, box)
    return (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0


def encode(anchor, box):
    xa, ya, wa, ha = centre_and_size(anchor)
    x, y, w, h = centre_and_size(box)
    return (x - xa) / wa, (y - ya) / ha, math.log(w / wa), math.log(h / ha)


def decode(anchor, offsets):
    xa, ya, wa, ha = centre_and_size(anchor)
    dx, dy, dw, dh = map(float, offsets)
    x, y = xa + dx * wa, ya + dy * ha
    w = wa * min(math.exp(dw), 1000 / 16)
    h = ha * min(math.exp(dh), 1000 / 16)
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


def anchors(strides, shapes):
    found = []
    for stride, (rows, columns) in zip(strides, shapes, strict=True):
        for row in range(rows):
            for column in range(columns):
                for ratio in (1 / 2, 1, 2):  # height / width
                    for scale in (0, 1 / 3, 2 / 3):
                        side = 4 * stride * 2**scale
                        w, h = side / math.sqrt(ratio), side * math.sqrt(ratio)
                        x, y = column * stride, row * stride
                        found.append((x - w / 2, y - h / 2, x + w / 2, y + h / 2))
    return np.array(found)


def match(anchors, boxes, classes, crowd):
    there = [m for m, box in enumerate(boxes) if classes[m] >= 0 and area(box) > 0]
    things = [m for m in there if not crowd[m]]
    best = {m: max(iou(anchor, boxes[m]) for anchor in anchors) for m in things}
    found = []
    for anchor in anchors:
        overlap = {m: iou(anchor, boxes[m]) for m in things}
        own = max(overlap.values(), default=0)
        unsurpassed = any(overlap[m] == best[m] > 0 for m in things)
        if own >= 0.5 or unsurpassed:
            found.append(min(m for m in things if overlap[m] == own))
        elif own >= 0.4:
            found.append(-2)
        else:
            inside = [
                intersection(anchor, boxes[m]) / area(anchor) for m in there if crowd[m]
            ]
            found.append(-2 if max(inside, default=0) >= 0.5 else -1)
    return np.array(found)


def focal_loss(logit, target):
    """With p_t = p = 1 / (1 + e^-z), or 1 - p = 1 / (1 + e^z) for target 0."""
    u, alpha_t = (logit, 0.25) if target else (-logit, 0.75)
    return alpha_t * (1 / (1 + math.exp(u))) ** 2 * math.log1p(math.exp(-u))


def focal_slope(logit, target):
    """The derivative by the logit.

    For target 1 it is alpha (1 - p)^2 (2 p log p + p - 1). For target 0 the loss is
    that of -z, with the other alpha.
    """
    u, factor = (logit, 0.25) if target else (-logit, -0.75)
    p, missing = 1 / (1 + math.exp(-u)), 1 / (1 + math.exp(u))
    return factor * missing**2 * (-2 * p * math.log1p(math.exp(-u)) - missing)


def smooth_l1(difference, beta=0.11):
    d = abs(difference)
    return d * d / (2 * beta) if d < beta else d - beta / 2


def giou_loss(a, b):
    common = intersection(a, b)
    union = area(a) + area(b) - common
    x0, y0, x1, y1 = map(float, a)
    u0, v0, u1, v1 = map(float, b)
    around = area((min(x0, u0), min(y0, v0), max(x1, u1), max(y1, v1)))
    return 1 - (common / union - (around - union) / around)


def loss(logits, offsets, anchors, boxes, classes, crowd, box_loss):
    total, positives = 0.0, 0
    for a, index in enumerate(match(anchors, boxes, classes, crowd)):
        if index == -2:
            continue
        for k, logit in enumerate(logits[a]):
            total += focal_loss(logit, index >= 0 and classes[index] == k)
        if index >= 0:
            positives += 1
            if box_loss == "giou":
                total += giou_loss(decode(anchors[a], offsets[a]), boxes[index])
            else:
                wanted = encode(anchors[a], boxes[index])
                total += sum(map(smooth_l1, np.subtract(offsets[a], wanted)))
    return total / max(1, positives)


def nms(boxes, scores, classes, *, overlap=0.5, limit=100):
    order = sorted(range(len(boxes)), key=lambda i: (-scores[i], i))
    kept = []
    for i in order:
        better = [j for j in kept if classes[j] == classes[i]]
        if scores[i] > 0 and all(iou(boxes[j], boxes[i]) <= overlap for j in better):
            kept.append(i)
    return kept[:limit]


def detect(
    logits, offsets, anchors, level_sizes, image_shape, *, candidates=1000, limit=100
):
    """(box, score, class) of each, of one image."""
    height, width = image_shape
    boxes, scores, classes, start = [], [], [], 0
    for size in level_sizes:
        pairs = [
            (1 / (1 + math.exp(-logits[a][k])), a, k)
            for a in range(start, start + size)
            for k in range(len(logits[a]))
        ]
        pairs = [pair for pair in pairs if pair[0] >= 0.05]
        for score, a, k in sorted(pairs, key=lambda p: (-p[0], *p[1:]))[:candidates]:
            x0, y0, x1, y1 = decode(anchors[a], offsets[a])
            x0, x1 = (min(max(x, 0), width) for x in (x0, x1))
            y0, y1 = (min(max(y, 0), height) for y in (y0, y1))
            if area((x0, y0, x1, y1)) > 0:
                boxes.append((x0, y0, x1, y1))
                scores.append(score)
                classes.append(k)
        start += size
    kept = nms(boxes, scores, classes, limit=limit)
    return [(boxes[i], scores[i], classes[i]) for i in kept]


# Bounds of areas that count, by the measure.
RANGES = {
    "AP": (0, 1e10),
    "AP_small": (0, 32**2),
    "AP_medium": (32**2, 96**2),
    "AP_large": (96**2, 1e10),
}
IOUS = [0.5 + 0.05 * i for i in range(10)]


def average_precision(truth, found, categories):
    """Measures of lists, one entry an image.

    truth: (box, class, area, crowd) of each; found: (box, score, class).
    """
    measures = {}
    for name, bounds in RANGES.items():
        by_iou = [
            [of_class(truth, found, k, bounds, least) for k in range(categories)]
            for least in IOUS
        ]
        if name == "AP":
            put(measures, "AP50", by_iou[0])
            put(measures, "AP75", by_iou[5])
        put(measures, name, [value for row in by_iou for value in row])
    return measures


def put(measures, name, values):
    values = [value for value in values if value is not None]
    if values:
        measures[name] = sum(values) / len(values)


def of_class(truth, found, k, bounds, least):
    """AP at one IoU; None where no box counts."""
    low, high = bounds
    judged, boxes = [], 0
    for known, seen in zip(truth, found, strict=True):
        there = [
            [box, size, crowd or not low <= size <= high, crowd, False]
            for box, c, size, crowd in known
            if c == k
        ]
        there.sort(key=lambda row: row[2])  # those that do not count come last
        boxes += sum(not row[2] for row in there)
        ours = [(box, score) for box, score, c in seen if c == k]
        for box, score in sorted(ours, key=lambda row: -row[1])[:100]:
            hit, reached = None, least
            for row in there:
                other, _, aside, crowd, taken = row
                if taken and not crowd:
                    continue
                if hit is not None and not hit[2] and aside:
                    break
                # A crowd may hide more than the box: the share of the box counts.
                whole = area(box) if crowd else None
                share = intersection(box, other) / whole if whole else iou(box, other)
                if share >= reached:
                    hit, reached = row, share
            if hit is not None:
                hit[4] = True
                aside = hit[2]
            else:
                aside = not low <= area(box) <= high
            if not aside:
                judged.append((score, hit is not None))
    if not boxes:
        return None
    judged.sort(key=lambda row: -row[0])
    hits, points = 0, []
    for rank, (_, hit) in enumerate(judged, 1):
        hits += hit
        points.append((hits / boxes, hits / rank))
    # The best precision at this recall or above, 0 where it is never reached.
    levels = [r / 100 for r in range(101)]
    at = [max((p for r, p in points if r >= level), default=0.0) for level in levels]
    return sum(at) / 101
