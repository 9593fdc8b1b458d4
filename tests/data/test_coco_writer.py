"""What is written in COCO's format is what the reader reads."""

import importlib
import zipfile

import commands
import numpy as np
import pytest
from pictures import encoded
from PIL import Image

from bitsnn_jax.config import Data
from bitsnn_jax.data import load_boxes
from bitsnn_jax.data.coco_writer import Boxed, write_boxes
from bitsnn_jax.data.splits import held_out, tenth


def drawn(count, *, side=16):
    """Pictures with boxes of quarters of pixels, of which the last is a crowd."""
    rng = np.random.default_rng(0)
    for i in range(count):
        corners = np.sort(rng.integers(0, 4 * side, (i, 2, 2)), axis=1) / 4
        boxes = corners.reshape(-1, 4) + [0, 0, 0.25, 0.25]
        yield Boxed(
            rng.integers(0, 256, (side, side, 3), np.uint8),
            boxes.clip(0, side),
            rng.integers(0, 3, i),
            areas=np.arange(1, i + 1),
            crowd=np.arange(i) == i - 1,
        )


@pytest.mark.parametrize("repeats", [1, 3])
def test_what_is_written_is_read(tmp_path, repeats):
    names = ["cat", "dog", "cow"]
    for part in ("train", "val"):
        counts = write_boxes(
            tmp_path,
            part,
            drawn(5),
            categories=names,
            info={},
            repeats=repeats,
        )
        assert counts == {"pictures": 5, "boxes": 10}
    data = Data(name="coco", directory=str(tmp_path), image_size=16)
    test = load_boxes(data, "test")
    assert test.categories == tuple(names) and len(test) == 5 * repeats
    for i in range(len(test)):
        wanted, found = list(drawn(5))[i // repeats], test[i]
        fields = ("image", "boxes", "classes", "area", "crowd")
        for name, array in zip(fields, wanted, strict=True):
            np.testing.assert_array_equal(found[name], array)


# deepforest's scenes

SCENES = {
    "2019_YELL_2_528000_4978000_image_crop2": (50, 40),
    "2019_YELL_2_541000_4977000_image_crop": (33, 20),
    "OSBS_029": (20, 20),
    "SOAP_061": (20, 20),
}
TREES = [(2, 3, 8, 9), (13, 4, 19, 12)]


@pytest.fixture
def wheel(tmp_path):
    """The scenes, of few pixels: each grey is a place."""
    path = tmp_path / "deepforest.whl"
    with zipfile.ZipFile(path, "w") as file:
        for name, (width, height) in SCENES.items():
            rows, columns = np.indices((height, width))
            pixels = np.stack([rows, columns, rows], axis=-1).astype(np.uint8)
            boxes = "".join(
                "<object><name>Tree</name><bndbox>"
                f"<xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
                "</bndbox></object>"
                for x0, y0, x1, y1 in TREES
            )
            place = f"deepforest/data/{name}"
            file.writestr(f"{place}.png", encoded(Image.fromarray(pixels)))
            file.writestr(f"{place}.xml", f"<annotation>{boxes}</annotation>")
    return path


def test_tiles_cover_the_scenes_and_all_are_trained_on(wheel, tmp_path, monkeypatch):
    words = [str(wheel), "--to", str(tmp_path / "to"), "--tile", "16"]
    assert commands.run("experiments.deepforest_scenes", words, monkeypatch) == 0
    data = Data(name="coco", directory=str(tmp_path / "to"), image_size=16)
    train, test = (load_boxes(data, split) for split in ("train", "test"))
    assert test.categories == ("Tree",) and len(test) == 12 + 6 + 4 + 4
    names = test.instances.names[test.order]
    assert set(train.instances.names[train.order]) == set(names)
    places = {
        (y, x)
        for i in range(12)
        for y, x in test[i]["image"][..., :2].reshape(-1, 2).tolist()
    }
    assert places == {(y, x) for y in range(40) for x in range(50)}
    # Tiles of OSBS_029 begin at 0 and 4 on either axis.
    first, second = test[18], test[19]
    assert second["image"][0, 0].tolist() == [0, 4, 0]
    assert first["boxes"].tolist() == [[2, 3, 8, 9], [13, 4, 16, 12]]
    assert first["crowd"].tolist() == [False, False]  # half of a tree is one
    assert second["boxes"].tolist() == [[0, 3, 4, 9], [9, 4, 15, 12]]
    assert test[20]["boxes"].tolist() == [[2, 0, 8, 5], [13, 0, 16, 8]]


@pytest.mark.parametrize("count", [4, 26, 123, 186])
def test_one_of_each_tile_is_trained_on_and_none_is_listed_in_vain(count, monkeypatch):
    monkeypatch.syspath_prepend(str(commands.ROOT / "experiments"))
    times = importlib.import_module("deepforest_scenes").repeats(count)

    def trained(times):
        order, _ = held_out(count * times, tenth(count * times))
        return len(set(order // times))

    assert trained(times) == count
    assert times == 2 or trained(times - 1) < count


@pytest.mark.parametrize("damage", ["missing", "text", "no wheel"])
def test_another_package_is_refused(wheel, tmp_path, monkeypatch, capfd, damage):
    inside = "deepforest/data/OSBS_029.xml"
    if damage == "no wheel":
        wheel.write_bytes(b"PK")
        line = "expected the wheel of deepforest 2.1.0"
    else:
        folder = tmp_path / "folder"
        zipfile.ZipFile(wheel).extractall(folder)
        (folder / inside).unlink()
        if damage == "text":
            (folder / inside).write_text("<annotation><object/></annotation>")
        wheel, line = folder, f"{inside}: expected boxes of trees"
    words = [str(wheel), "--to", str(tmp_path / "to")]
    status = commands.run("experiments.deepforest_scenes", words, monkeypatch)
    commands.check_line(status, capfd.readouterr(), line)
    assert not (tmp_path / "to").exists()
