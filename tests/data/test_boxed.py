"""Pictures with boxes: read by the rules of data/coco.py, as rows of fixed shape."""

import json

import numpy as np
import pytest
from boxed_pictures import NAMES, annotation, instances, write_boxes, write_part

from bitsnn_jax.config import Data
from bitsnn_jax.data import boxes_as_evaluated, eval_box_batches, load_boxes
from bitsnn_jax.data.coco import Pixels, read_head, read_instances

SIZES = {5: (16, 12), 2: (8, 8), 9: (10, 20)}


def read(directory, annotations, **fields):
    path = directory / "instances.json"
    path.write_text(json.dumps(instances(SIZES, annotations, **fields)))
    return read_instances(path)


# What becomes of what is in a file


def test_boxes_are_corners_and_come_with_their_picture_in_the_order_of_the_file(
    tmp_path,
):
    rows = [(9, [1, 2, 3, 4.5]), (5, [0, 0, 2, 2]), (9, [0, 0, 1, 1])]
    found = read(tmp_path, [annotation(*row) for row in rows])
    assert found.names.tolist() == [b"%012d.png" % i for i in (5, 2, 9)]
    assert found.sizes.tolist() == [[12, 16], [8, 8], [20, 10]]
    assert found.most == 2
    assert found.of(0)["boxes"].tolist() == [[0, 0, 2, 2]]
    assert found.of(1)["boxes"].shape == (0, 4)  # a picture without any is kept
    assert found.of(2)["boxes"].tolist() == [[1, 2, 4, 6.5], [0, 0, 1, 1]]
    assert [found.of(2)[x].dtype for x in ("boxes", "classes")] == ["f4", "i4"]


def test_categories_with_holes_are_classes_in_the_order_of_their_ids(tmp_path):
    boxes = [annotation(5, [0, 0, 2, 2], c) for c in (8, 3, 7)]
    categories = [{"id": i, "name": NAMES[i]} for i in (7, 3, 8)]
    assert read(tmp_path, boxes, categories=categories).classes.tolist() == [2, 0, 1]
    head = read_head(tmp_path / "instances.json")
    assert head.categories == ((3, "cat"), (7, "dog"), (8, "cow"))


def test_a_box_partly_outside_is_clipped(tmp_path):
    found = read(
        tmp_path, [annotation(5, box) for box in ([-3, 4, 5, 99], [8, -1, 99, 4])]
    )
    assert found.boxes.tolist() == [[0, 4, 2, 12], [8, 0, 16, 3]]


BAD = [[-9, 0, 4, 4], [16, 0, 4, 4], [0, 12, 4, 4], [2, 2, 0, 4], [2, 2, 4, 0]]
BAD += [[6, 6, -3, 3], [1e300, 0, 1, 1], [-1e308, 0, 1e308, 4]]


def test_boxes_outside_or_of_no_area_are_left_out_with_one_warning(tmp_path):
    boxes = [annotation(5, box) for box in [[0, 0, 1, 1], *BAD, [1, 1, 1, 1]]]
    with pytest.warns(UserWarning, match="left out 8 of 10 boxes") as told:
        found = read(tmp_path, boxes)
    assert len(told) == 1
    assert found.boxes.tolist() == [[0, 0, 1, 1], [1, 1, 2, 2]]


def test_a_crowd_is_kept_and_flagged(tmp_path):
    flags = {"crowd": {"iscrowd": 1}, "none": {"iscrowd": 0}, "unsaid": {}}
    boxes = [annotation(5, [0, 0, 2, 2], **flag) for flag in flags.values()]
    assert read(tmp_path, boxes).crowd.tolist() == [True, False, False]


def test_the_area_is_that_of_the_outline_or_else_of_the_box(tmp_path):
    areas = [{"area": 2.5}, {}, {"area": None}, {"area": 0}, {"area": -4}]
    outline = {"segmentation": {"counts": "e2", "size": [1, 2]}}
    boxes = [annotation(5, [0, 0, 2, 3], **area, **outline) for area in areas]
    assert read(tmp_path, boxes).area.tolist() == [2.5, 6, 6, 6, 6]


# What is refused

GOOD = [annotation(5, [0, 0, 2, 2])]


def refusal(directory, file):
    path = directory / "instances.json"
    path.write_bytes(file if isinstance(file, bytes) else json.dumps(file).encode())
    with pytest.raises(ValueError) as error:
        read_instances(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"bbox": [0, 0, 2]}, "`array` of length 4 - at `$.annotations[1].bbox`"),
        ({"bbox": [0, 0, 2, "2"]}, "got `str` - at `$.annotations[1].bbox[3]`"),
        ({"bbox": [0, 0, 2, float("nan")]}, "invalid character"),
        ({"bbox": [0, 0, 2, float("inf")]}, "invalid character"),
        ({"bbox": [0, 0, 2, None]}, "got `null` - at `$.annotations[1].bbox[3]`"),
        ({"category_id": "7"}, "got `str` - at `$.annotations[1].category_id`"),
        (
            {"category_id": 4},
            "got category_id 4 in annotations[1]: add it to categories",
        ),
        ({"image_id": 6}, "got image_id 6 in annotations[1]: add it to images, or"),
        ({"id": 0}, "each id of annotations once, got 0 twice"),
    ],
)
def test_a_wrong_annotation_is_named(tmp_path, change, part):
    wrong = annotation(5, [0, 0, 2, 2]) | change
    assert part in refusal(tmp_path, instances(SIZES, [*GOOD, wrong]))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"width": 0}, "1..65535 pixels a side for '000000000005.png', got 0 x 12"),
        ({"height": -3}, "got 16 x -3"),
        ({"width": 10**30}, "got 1000000000000000000000000000000 x 12"),
        ({"width": "16"}, "got `str` - at `$.images[0].width`"),
        ({"id": 2}, "each id of images once, got 2 twice"),
        ({"file_name": "/etc/passwd"}, "inside the folder of the pictures, got"),
        ({"file_name": "a/../../b.png"}, "inside the folder of the pictures, got"),
        ({"file_name": ""}, "inside the folder of the pictures, got ''"),
        ({"file_name": "a\0.png"}, "inside the folder of the pictures, got"),
    ],
)
def test_a_wrong_picture_is_named(tmp_path, change, part):
    file = instances(SIZES, [annotation(9, [0, 0, 2, 2])])
    file["images"][0] |= change
    assert part in refusal(tmp_path, file)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"images": [], "annotations": []}, "expected pictures in images, got none"),
        ({"annotations": []}, "boxes that lie in their pictures, got none of 0 ann"),
        ({"annotations": [annotation(5, [0, 0, 0, 9])]}, "got none of 1 annotations"),
        ({"categories": []}, "expected categories, got none"),
        ({"categories": [{"id": 7, "name": "a"}] * 2}, "got 7 twice"),
        ({"annotations": None}, "Expected `array`, got `null` - at `$.annotations`"),
        ({"info": {"pixels": {"channels": 2}}}, "Invalid enum value 2"),
        ({"info": {"pixels": {"mean": [0.5]}}}, "a mean and a positive std for each"),
        ({"info": {"pixels": {"channels": 1, "std": [0]}}}, "got [] and [0.0]"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, change, part):
    assert part in refusal(tmp_path, instances(SIZES, GOOD) | change)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"images": [', b"{}", b"\xff\xd8"])
def test_a_damaged_file_is_named(tmp_path, content):
    assert "is not a whole instances file of COCO" in refusal(tmp_path, content)
    nested = b'{"info": ' + b"[" * 10**5
    assert "nested too deep" in refusal(tmp_path, nested)


# A data set


def test_the_parts_of_the_folder_are_the_splits(tmp_path):
    data = write_boxes(tmp_path)
    splits = [load_boxes(data, split) for split in ("train", "validation", "test")]
    assert [len(split) for split in splits] == [18, 2, 5]
    assert sorted(np.concatenate([s.order for s in splits[:2]])) == list(range(20))
    assert splits[0].instances is splits[1].instances  # read once
    for split in splits:
        assert split.image_shape == split.input_shape == (16, 16, 3)
        assert split.categories == ("cat", "dog", "cow") and split.num_classes == 3
    assert len(splits[2].first(2)) == 2


@pytest.mark.parametrize("year", ["2017", "_of_mine"])
def test_a_year_in_the_name_of_a_file_is_in_that_of_its_folder(tmp_path, year):
    data = write_boxes(tmp_path)
    for part in ("train", "val"):
        (tmp_path / part).rename(tmp_path / f"{part}{year}")
        file = tmp_path / "annotations" / f"instances_{part}.json"
        file.rename(file.with_stem(f"instances_{part}{year}"))
    assert load_boxes(data, "test")[1]["image"].shape == (16, 16, 3)


def test_an_example_is_a_picture_with_its_boxes(tmp_path):
    test = load_boxes(write_boxes(tmp_path), "test")
    example = test[2]
    assert example["image"].shape == (16, 16, 3) and example["image"].dtype == np.uint8
    assert example["boxes"].tolist() == [[0, 2, 6, 10], [1, 2, 8, 10]]
    assert example["classes"].tolist() == [0, 1] and example["id"] == 2
    assert example["area"].tolist() == [48, 56] and not example["crowd"].any()


def test_a_row_has_fixed_shape_its_longer_side_is_brought_to_the_size(tmp_path):
    write_boxes(tmp_path)
    boxes = [annotation(5, [2, 4, 6, 8]), annotation(5, [0, 0, 16, 12], 3, iscrowd=1)]
    write_part(tmp_path, "val", instances(SIZES, boxes))
    data = Data(name="coco", directory=str(tmp_path), image_size=8)
    test = load_boxes(data, "test")
    row = boxes_as_evaluated(data, test, 0)
    assert {name: (x.shape, x.dtype) for name, x in row.items()} == {
        "image": ((8, 8, 3), np.uint8),
        "boxes": ((2, 4), np.float32),
        "classes": ((2,), np.int32),
        "crowd": ((2,), bool),
        "area": ((2,), np.float32),
        "scale": ((), np.float32),
        "id": ((), np.int32),
    }
    assert row["scale"] == 0.5  # of 16 x 12
    assert row["boxes"].tolist() == [[1, 2, 4, 6], [0, 0, 8, 6]]
    assert row["classes"].tolist() == [1, 0] and row["crowd"].tolist() == [False, True]
    assert row["area"].tolist() == [48, 192]  # of the picture as it is stored
    mean = np.rint(test.mean * 255)
    assert (row["image"][6:] == mean).all() and not (row["image"][:6] == mean).all()
    empty = boxes_as_evaluated(data, test, 1)
    assert empty["classes"].tolist() == [-1, -1] and not empty["boxes"].any()
    assert empty["scale"] == 1  # nothing is resized
    np.testing.assert_array_equal(empty["image"], test[1]["image"])


def test_grey_pictures_say_so_in_the_file(tmp_path):
    data = write_boxes(tmp_path)
    path = tmp_path / "annotations" / "instances_train.json"
    grey = {"channels": 1, "mean": [0.25], "std": [0.5]}
    file = json.loads(path.read_text()) | {"info": {"pixels": grey}}
    path.write_text(json.dumps(file))
    test = load_boxes(data, "test")
    assert test.image_shape == (16, 16, 1) and test[0]["image"].shape == (16, 16, 1)
    assert (test.mean, test.std) == (0.25, 0.5)
    # Without numbers it is the scale of ImageNet, averaged over its channels.
    path.write_text(json.dumps(file | {"info": {"pixels": {"channels": 1}}}))
    test = load_boxes(data, "test")
    np.testing.assert_allclose([test.mean, test.std], [[0.449], [0.226]], rtol=1e-6)
    for info in (None, "COCO 2017", {"year": 2017}, {"pixels": {}}):
        path.write_text(json.dumps(file | {"info": info}))
        assert read_head(path).pixels == Pixels()


def test_every_picture_is_evaluated_once_in_batches_of_equal_shape(tmp_path):
    data = write_boxes(tmp_path, val=6)
    test = load_boxes(data, "test")
    batches = list(eval_box_batches(data, test))
    assert [batch["boxes"].shape for batch in batches] == [(4, 3, 4)] * 2
    ids = np.concatenate([batch["id"][batch["mask"]] for batch in batches])
    assert ids.tolist() == list(range(6))
    assert batches[1]["mask"].tolist() == [True, True, False, False]
    for i, row in enumerate(batches[0]["boxes"]):
        np.testing.assert_array_equal(row[: i % 4], test[i]["boxes"])


# A data set that is not whole


def test_a_missing_picture_is_named_at_once(tmp_path):
    data = write_boxes(tmp_path)
    for i in (3, 1):
        (tmp_path / "val" / f"{i:012}.png").unlink()
    with pytest.raises(FileNotFoundError) as error:
        load_boxes(data, "test")
    message = str(error.value)
    assert "val/000000000001.png" in message and "2 of 5 are missing" in message
    assert "\n" not in message
    assert len(load_boxes(data, "train")) == 18  # which has all its pictures


def test_a_picture_that_cannot_be_read_keeps_its_boxes_in_evaluation(tmp_path):
    data = write_boxes(tmp_path, unreadable="skip")
    names = [tmp_path / "val" / f"{i:012}.png" for i in range(4)]
    names[1].unlink()
    names[2].write_bytes(b"damaged")
    names[3].write_bytes((tmp_path / "val" / f"{4:012}.png").read_bytes()[:60])
    test = load_boxes(data, "test")
    for i, reason in ((1, "no such file"), (2, "7 bytes"), (3, "60 bytes")):
        with pytest.warns(UserWarning, match=f"{i:012}.*{reason}.*will miss its"):
            row = boxes_as_evaluated(data, test, i)
        assert (row["image"] == np.rint(test.mean * 255)).all()
        assert (row["classes"] >= 0).sum() == i


def test_a_picture_that_is_not_there_takes_no_memory_for_its_size(tmp_path):
    data = write_boxes(tmp_path, unreadable="skip")
    boxes = [annotation(0, [0, 0, 32767, 60000])]
    file = instances({0: (65535, 65535)}, boxes)
    path = tmp_path / "annotations" / "instances_val.json"
    path.write_text(json.dumps(file))
    with pytest.warns(UserWarning, match="not the 65535 x 65535"):
        row = boxes_as_evaluated(data, load_boxes(data, "test"), 0)
    np.testing.assert_allclose(row["boxes"], [[0, 0, 8, 14.6]], atol=0.1)
    assert len(np.unique(row["image"].reshape(-1, 3), axis=0)) == 1


def test_a_picture_of_another_size_than_its_annotations_say_is_named(tmp_path):
    data = write_boxes(tmp_path)
    file = instances({0: (15, 16)}, [annotation(0, [0, 0, 2, 2])])
    path = tmp_path / "annotations" / "instances_val.json"
    path.write_text(json.dumps(file))
    with pytest.raises(ValueError) as error:
        load_boxes(data, "test")[0]
    for part in ("val/000000000000.png", "16 x 16 pixels", "not the 15 x 16"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("missing", "part"),
    [
        ("annotations/instances_train.json", "annotations/instances_train*.json"),
        ("annotations/instances_val.json", "annotations/instances_val*.json"),
        ("val", "expected its pictures in"),
    ],
)
def test_missing_files_are_named(tmp_path, missing, part):
    data = write_boxes(tmp_path)
    (tmp_path / missing).rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError) as error:
        load_boxes(data, "test")
    assert part in str(error.value) and str(tmp_path) in str(error.value)


def test_parts_of_different_categories_are_refused(tmp_path):
    data = write_boxes(tmp_path)
    path = tmp_path / "annotations" / "instances_val.json"
    file = json.loads(path.read_text())
    file["categories"][2]["name"] = "horse"
    path.write_text(json.dumps(file))
    with pytest.raises(ValueError, match="expected the 3 categories of instances_tr"):
        load_boxes(data, "test")


def test_two_files_for_one_part_are_refused(tmp_path):
    data = write_boxes(tmp_path)
    path = tmp_path / "annotations" / "instances_val.json"
    path.with_stem("instances_val2017").write_text(path.read_text())
    with pytest.raises(ValueError, match="found instances_val.json, instances_val2017"):
        load_boxes(data, "test")


def test_a_size_is_asked_for(tmp_path):
    data = write_boxes(tmp_path, image_size=0)
    with pytest.raises(ValueError, match="set data.image_size, e.g. 512"):
        load_boxes(data, "train")
