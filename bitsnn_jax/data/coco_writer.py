"""Pictures and boxes, written in COCO's format."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Num, UInt8
from PIL import Image


class Boxed(NamedTuple):
    """A picture and its boxes.

    Attributes:
      pixels: uint8, grey or RGB.
      boxes: x0, y0, x1, y1.
      classes: 0..K-1.
      areas: of what is in the boxes, in pixels; None for those of the boxes.
      crowd: whether a box counts for nothing; None for none.
    """

    pixels: UInt8[np.ndarray, "h w *c"]
    boxes: Num[np.ndarray, "n 4"]
    classes: Num[np.ndarray, " n"]
    areas: Num[np.ndarray, " n"] | None = None
    crowd: Bool[np.ndarray, " n"] | None = None


def check_new(folder: Path, option: str) -> None:
    """Refuse a folder that holds anything, which nobody means to replace.

    Raises:
      ValueError: there is one, or a file; the message names the option.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(
            f"{option} must be a new folder, or an empty one, got {folder}: remove it, "
            "or give another"
        )


def write_boxes(
    folder: Path,
    part: str,
    pictures: Iterable[Boxed],
    *,
    categories: Sequence[str],
    info: dict[str, Any],
    repeats: int = 1,
) -> dict[str, int]:
    """Write one part of a data set: PNG files and their instances file.

    Args:
      folder: of the data set; made where it is missing.
      part: "train" or "val".
      pictures: in their order; one at a time is in memory.
      categories: names of the classes; ids are counted from 1, as COCO's are.
      info: of the file, see `coco.Pixels`.
      repeats: how often the file lists each picture, one after the other.

    Returns:
      How many pictures and boxes were written, without repeats.
    """
    annotated, place = _Instances(repeats), folder / part
    place.mkdir(parents=True)
    count = 0
    for count, picture in enumerate(pictures, 1):
        name = f"{count:06}.png"
        Image.fromarray(picture.pixels).save(place / name)
        annotated.add(name, picture)
    file = {
        "info": info,
        "categories": [{"id": i, "name": n} for i, n in enumerate(categories, 1)],
        "images": annotated.images,
        "annotations": annotated.annotations,
    }
    (folder / "annotations").mkdir(exist_ok=True)
    path = folder / "annotations" / f"instances_{part}.json"
    path.write_text(json.dumps(file) + "\n")
    return {"pictures": count, "boxes": len(annotated.annotations) // repeats}


class _Instances:
    def __init__(self, repeats: int):
        self.repeats = repeats
        self.images: list[dict] = []
        self.annotations: list[dict] = []

    def add(self, name: str, picture: Boxed) -> None:
        height, width = picture.pixels.shape[:2]
        boxes = list(_annotations(picture))
        for _ in range(self.repeats):
            image = len(self.images) + 1
            size = {"width": width, "height": height}
            self.images.append({"id": image, "file_name": name, **size})
            for box in boxes:
                identity = {"id": len(self.annotations) + 1, "image_id": image}
                self.annotations.append(identity | box)


def _annotations(picture: Boxed) -> Iterator[dict]:
    boxes, classes, areas, crowd = picture[1:]
    sides = boxes[:, 2:] - boxes[:, :2]
    areas = sides.prod(1) if areas is None else areas
    crowd = np.zeros(len(boxes), bool) if crowd is None else crowd
    places = np.concatenate([boxes[:, :2], sides], axis=1).tolist()
    for i, place in enumerate(places):
        yield {
            "category_id": int(classes[i]) + 1,
            "bbox": place,
            "area": float(areas[i]),
            "iscrowd": int(crowd[i]),
        }
