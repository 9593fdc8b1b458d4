"""Laws of boxes, their offsets, their anchors, and the outputs that belong to them."""

import boxes_by_hand as by_hand
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bitsnn_jax import detection
from bitsnn_jax.detection.boxes import coverage

BOXES = 4
IMAGE, SHAPES, STRIDES = (20, 12), [(3, 2), (2, 1), (1, 1), (1, 1)], (8, 16, 32, 64)
# Compiled once, however often a law is tried.
iou = jax.jit(detection.iou)
decode = jax.jit(detection.decode)


def tenths(columns, low, high):
    """Numbers that are rounded, but none so small that it underflows."""
    whole = st.integers(10 * low, 10 * high)
    return hnp.arrays(np.int64, (BOXES, columns), elements=whole).map(lambda x: x / 10)


corners = tenths(4, -100, 100)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@jax.jit
def there_and_back(anchors, boxes):
    offsets = detection.encode(anchors, boxes)
    return offsets, detection.decode(anchors, offsets)


@st.composite
def boxes(draw):
    low, sides = draw(tenths(2, -100, 100)), draw(tenths(2, 0, 100)) + 0.1
    return np.concatenate([low, low + sides], axis=-1)


@settings(max_examples=30)
@given(corners, corners)
def test_iou_is_that_of_a_loop_and_symmetric_and_between_0_and_1(a, b):
    """Corners in any order: a box without area has no IoU with any."""
    found = np.asarray(iou(a, b))
    wanted = [[by_hand.iou(x, y) for y in b] for x in a]
    np.testing.assert_allclose(found, wanted, rtol=1e-9)
    np.testing.assert_array_equal(found.T, iou(b, a))
    assert np.all((found >= 0) & (found <= 1))


@settings(max_examples=30)
@given(boxes())
def test_a_box_has_an_iou_of_1_with_itself(a):
    np.testing.assert_array_equal(np.diagonal(iou(a, a)), np.ones(BOXES))


def test_coverage_is_the_share_of_the_first_box():
    a = np.array([[0.0, 0, 4, 4], [0, 0, 0, 4]])
    b = np.array([[2.0, 0, 99, 99], [5, 5, 6, 6]])
    np.testing.assert_array_equal(jax.jit(coverage)(a, b), [[0.5, 0], [0, 0]])


@settings(max_examples=30)
@given(boxes(), boxes())
def test_encode_is_that_of_a_loop_and_decode_undoes_it(anchors, there):
    offsets, back = map(np.asarray, there_and_back(anchors, there))
    wanted = list(map(by_hand.encode, anchors, there))
    # A side of .1 loses some 2^-53 of 200 in the difference of its corners.
    np.testing.assert_allclose(offsets, wanted, rtol=1e-9, atol=1e-9)
    small = np.all(offsets[:, 2:] < np.log(1000 / 16), axis=-1)
    np.testing.assert_allclose(back[small], there[small], rtol=1e-9, atol=1e-9)


@settings(max_examples=30)
@given(boxes(), tenths(4, -5, 9))
def test_decode_is_that_of_a_loop_and_cuts_off_what_is_far_too_large(anchors, offsets):
    wanted = list(map(by_hand.decode, anchors, offsets))
    # Corners of a box that is 62.5 * 100 wide, beside the anchor.
    np.testing.assert_allclose(decode(anchors, offsets), wanted, atol=1e-9)


def test_decode_overflows_nowhere():
    offsets = np.tile([0.0, 0.0, 1e30, 1e30], (BOXES, 1))
    found = decode(np.tile([0.0, 0.0, 8.0, 8.0], (BOXES, 1)), offsets)
    np.testing.assert_allclose(found[0], [-246, -246, 254, 254])


def test_a_box_with_a_corner_out_of_order_has_no_area():
    """Also with both, where two negative sides would have a positive product."""
    rows = np.array([[0.0, 0, 2, 3], [2, 0, 0, 3], [0, 3, 2, 0], [2, 3, 0, 0]])
    np.testing.assert_array_equal(jax.jit(detection.area)(rows), [6, 0, 0, 0])


def test_boxes_are_cut_off_at_the_border():
    found = detection.clip(jnp.array([[-3.0, 2, 99, 99], [50, 60, 70, 80]]), (30, 40))
    np.testing.assert_array_equal(found, [[0, 2, 40, 30], [40, 30, 40, 30]])


def test_anchors_are_those_of_a_loop_and_strides_double():
    """The last two levels have one place each, and still strides of 32 and 64."""
    found = detection.anchors(IMAGE, SHAPES)
    assert found.dtype == np.float32
    assert len(found) == sum(detection.level_sizes(SHAPES)) == 9 * (6 + 2 + 1 + 1)
    wanted = by_hand.anchors(STRIDES, SHAPES).astype(np.float32)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("size", [32, 33, 96, 100, 512, 800])
def test_strides_are_8_to_128_whatever_the_size_of_the_image(size):
    """Levels halve, and the odd place is kept, as 3x3 convolutions of stride 2 do."""
    places = [-(-size // stride) for stride in (8, 16, 32, 64, 128)]
    found = detection.anchors((size, size), [(n, n) for n in places])
    starts = np.cumsum([0, *detection.level_sizes([(n, n) for n in places])])[:-1]
    widths = [box[2] - box[0] for box in found[starts + 3]]  # ratio 1, scale 1
    assert widths == [32, 64, 128, 256, 512]


def test_levels_are_joined_in_the_order_of_the_anchors():
    """A network that writes each number's place into it."""
    classes, n = 3, 2

    def places(parts):
        for level, (height, width) in enumerate(SHAPES):
            index = np.indices((n, height, width, 9, parts))
            number = np.stack([index[0], 0 * index[0] + level, *index[1:]], axis=-1)
            yield number @ 10 ** np.arange(6)[::-1]

    outputs = {
        name: [level.reshape(*level.shape[:3], -1) for level in places(parts)]
        for name, parts in (("boxes", 4), ("classes", classes))
    }
    assert detection.shapes(outputs) == tuple(SHAPES)
    logits, offsets = detection.flat(outputs)
    for found, parts in ((logits, classes), (offsets, 4)):
        wanted = [
            [
                [int(f"{i}{level}{y}{x}{a}{part}") for part in range(parts)]
                for level, (height, width) in enumerate(SHAPES)
                for y in range(height)
                for x in range(width)
                for a in range(9)
            ]
            for i in range(n)
        ]
        np.testing.assert_array_equal(found, wanted)


def test_channels_that_are_not_nine_parts_are_refused():
    level = jnp.zeros((1, 2, 2, 10))
    with pytest.raises(ValueError, match="9 equal parts.* got 10"):
        detection.flat({"boxes": [level], "classes": [level]})
