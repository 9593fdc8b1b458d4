"""Laws of matching: which box each anchor is trained to find."""

import boxes_by_hand as by_hand
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitsnn_jax import detection
from bitsnn_jax.detection import BACKGROUND, IGNORED

IMAGE, SHAPES = (48, 48), [(6, 6), (3, 3)]
ANCHORS = detection.anchors(IMAGE, SHAPES).astype(float)
compiled = jax.jit(detection.match)
ROWS = 4


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def match(anchors, *truth):
    """Of any number of anchors, filled up to one shape with some far away."""
    count, far = len(anchors), np.array([900.0, 900, 901, 901])
    filled = np.tile(far, (len(ANCHORS), 1))
    filled[:count] = anchors
    return np.asarray(compiled(filled, *truth))[:count]


@st.composite
def truths(draw):
    """Rows of boxes: some crowds, some none, some of no area."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    low = rng.uniform(0, 40, (ROWS, 2))
    size = rng.uniform(0, 48, (ROWS, 2)) * (rng.random((ROWS, 1)) < 0.9)
    if draw(st.booleans()):  # corners on a grid: many equal IoU
        low, size = low.round(-1), size.round(-1)
    classes = rng.integers(-1, 3, ROWS)
    return np.concatenate([low, low + size], -1), classes, rng.random(ROWS) < 0.3


@settings(max_examples=8)
@given(truths())
def test_matches_are_those_of_a_loop(truth):
    np.testing.assert_array_equal(
        match(ANCHORS, *truth), by_hand.match(ANCHORS, *truth)
    )


@settings(max_examples=30)
@given(truths(), st.permutations(range(len(ANCHORS))))
def test_the_order_of_anchors_does_not_matter(truth, order):
    order = np.array(order)
    np.testing.assert_array_equal(
        match(ANCHORS[order], *truth), match(ANCHORS, *truth)[order]
    )


@settings(max_examples=30)
@given(truths())
def test_every_box_that_an_anchor_touches_is_some_anchors_best(truth):
    """And no anchor is given what is no box, or a crowd."""
    boxes, classes, crowd = truth
    found = set(np.unique(match(ANCHORS, *truth)))
    there = [m for m in range(ROWS) if classes[m] >= 0 and by_hand.area(boxes[m]) > 0]
    things = [m for m in there if not crowd[m]]
    assert found <= {*things, BACKGROUND, IGNORED}
    if len(things) == 1:
        assert set(things) <= found
    assert bool(things) == bool(found & set(things))


def test_rules_at_their_bounds():
    """IoU of 8x8 anchors with parts of themselves: .5 is a match, .4 is ignored."""
    box = np.array([0.0, 0, 10, 10])
    parts = np.array([[0.0, 0, 10, h] for h in (10, 5, 4.999, 4, 3.999)])
    rows = np.stack([box, np.zeros(4), np.zeros(4), np.zeros(4)])
    classes, crowd = np.array([2, -1, -1, -1]), np.zeros(ROWS, bool)
    found = match(parts, rows, classes, crowd)
    np.testing.assert_array_equal(found, [0, 0, IGNORED, IGNORED, BACKGROUND])
    # Alone, the least of them is the best that the box has.
    for part in parts:
        aside = np.tile([90.0, 90, 99, 99], (len(parts), 1))
        aside[1] = part
        found = match(aside, rows, classes, crowd)
        np.testing.assert_array_equal(found, [BACKGROUND, 0] + 3 * [BACKGROUND])


def test_background_inside_a_crowd_is_ignored_and_matches_are_not():
    thing, crowd = [0.0, 0, 10, 10], [0.0, 0, 40, 40]
    rows = np.array([thing, crowd, np.zeros(4), np.zeros(4)])
    classes = np.array([0, 0, -1, -1])
    anchors = np.array(
        [thing, [20.0, 20, 30, 30], [35, 0, 45, 10], [36, 0, 46, 10], [50, 50, 60, 60]]
    )
    found = match(anchors, rows, classes, np.array([False, True, True, False]))
    np.testing.assert_array_equal(found, [0, IGNORED, IGNORED, BACKGROUND, BACKGROUND])


def test_no_rows_of_boxes_are_refused():
    with pytest.raises(ValueError, match="at least one row"):
        detection.match(ANCHORS, np.zeros((0, 4)), np.zeros(0, int), np.zeros(0, bool))
