"""Augmentation: sizes, windows, flips, the AutoAugment policy, jitter and Cutout."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bitsnn_jax.config import Config, Data
from bitsnn_jax.data.augment import (
    augment,
    color_jitter,
    cutout,
    random_crop,
    random_flip,
    random_resized_crop,
    random_window,
    resize_and_crop,
)
from bitsnn_jax.data.autoaugment import OPERATIONS, POLICY, draw
from bitsnn_jax.training.validation import validate

few = settings(max_examples=20, derandomize=True)
seeds = st.integers(0, 2**32 - 1)
GREY = (128, 128, 128)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def changed(pixels, name, strength, blank=GREY):
    """An operation of AutoAugment, from array to array."""
    return np.asarray(OPERATIONS[name].change(Image.fromarray(pixels), strength, blank))


class Scripted:
    """A generator whose integers are given."""

    def __init__(self, *integers):
        self._left = list(integers)

    def integers(self, high):
        return self._left.pop(0)


# The whole

every_setting = st.builds(
    Data,
    image_size=st.integers(1, 20),
    random_resized_crop=st.booleans(),
    crop=st.integers(0, 30),
    flip=st.booleans(),
    autoaugment=st.booleans(),
    color_jitter=st.floats(0, 0.99),
    cutout=st.integers(0, 30),
)


@few
@given(
    every_setting,
    st.tuples(st.integers(1, 20), st.integers(1, 20), st.sampled_from([1, 3])),
    seeds,
)
def test_the_same_state_gives_the_same_image_of_bytes_of_the_wanted_shape(
    data, shape, seed
):
    image = noise(*shape)
    example = {"image": image.copy(), "label": np.int32(3)}
    example["image"].flags.writeable = False  # as a data set's own pixels may be
    got, again = (
        augment(example, np.random.default_rng(seed), settings=data) for _ in range(2)
    )
    assert got["label"] == 3
    assert got["image"].dtype == np.uint8
    assert got["image"].shape == (data.image_size, data.image_size, shape[-1])
    np.testing.assert_array_equal(got["image"], again["image"])
    np.testing.assert_array_equal(example["image"], image)


def test_what_is_off_draws_nothing_and_leaves_the_image_alone():
    image, rng = noise(5, 7, 2), np.random.default_rng(0)
    before = rng.bit_generator.state
    assert augment({"image": image}, rng, settings=Data())["image"] is image
    assert rng.bit_generator.state == before


def test_crop_and_flip_draw_two_offsets_and_one_chance():
    # Runs that were recorded go on bit by bit only while these draws stay.
    image, framed = noise(6, 5, 1), np.pad(noise(6, 5, 1), ((2, 2), (2, 2), (0, 0)))
    rng, twin = np.random.default_rng(0), np.random.default_rng(0)
    for _ in range(20):
        got = augment({"image": image}, rng, settings=Data(crop=2, flip=True))["image"]
        top, left = twin.integers(5, size=2)
        window = framed[top : top + 6, left : left + 5]
        mirrored = twin.random() < 0.5
        np.testing.assert_array_equal(got, window[:, ::-1] if mirrored else window)
    assert rng.bit_generator.state == twin.bit_generator.state


def test_changes_come_in_the_order_of_the_fields():
    # The square comes last, so that it is of the blank colour; the jitter comes after
    # AutoAugment, which moves in the blank colour: what is moved in varies.
    data = Data(image_size=16, random_resized_crop=True, autoaugment=True)
    data.color_jitter, data.cutout, blank = 0.4, 64, (1, 2, 3)
    rng = np.random.default_rng(0)
    for _ in range(5):
        got = augment({"image": noise(20, 30, 3)}, rng, settings=data, blank=blank)
        assert got["image"].shape == (16, 16, 3) and (got["image"] == blank).all()
    data.cutout, data.color_jitter = 0, 0.99
    black = np.zeros((16, 16, 3), np.uint8)
    moved_in = set()
    for _ in range(200):
        got = augment({"image": black}, rng, settings=data, blank=(100, 100, 100))
        moved_in |= set(np.unique(got["image"]))
    assert len(moved_in) > 10


@few
@given(st.integers(0, 2), st.booleans(), seeds)
def test_crop_and_flip_add_black_and_nothing_else(crop, flip, seed):
    # Pixels that all differ, none black: what is left of them is each there once.
    image = np.arange(1, 51, dtype=np.uint8).reshape(5, 5, 2)
    rng = np.random.default_rng(seed)
    got = augment({"image": image}, rng, settings=Data(crop=crop, flip=flip))["image"]
    assert got.shape == image.shape
    kept = got[got > 0]
    assert len(np.unique(kept)) == len(kept) >= (5 - crop) ** 2 * 2
    if not crop:
        np.testing.assert_array_equal(np.sort(kept), image.ravel())


# Size


@pytest.mark.parametrize("shape", [(256, 300, 3), (300, 256, 3), (256, 256, 1)])
def test_an_image_of_the_shorter_side_256_is_cropped_and_not_resized(shape):
    image = noise(*shape)
    top, left = (shape[0] - 224) // 2, (shape[1] - 224) // 2
    np.testing.assert_array_equal(
        resize_and_crop(image, size=224), image[top : top + 224, left : left + 224]
    )


@pytest.mark.parametrize(
    ("shape", "size"), [((6, 9, 1), 28), ((90, 40, 3), 7), ((1, 50, 3), 5)]
)
def test_resizing_keeps_the_aspect_and_the_middle(shape, size):
    height, width, channels = shape
    # A ramp along the longer side: its slope tells the scale, its middle the place.
    along = int(width > height)
    longer = shape[along]
    ramp = np.arange(longer) * (255 / longer)
    ramp = ramp[None, :, None] if along else ramp[:, None, None]
    image = np.broadcast_to(ramp, shape).astype(np.uint8)
    got = resize_and_crop(image, size=size)
    assert got.shape == (size, size, channels) and got.dtype == np.uint8
    line = (got[0, :, 0] if along else got[:, 0, 0]).astype(float)
    slope = 255 / longer * min(shape[:2]) / round(size * 256 / 224)
    # One rounding of a byte at each end, and one of a pixel of the scaled side.
    assert abs(line[-1] - line[0] - slope * (size - 1)) <= 2 + slope
    assert abs(line.mean() - (255 - 255 / longer) / 2) <= 1 + slope


def test_windows_have_the_area_and_the_aspect_that_they_should():
    height, width = 375, 500
    rng = np.random.default_rng(0)
    covered = np.zeros((height, width), bool)
    areas = []
    for _ in range(500):
        top, left, h, w = random_window(height, width, rng)
        assert 0 <= top <= height - h and 0 <= left <= width - w
        # Both sides are rounded by up to half a pixel.
        assert (w - 0.5) / (h + 0.5) <= 4 / 3 and (w + 0.5) / (h - 0.5) >= 3 / 4
        assert (w + 0.5) * (h + 0.5) >= 0.08 * height * width
        covered[top : top + h, left : left + w] = True
        areas.append(w * h / (height * width))
    assert covered.mean() > 0.99  # the very corner is in few windows
    # Large windows often do not fit, so that the mean is below 0.54, but not far.
    assert min(areas) < 0.1 and max(areas) > 0.9 and 0.4 < np.mean(areas) < 0.54


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1, 100), (0, 49, 1, 1)),  # 4/3 of one row, rounded; (100 - 1) / 2
        ((100, 1), (49, 0, 1, 1)),
        ((30, 400), (0, 180, 30, 40)),
        ((400, 30), (180, 0, 40, 30)),
        ((12, 12), (0, 0, 12, 12)),
    ],
)
def test_where_no_window_fits_the_largest_in_the_middle_is_taken(shape, expected):
    class AlwaysAll(Scripted):
        def uniform(self, low, high):
            return high  # all of the area, the widest aspect

    assert random_window(*shape, AlwaysAll()) == expected


def test_a_resized_window_keeps_its_mean():
    image = noise(40, 60, 3)
    rng, twin = np.random.default_rng(1), np.random.default_rng(1)
    for _ in range(20):
        got = random_resized_crop(image, rng, size=30)
        top, left, h, w = random_window(40, 60, twin)
        window = image[top : top + h, left : left + w]
        assert got.shape == (30, 30, 3) and got.dtype == np.uint8
        # The outermost pixels weigh a little less or more: of noise with a standard
        # deviation of 74, some 100 of them, beside the rounding.
        assert abs(got.mean() - window.mean()) < 5


# Crop and flip


def test_every_crop_is_a_window_of_the_framed_image_and_every_window_occurs():
    image = np.arange(1, 13, dtype=np.uint8).reshape(3, 4, 1)
    framed = np.pad(image, ((1, 1), (1, 1), (0, 0)))  # zeros: black
    windows = {
        framed[i : i + 3, j : j + 4].tobytes() for i in range(3) for j in range(3)
    }
    rng = np.random.default_rng(0)
    crops = [random_crop(image, rng, padding=1) for _ in range(200)]
    assert {crop.shape for crop in crops} == {image.shape}
    assert {crop.tobytes() for crop in crops} == windows


def test_a_flip_exchanges_left_and_right_half_of_the_time():
    image = np.arange(12, dtype=np.uint8).reshape(2, 3, 2)
    rng = np.random.default_rng(0)
    flips = [random_flip(image, rng) for _ in range(400)]
    mirrored = [flip[0, 0, 0] == image[0, 2, 0] for flip in flips]
    # 200 expected, standard deviation 10.
    assert 150 < sum(mirrored) < 250
    for flip, was_mirrored in zip(flips, mirrored, strict=True):
        back = flip[:, ::-1] if was_mirrored else flip
        np.testing.assert_array_equal(back, image)


# AutoAugment


def outcomes():
    """Probability of each sequence of (operation, size of its strength)."""
    law = Counter()
    for first, second in POLICY:
        for used in ((False, False), (False, True), (True, False), (True, True)):
            steps, probability = (), 1 / len(POLICY)
            for (name, chance, level), use in zip((first, second), used, strict=True):
                probability *= chance if use else 1 - chance
                steps += ((name, abs(OPERATIONS[name].strength(level))),) * use
            law[steps] += probability
    return law


def test_sub_policies_and_their_operations_are_as_frequent_as_the_table_says():
    assert len(POLICY) == 25
    n, rng = 20_000, np.random.default_rng(0)
    draws = [draw(rng) for _ in range(n)]
    seen = Counter(tuple((name, abs(by)) for name, by in drawn) for drawn in draws)
    law = outcomes()
    assert seen.keys() <= law.keys() and math.isclose(sum(law.values()), 1)
    for steps, p in law.items():
        # Five standard deviations of a binomial: once in 20,000 tables of 80 rows.
        assert abs(seen[steps] - n * p) <= 5 * math.sqrt(n * p * (1 - p)), steps
        assert seen[steps] or p < 1e-3  # 20 expected
    for name in OPERATIONS:
        by = np.array([by for drawn in draws for of, by in drawn if of == name and by])
        negative = (by < 0).sum()
        expected = len(by) / 2 if OPERATIONS[name].signed else 0
        assert abs(negative - expected) <= 5 * math.sqrt(len(by) / 4 + 1e-9), name


def test_the_policy_has_the_totals_of_the_published_table():
    # Added up by operation, to find a slip of the pen: times, probabilities, levels.
    rows = [row for subpolicy in POLICY for row in subpolicy]
    totals = {
        name: np.sum([(1, p, level or 0) for of, p, level in rows if of == name], 0)
        for name in OPERATIONS
    }
    expected = {
        "shear_y": (2, 0.7, 15),
        "translate_x": (2, 0.8, 17),
        "translate_y": (5, 3.4, 39),
        "rotate": (1, 0.7, 2),
        "color": (5, 2.9, 27),
        "contrast": (2, 0.8, 13),
        "brightness": (4, 2.3, 25),
        "sharpness": (5, 2.8, 24),
        "posterize": (1, 0.3, 7),
        "solarize": (4, 1.9, 18),
        "autocontrast": (7, 5.0, 0),
        "equalize": (9, 4.7, 0),
        "invert": (3, 0.2, 0),
    }
    assert totals.keys() == expected.keys()
    for name, total in totals.items():
        np.testing.assert_allclose(total, expected[name], err_msg=name)


@pytest.mark.parametrize(
    ("name", "level", "strength"),
    [
        ("rotate", 9, 30),
        ("rotate", 2, 60 / 9),
        ("shear_y", 8, 2.4 / 9),
        ("translate_y", 9, 150 / 331),
        ("contrast", 6, 0.6),
        ("posterize", 7, 8 - 28 / 9),  # 4.9: five bits
        ("solarize", 5, 256 * 4 / 9),
        ("equalize", None, 0),
    ],
)
def test_strengths_are_linear_in_the_level(name, level, strength):
    assert math.isclose(OPERATIONS[name].strength(level), strength)


@pytest.mark.parametrize(
    "name", sorted(OPERATIONS.keys() - {"autocontrast", "equalize", "invert"})
)
def test_level_zero_changes_nothing(name):
    image = noise(9, 7, 3)
    np.testing.assert_array_equal(
        changed(image, name, OPERATIONS[name].strength(0)), image
    )


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_a_grey_image_is_changed_as_one_of_three_equal_channels(name):
    grey = noise(12, 10) // 2 + 40
    strength = OPERATIONS[name].strength(7)
    coloured = changed(np.repeat(grey[..., None], 3, -1), name, strength)
    alone = changed(grey, name, strength, GREY[:1])
    np.testing.assert_array_equal(coloured, np.repeat(alone[..., None], 3, -1))


def test_colour_operations_follow_their_equations():
    image = noise(8, 8, 3)
    wide = image.astype(float)
    np.testing.assert_array_equal(changed(image, "invert", 0), 255 - image)
    np.testing.assert_array_equal(
        changed(changed(image, "invert", 0), "invert", 0), image
    )
    np.testing.assert_array_equal(changed(image, "posterize", 4.9), image // 8 * 8)
    np.testing.assert_array_equal(
        changed(image, "solarize", 113.8), np.where(image < 113.8, image, 255 - image)
    )
    for by in (-0.6, 0.7):
        grey = np.asarray(Image.fromarray(image).convert("L")).astype(float)
        for name, start in (
            ("brightness", 0),
            ("contrast", np.round(grey.mean())),
            ("color", grey[..., None]),
        ):
            exact = np.clip(start + (1 + by) * (wide - start), 0, 255)
            # A byte is rounded or cut off.
            assert np.abs(changed(image, name, by) - exact).max() <= 1


def test_histogram_operations_use_the_whole_range():
    image = noise(40, 30, 3) // 4 + 100
    low, high = (image.min((0, 1)).astype(float), image.max((0, 1)).astype(float))
    stretched = changed(image, "autocontrast", 0)
    # Cut off to a byte; a product that is whole may fall below it.
    assert np.abs(stretched - (image - low) * 255 / (high - low)).max() <= 1
    equalized = changed(image, "equalize", 0)
    for c in range(3):
        # Pixels are spread by rank, in whole steps of which 255 come before the last.
        counts = np.bincount(image[..., c].ravel(), minlength=256)
        step = (counts.sum() - counts[counts > 0][-1]) // 255
        below = np.cumsum(counts) - counts
        table = np.minimum((step // 2 + below) // step, 255)
        np.testing.assert_array_equal(equalized[..., c], table[image[..., c]])


def test_geometric_operations_move_pixels_and_fill_with_the_blank_colour():
    image, blank = noise(20, 40, 3), (1, 2, 3)
    frame = np.full((80, 120, 3), blank, np.uint8)
    frame[30:50, 40:80] = image
    for sign in (1, -1):
        # 150 / 331 of 40 pixels is 18.1, and of 20 pixels 9.06; both are cut off.
        by = sign * OPERATIONS["translate_x"].strength(9)
        left, top = 40 + sign * 18, 30 + sign * 9
        np.testing.assert_array_equal(
            changed(image, "translate_x", by, blank), frame[30:50, left : left + 40]
        )
        np.testing.assert_array_equal(
            changed(image, "translate_y", by, blank), frame[top : top + 20, 40:80]
        )
        sheared = changed(image, "shear_y", sign * 0.3, blank)
        for x in range(40):
            # The middle of a pixel is moved: no ties at a slope of 0.3.
            source = np.floor(np.arange(20) + 0.5 + sign * 0.3 * (x + 0.5)).astype(int)
            np.testing.assert_array_equal(sheared[:, x], frame[30 + source, 40 + x])
    image = image[:, :20]
    np.testing.assert_array_equal(changed(image, "rotate", 90), np.rot90(image))
    corner = changed(image, "rotate", 30, blank)[0, 0]
    np.testing.assert_array_equal(corner, blank)


# Colour jitter


def test_jitter_of_strength_zero_changes_nothing():
    image = noise(7, 5, 3)
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(color_jitter(image, rng, strength=0), image)


def test_jitter_factors_reach_their_limits_and_not_beyond():
    rng = np.random.default_rng(0)
    # Contrast and saturation have nothing to change in one shade of grey.
    for channels in (1, 3):
        plain = np.full((2, 2, channels), 100, np.uint8)
        values = [color_jitter(plain, rng, strength=0.4).mean() for _ in range(300)]
        # A byte is rounded or cut off: one level.
        assert 59 <= min(values) < 64 and 136 < max(values) <= 140
    # Contrast stretches about the mean: the difference is scaled by it as well.
    halves = np.zeros((2, 2, 1), np.uint8)
    halves[0] = 200
    spreads = [np.ptp(color_jitter(halves, rng, strength=0.2)) for _ in range(300)]
    # The two factors of brightness and contrast, one level of rounding for each.
    assert 128 - 2 <= min(spreads) < 145
    # All three act on the difference between two channels.
    coloured = np.tile(np.uint8([150, 50, 100]), (2, 2, 1))
    got = [color_jitter(coloured, rng, strength=0.1) for _ in range(500)]
    spreads = [int(x[0, 0, 0]) - int(x[0, 0, 1]) for x in got]
    # One level for each of three roundings of each of two channels.
    assert 100 * 0.9**3 - 6 <= min(spreads) < 100 * 0.9**2
    assert 100 * 1.1**2 < max(spreads) <= 100 * 1.1**3 + 6


def test_jitter_comes_in_every_order():
    # What brightness cuts off at white, contrast cannot bring back.
    class Fixed:
        def __init__(self, order):
            self.order = order

        def uniform(self, low, high, size):
            return np.array([1.5, 0.5, 1.0])

        def permutation(self, n):
            return self.order

    image = noise(6, 6, 3)
    first = color_jitter(image, Fixed([0, 1, 2]), strength=0.5)
    second = color_jitter(image, Fixed([1, 0, 2]), strength=0.5)
    assert (first != second).any()


# Cutout


@pytest.mark.parametrize("side", [1, 2, 5, 6, 40])
def test_cutout_paints_exactly_the_pixels_of_its_square(side):
    image = np.full((7, 9, 2), 50, np.uint8)
    y, x = np.mgrid[:7, :9]
    for row, column in np.ndindex(7, 9):
        got = cutout(image, Scripted(row, column), side=side, blank=(8, 9))
        top, left = row - side // 2, column - side // 2
        inside = (y >= top) & (y < top + side) & (x >= left) & (x < left + side)
        np.testing.assert_array_equal(got[inside], np.tile([8, 9], (inside.sum(), 1)))
        assert (got[~inside] == 50).all()
    assert (image == 50).all()


def test_cutout_of_16_in_32_blanks_196_pixels_on_average():
    # Of the 16 rows, centres 0..7 lose 8..1 above, and centres 25..31 lose 1..7 below:
    # 16 * 32 - 36 - 28 = 14 * 32. Columns likewise: 14 * 14 = 196.
    image = np.ones((32, 32, 1), np.uint8)
    blanked = [
        (cutout(image, Scripted(*centre), side=16, blank=0) == 0).sum()
        for centre in np.ndindex(32, 32)
    ]
    assert np.mean(blanked) == 196


def test_cutout_centres_are_all_pixels():
    image, rng = np.zeros((3, 4, 1), np.uint8), np.random.default_rng(0)
    seen = {
        tuple(np.argwhere(cutout(image, rng, side=1)[..., 0])[0]) for _ in range(300)
    }
    assert seen == set(np.ndindex(3, 4))


# Bad input


def test_a_random_resized_crop_needs_a_size():
    config = Config()
    config.data.random_resized_crop = True
    with pytest.raises(ValueError, match="data.image_size .* got 0"):
        validate(config)
    config.data.image_size = 32
    validate(config)


@pytest.mark.parametrize(
    "data", [Data(image_size=4), Data(autoaugment=True), Data(color_jitter=0.1)]
)
def test_other_than_one_or_three_channels_are_refused(data):
    with pytest.raises(ValueError, match="1 or 3 channels, got 2") as error:
        augment(
            {"image": noise(5, 5, 2)}, np.random.default_rng(0), settings=data, blank=0
        )
    assert "\n" not in str(error.value)
