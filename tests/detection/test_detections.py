"""Laws of non-maximum suppression, and of the boxes that are found."""

from functools import partial

import boxes_by_hand as by_hand
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitsnn_jax import detection
from bitsnn_jax.detection import detections

MANY = 24
IMAGE, SHAPES, CLASSES, N = (40, 32), [(5, 4), (3, 2)], 3, 2
ANCHORS = detection.anchors(IMAGE, SHAPES).astype(float)
SIZES = detection.level_sizes(SHAPES)
RNG = np.random.default_rng(0)
nms = jax.jit(partial(detection.nms, limit=MANY))
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def crowded(seed):
    """Boxes of two classes that hide each other; some scores are equal, some none."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 12, (MANY, 2))
    boxes = np.concatenate([low, low + rng.uniform(5, 15, (MANY, 2))], axis=-1)
    if seed % 2:
        boxes = boxes.round(-1) + [0, 0, 1, 1]
    scores = rng.integers(-1, 9, MANY) / 8
    return boxes, scores, rng.integers(0, 2, MANY)


def kept(*args):
    found = np.asarray(nms(*args))
    return list(found[found >= 0])


@settings(max_examples=40)
@given(seeds)
def test_no_two_kept_boxes_of_a_class_overlap_and_the_others_overlap_a_better_one(seed):
    boxes, scores, classes = crowded(seed)
    found = kept(boxes, scores, classes)

    def near(i, j):
        return classes[i] == classes[j] and by_hand.iou(boxes[i], boxes[j]) > 0.5

    assert not any(near(i, j) for i in found for j in found if i < j)
    rank = [(-scores[i], i) for i in range(MANY)]
    for i in {i for i in range(MANY) if scores[i] > 0} - set(found):
        assert any(near(i, j) and rank[j] < rank[i] for j in found)
    assert found == sorted(found, key=rank.__getitem__) == by_hand.nms(*crowded(seed))


def test_boxes_of_many_images_are_suppressed_as_those_of_each():
    images = [crowded(seed) for seed in range(4)]
    found = jax.jit(jax.vmap(partial(detection.nms, limit=MANY)))(
        *map(np.stack, zip(*images, strict=True))
    )
    np.testing.assert_array_equal(found, [nms(*image) for image in images])


def drawn():
    logits = 2 * RNG.normal(size=(N, len(ANCHORS), CLASSES)) - 2
    return logits, RNG.normal(size=(N, len(ANCHORS), 4)) / 3


def rows(found, i):
    """(box, score, class) of the image, and that nothing stands behind them."""
    count = int((np.asarray(found.classes[i]) >= 0).sum())
    for part, none in zip(found, (0, 0, -1), strict=True):
        assert np.all(np.asarray(part[i])[count:] == none)
    return list(zip(*(np.asarray(part[i])[:count] for part in found), strict=True))


def same(found, wanted):
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-12)
        assert ours[2] == theirs[2]


@pytest.fixture(scope="module")
def detect():
    """`detect` with 20 candidates a level and 8 boxes an image."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detections, "CANDIDATES", 20)
        patch.setattr(detections, "LIMIT", 8)
        with jax.enable_x64(True):
            uncompiled = detection.detect.__wrapped__
            fn = jax.jit(lambda *args: uncompiled(*args, SIZES, IMAGE))
            fn(*drawn(), ANCHORS)  # compiled while they are few
    return fn


def by_loop(logits, offsets, **few):
    return by_hand.detect(logits, offsets, ANCHORS, SIZES, IMAGE, **few)


def test_detections_are_those_of_a_loop(detect):
    given = drawn()
    found = detect(*given, ANCHORS)
    for i, image in enumerate(zip(*given, strict=True)):
        wanted = by_loop(*image, candidates=20, limit=8)
        same(rows(found, i), wanted)
        assert len(wanted) == 8 < len(by_loop(*image, candidates=20))


@pytest.mark.slow  # compiled for this test alone
def test_fewer_detections_than_there_may_be_are_those_of_a_loop():
    given = drawn()
    found = detection.detect(*given, ANCHORS, SIZES, IMAGE)
    for i, image in enumerate(zip(*given, strict=True)):
        same(rows(found, i), by_loop(*image))
        assert 8 < len(rows(found, i)) < 100


def test_equal_scores_are_taken_by_position(detect):
    """All are equal: the first pairs of each level are the candidates."""
    logits = np.zeros((N, len(ANCHORS), CLASSES))
    offsets = np.zeros((N, len(ANCHORS), 4))
    wanted = by_loop(logits[0], offsets[0], candidates=20, limit=8)
    same(rows(detect(logits, offsets, ANCHORS), 0), wanted)


def test_the_order_of_anchors_of_a_level_does_not_matter(detect):
    logits, offsets = drawn()
    first, second = map(RNG.permutation, SIZES)
    order = np.concatenate([first, SIZES[0] + second])
    jax.tree.map(
        np.testing.assert_array_equal,
        detect(logits[:, order], offsets[:, order], ANCHORS[order]),
        detect(logits, offsets, ANCHORS),
    )


def test_an_image_does_not_matter_to_another(detect):
    logits, offsets = drawn()
    found = detect(logits, offsets, ANCHORS)
    turned = detect(logits[::-1], offsets[::-1], ANCHORS)
    for ours, theirs in zip(found, turned, strict=True):
        np.testing.assert_array_equal(ours, np.asarray(theirs)[::-1])


def test_what_is_no_number_is_no_box(detect):
    logits, offsets = drawn()
    logits[0], offsets[1] = np.nan, np.nan
    found = detect(logits, offsets, ANCHORS)
    np.testing.assert_array_equal(found.classes, np.full((N, 8), -1))


def test_boxes_outside_the_image_are_none(detect):
    logits, offsets = drawn()
    offsets[..., :2], offsets[..., 2:] = 50.0, 0.0
    found = detect(logits, offsets, ANCHORS)
    np.testing.assert_array_equal(found.scores, np.zeros((N, 8)))


def test_levels_that_are_not_those_of_the_anchors_are_refused():
    logits, offsets = drawn()
    with pytest.raises(ValueError, match=r"levels \(180, 53\).* got 234"):
        detection.detect(logits, offsets, ANCHORS, (180, 53), IMAGE)
