"""Pictures change with their boxes: what was in a box is in it afterwards."""

import math

import hypothesis
import numpy as np
import pytest
from boxed_pictures import write_boxes
from hypothesis import given
from hypothesis import strategies as st

from bitsnn_jax.config import Data
from bitsnn_jax.data import eval_box_batches, load_boxes, train_box_batches
from bitsnn_jax.data.box_augmentation import (
    augment_boxes,
    fit_boxes,
    random_view,
    whole_view,
)

SIZE, BLANK = 64, [30, 60, 90]
SIDES = st.integers(1, 200)
SEEDS = st.integers(0, 2**32 - 1)


def marked(height, width, boxes):
    """A black picture with each box in a colour of its own, red first, then green."""
    image = np.zeros((height, width, 3), np.uint8)
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        image[y0:y1, x0:x1, i] = 255
    count = len(boxes)
    return {
        "image": image,
        "boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "classes": np.arange(count, dtype=np.int32),
        "crowd": np.zeros(count, bool),
        "area": np.full(count, 7, np.float32),
        "id": np.int32(3),
    }


def augmented(example, seed, **fields):
    settings = Data(image_size=SIZE, **fields)
    rng = np.random.default_rng(seed)
    return augment_boxes(example, rng, settings=settings, most=4, blank=BLANK)


def around(mask):
    """The box of the pixels that are more than half of a colour."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


@hypothesis.settings(max_examples=40)
@given(seed=SEEDS, jitter=st.floats(0, 2), flip=st.booleans())
def test_boxes_stay_around_what_was_in_them(seed, jitter, flip):
    example = marked(90, 120, [(20, 30, 60, 70), (70, 10, 110, 50)])
    before = example["image"].copy()
    row = augmented(example, seed, scale_jitter=jitter, flip=flip)
    for i in range(2):
        seen = (row["classes"] == i) & ~row["crowd"]
        if seen.any():
            [box] = row["boxes"][seen]
            # A pixel of the edge may be half of one and half of the other.
            found = around(row["image"][..., i] > 127)
            np.testing.assert_allclose(found, box, atol=1.01)
    np.testing.assert_array_equal(example["image"], before)


@hypothesis.settings(max_examples=40)
@given(seed=SEEDS, height=SIDES, width=SIDES, jitter=st.floats(0, 10))
def test_a_view_lies_inside_the_picture_and_the_square(seed, height, width, jitter):
    rng = np.random.default_rng(seed)
    view = random_view(height, width, rng, size=SIZE, jitter=jitter)
    factor = view.scale / whole_view(height, width, size=SIZE).scale
    assert 1 / (1 + jitter) - 1e-9 <= factor <= 1 + jitter + 1e-9
    for start, length, side in zip(view[1:3], view[3:], (width, height), strict=True):
        assert start >= 0 and 1 <= length <= SIZE
        assert start + length <= max(1, side * view.scale + 1e-6)
        # As much of the picture as there is room for.
        assert length in (SIZE, max(1, math.floor(side * view.scale + 1e-6)))
    assert view.pixels(np.zeros((height, width, 3), np.uint8)).shape[:2] == (
        view.height,
        view.width,
    )


@hypothesis.settings(max_examples=40)
@given(height=SIDES, width=SIDES, size=st.integers(1, 200))
def test_the_longer_side_has_the_size_and_boxes_scale_back(height, width, size):
    view = whole_view(height, width, size=size)
    assert max(view.width, view.height) == size
    box = np.array([[0, 1, width, height]], np.float32)
    back = view.boxes(box) / np.float32(view.scale)
    np.testing.assert_allclose(back, box, rtol=1e-6)


def test_a_picture_of_the_size_is_not_resampled():
    noise = np.random.default_rng(0).integers(0, 256, (40, SIZE, 3), np.uint8)
    example = marked(40, SIZE, []) | {"image": noise}
    row = fit_boxes(example, size=SIZE, most=4, blank=BLANK)
    np.testing.assert_array_equal(row["image"][:40], noise)
    assert (row["image"][40:] == BLANK).all() and row["scale"] == 1


def test_without_a_change_training_sees_what_evaluation_does():
    example = marked(90, 120, [(20, 30, 60, 70), (70, 10, 110, 50)])
    trained = augmented(example, 0)
    evaluated = fit_boxes(example, size=SIZE, most=4, blank=BLANK)
    assert trained.keys() == evaluated.keys()
    for name, array in evaluated.items():
        np.testing.assert_array_equal(trained[name], array, strict=True)


def test_half_of_the_pictures_are_mirrored():
    example = marked(32, 64, [(0, 0, 16, 32)])
    boxes = [augmented(example, seed, flip=True)["boxes"][0] for seed in range(40)]
    left, right = ([0, 0, 16, 32], [48, 0, 64, 32])
    assert {tuple(map(int, box)) for box in boxes} == {tuple(left), tuple(right)}
    assert 10 < sum(box[0] == 48 for box in boxes) < 30


class Largest:
    """A generator that always draws the largest factor."""

    def __init__(self, seed):
        self.integers = np.random.default_rng(seed).integers

    def uniform(self, low, high):
        return high


def test_what_is_hardly_seen_counts_for_nothing_and_what_is_not_is_gone():
    # Always four times as large: 16 of 64 pixels are seen on each axis.
    example, met = marked(64, 64, [(20, 20, 28, 28)]), set()
    settings = Data(image_size=SIZE, scale_jitter=3.0)
    for seed in range(60):
        rng = Largest(seed)
        row = augment_boxes(example, rng, settings=settings, most=4, blank=BLANK)
        x0, y0, x1, y1 = row["boxes"][0]
        share = (x1 - x0) * (y1 - y0) / 32**2
        if row["classes"][0] < 0:
            assert share == 0 and not row["crowd"].any()
            met.add("gone")
            continue
        assert 0 <= min(x0, y0) and max(x1, y1) <= SIZE
        assert row["crowd"][0] == (share < 0.25)
        met.add("crowd" if row["crowd"][0] else "whole" if share == 1 else "clipped")
    assert met == {"gone", "crowd", "clipped", "whole"}


def test_what_becomes_thinner_than_a_pixel_counts_for_nothing():
    example = marked(640, 640, [(0, 0, 9, 600), (20, 20, 40, 40)])
    row = augmented(example, 0)  # a tenth
    assert row["crowd"].tolist() == [True, False, False, False]
    assert not fit_boxes(example, size=SIZE, most=4, blank=BLANK)["crowd"].any()


def test_a_crowd_stays_one():
    example = marked(64, 64, [(0, 0, 32, 32)])
    example["crowd"][:] = True
    assert augmented(example, 0, flip=True)["crowd"].tolist() == [True] + [False] * 3


def test_colours_change_in_the_picture_and_not_beside_it():
    noise = np.random.default_rng(0).integers(0, 256, (32, SIZE, 3), np.uint8)
    example = marked(32, SIZE, []) | {"image": noise}
    row = augmented(example, 0, color_jitter=0.5)
    assert not (row["image"][:32] == noise).all()
    assert (row["image"][32:] == BLANK).all()
    for grey in (noise[..., :1], noise):
        settings = Data(image_size=SIZE, color_jitter=0.5, scale_jitter=1.0, flip=True)
        rng, blank = np.random.default_rng(0), BLANK[: grey.shape[-1]]
        row = augment_boxes(
            example | {"image": grey}, rng, settings=settings, most=1, blank=blank
        )
        assert row["image"].shape == (SIZE, SIZE, grey.shape[-1])


# Batches

CHANGES = {"scale_jitter": 0.5, "flip": True, "color_jitter": 0.2}


def batches(data, count, **order):
    train = load_boxes(data, "train")
    made = train_box_batches(data, train, seed=5, **order)
    found = [next(made) for _ in range(count)]
    made.close()
    return found


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], strict=True)


def test_batches_have_one_shape_and_each_epoch_has_every_picture(tmp_path):
    data = write_boxes(tmp_path, **CHANGES, batch_size=6)
    found = batches(data, 6)
    shapes = {name: (6, *x.shape[1:]) for name, x in found[0].items()}
    for batch in found:
        assert {name: x.shape for name, x in batch.items()} == shapes
    assert shapes["boxes"] == (6, 3, 4) and shapes["image"] == (6, 16, 16, 3)
    ids = np.concatenate([batch["id"] for batch in found]).reshape(2, 18)
    np.testing.assert_array_equal(np.sort(ids), np.tile(np.arange(18), (2, 1)))
    assert ids[0].tolist() != ids[1].tolist()


def test_hosts_share_the_batches_of_one(tmp_path):
    data = write_boxes(tmp_path, **CHANGES)
    whole = batches(data, 3)
    for shard in range(2):
        part = batches(data, 3, shard_index=shard, num_shards=2)
        for batch, all_of_it in zip(part, whole, strict=True):
            assert_equal(batch, {name: x[shard::2] for name, x in all_of_it.items()})


@pytest.mark.slow
def test_workers_make_the_same_bits(tmp_path):
    data = write_boxes(tmp_path, **CHANGES)
    trained, test = batches(data, 5), load_boxes(data, "test")
    evaluated = list(eval_box_batches(data, test))
    data.workers = 2
    for first, second in zip(trained, batches(data, 5), strict=True):
        assert_equal(first, second)
    for first, second in zip(evaluated, eval_box_batches(data, test), strict=True):
        assert_equal(first, second)


@pytest.mark.filterwarnings("ignore:.*expected a whole image")  # of batches to come
def test_in_training_another_picture_takes_the_place_of_one_that_is_missing(tmp_path):
    data = write_boxes(tmp_path, unreadable="skip", batch_size=18)
    gone = int(load_boxes(data, "train").order[7])
    (tmp_path / "train" / f"{gone:012}.png").unlink()
    with pytest.warns(UserWarning, match=f"{gone:012}.png.*another one takes its pl"):
        [batch] = batches(data, 1)
    assert sorted(batch["id"]) == sorted([*range(7), 8, *range(8, 18)])
