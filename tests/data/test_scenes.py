"""Scenes of garments: every object in sight has its box, and the reader reads them."""

import gzip
import json

import commands
import numpy as np
import pytest

from bitsnn_jax.config import Data
from bitsnn_jax.data import boxes_as_evaluated, load, load_boxes
from bitsnn_jax.data.fashion_scenes import GARMENTS, SceneOptions, main, write_scenes
from bitsnn_jax.data.scenes import Objects, draw_scene


def rectangles(count=40):
    """Bright ones, of which each has a grey of its own, on black."""
    images, rng = np.zeros((count, 28, 28), np.uint8), np.random.default_rng(0)
    for i, image in enumerate(images):
        top, left = rng.integers(0, 10, 2)
        bottom, right = rng.integers(16, 29, 2)
        image[top:bottom, left:right] = 255 - i
    return Objects(images, np.arange(count, dtype=np.int32))


def scene(seed, **options):
    options = {"size": 64, "count": (3, 9), "scales": (1, 1)} | options
    return draw_scene(rectangles(), np.random.RandomState(seed), **options)


def test_boxes_are_tight_around_the_pixels_that_are_seen():
    met = 0
    for seed in range(20):
        drawn = scene(seed)
        for box, label, area in zip(*drawn[1:], strict=True):
            if (drawn.classes == label).sum() > 1:
                continue  # of one grey
            # The background may have it too, but not often in a row.
            x0, y0, x1, y1 = box
            seen = drawn.pixels == 255 - label
            inside = seen[y0:y1, x0:x1]
            edges = inside[0], inside[-1], inside[:, 0], inside[:, -1]
            assert all(edge.any() for edge in edges)
            assert inside.sum() == area and seen.sum() - area < 5
            met += 1
    assert met > 50


def test_every_object_shows_at_least_half_of_its_pixels():
    objects = rectangles()
    totals = (objects.images > 0).sum((1, 2))
    shares = [
        drawn.areas / totals[drawn.classes]
        for drawn in (scene(seed, count=(12, 12)) for seed in range(10))
    ]
    assert min(map(len, shares)) < 12  # for some there was no place
    assert 0.5 <= np.concatenate(shares).min() < 0.7
    assert np.concatenate(shares).max() == 1


def test_specks_beside_an_object_do_not_widen_its_box():
    image = np.zeros((1, 28, 28), np.uint8)
    image[0, 8:20, 8:20] = 200
    image[0, 0, 0], image[0, 27, 20:] = 255, 5  # a speck, and what is nearly black
    image[0, 10:18, 10:18] = 0  # a hole in it is its own
    drawn = draw_scene(
        Objects(image, np.array([3])),
        np.random.RandomState(0),
        size=40,
        count=(1, 1),
        scales=(1, 1),
    )
    [[x0, y0, x1, y1]] = drawn.boxes
    assert (x1 - x0, y1 - y0) == (12, 12) and drawn.areas.tolist() == [144]


def test_scales_are_of_the_object():
    drawn = [scene(seed, count=(1, 1), scales=(2, 2)) for seed in range(9)]
    for one in drawn:
        x0, y0, x1, y1 = one.boxes[0]
        side = rectangles().images[one.classes[0]]
        assert abs((x1 - x0) - 2 * side.any(0).sum()) <= 1
        assert abs((y1 - y0) - 2 * side.any(1).sum()) <= 1


@pytest.fixture
def garments(tmp_path):
    """The four files, of bright garments to learn from and dark ones to test on."""
    for prefix, grey, count in (("train", 250, 24), ("t10k", 200, 20)):
        images = np.zeros((count, 12, 12), np.uint8)
        images[:, 2:10, 3:9] = grey
        for kind, array in (
            ("images-idx3", images),
            ("labels-idx1", np.arange(count, dtype=np.uint8) % 10),
        ):
            header = bytes((0, 0, 8, array.ndim))
            header += np.array(array.shape, ">i4").tobytes()
            path = tmp_path / "idx" / f"{prefix}-{kind}-ubyte.gz"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(gzip.compress(header + array.tobytes()))
    return tmp_path / "idx"


def options(garments, out, **fields):
    fields = {"train": 10, "val": 3, "size": 32} | fields
    return SceneOptions(source=str(garments), out=out, **fields)


def test_what_is_written_is_read_and_has_the_scale_of_the_classifier(
    garments, tmp_path
):
    counts = write_scenes(options(garments, tmp_path / "scenes"))
    data = Data(name="coco", directory=str(tmp_path / "scenes"), image_size=32)
    splits = [load_boxes(data, split) for split in ("train", "validation", "test")]
    assert [len(split) for split in splits] == [9, 1, 3]
    assert counts["val"] == {"pictures": 3, "boxes": len(splits[2].instances.boxes)}
    garment = load(Data(name="idx", directory=str(garments)), "train")
    for split in splits:
        assert split.categories == GARMENTS and split.image_shape == (32, 32, 1)
        assert (split.mean, split.std) == (garment.mean, garment.std)
    brightest = [split[0]["image"].max() for split in splits]
    # Garments of the training files to learn from, of the test files to test on.
    assert brightest == [250, 250, 200]
    row = boxes_as_evaluated(data, splits[2], 0)
    found = row["boxes"][row["classes"] >= 0]
    assert len(found) and (found[:, :2] < found[:, 2:]).all()


def test_the_same_options_give_the_same_bits(garments, tmp_path):
    trees = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_scenes(options(garments, tmp_path / name, seed=seed))
        files = commands.tree(tmp_path / name)
        trees.append({p.relative_to(tmp_path / name): x for p, x in files.items()})
    assert trees[0] == trees[1] != trees[2]
    # A scene does not depend on how many there are.
    write_scenes(options(garments, tmp_path / "d", train=2))
    for name in ("000001.png", "000002.png"):
        first, second = (tmp_path / x / "train" / name for x in "ad")
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--garments", "5", "2"], "--garments must be LOW and HIGH, in this order"),
        (["--size", "20"], "--size must be at least the 24 pixels of the largest"),
        (["--scales", "1", "9"], "--size must be at least the 108 pixels"),
        (["--train", "0"], "--train must be at least 1, got 0"),
        (
            ["--source", "nowhere"],
            "give a folder of IDX files (data.directory, or --source",
        ),
        (["--out", "{garments}"], "--out must be a new folder, or an empty one, got"),
    ],
)
def test_wrong_options_are_one_line_and_write_nothing(
    garments, tmp_path, capfd, words, line
):
    before = commands.tree(tmp_path)
    usual = ["--source", str(garments), "--out", str(tmp_path / "scenes")]
    usual += ["--size", "32"]
    with pytest.raises(SystemExit) as stop:
        main([*usual, *(word.format(garments=garments) for word in words)])
    commands.check_line(stop.value.code, capfd.readouterr(), line)
    assert commands.tree(tmp_path) == before


def test_a_disk_that_is_full_leaves_nothing(garments, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(json, "dumps", fail)
    with pytest.raises(OSError, match="No space"):
        write_scenes(options(garments, tmp_path / "scenes"))
    assert [path.name for path in tmp_path.iterdir()] == ["idx"]
