"""COCO's instances files: pictures, categories and boxes, as arrays.

What a file may hold, and what becomes of it:

| in the file | what becomes of it |
|---|---|
| box partly outside its picture | clipped |
| box outside, or of no area | left out; one warning has their number |
| crowd, `iscrowd` 1 | kept and flagged |
| picture without boxes | kept |
| category ids with holes | classes 0..K-1, in the order of the ids |
| `area` missing, or not positive | that of the box |
| `segmentation` and other fields | ignored |
| damaged JSON, a missing field, text or NaN in the place of a number | error |
| unknown category or picture, an id that is there twice | error |
| picture of no area, no picture, no category, no box in the whole file | error |
"""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64

from bitsnn_jax.data.images import MAX_SIDE
from bitsnn_jax.runtime.reading import ReadingError, typed


class Pixels(msgspec.Struct, frozen=True):
    """What `info.pixels` of a file may say of its pictures; COCO itself says nothing.

    Attributes:
      channels: 1 for grey pictures; all pictures are decoded to it.
      mean, std: of the pixels of each channel, on the scale 0..1; ImageNet's where
        they are missing.
    """

    channels: Literal[1, 3] = 3
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


class Head(NamedTuple):
    """What the parts of a data set must have in common."""

    categories: tuple[tuple[int, str], ...]  # id and name, in the order of ids
    pixels: Pixels


@dataclass(frozen=True, eq=False, kw_only=True)
class Instances:
    """The pictures of one file in its order, and their boxes.

    Attributes:
      names: paths of the pictures in their folder, as bytes.
      sizes: height and width of each picture.
      ends: where the boxes of each picture end in the arrays below.
      boxes: x0, y0, x1, y1 in pixels, inside the picture, x0 < x1 and y0 < y1.
      classes: 0..K-1.
      crowd: whether a box is around many objects.
      area: in pixels, of the object's outline where the file says so.
    """

    names: np.ndarray
    sizes: Int32[np.ndarray, "p 2"]
    ends: Int64[np.ndarray, " p"]
    boxes: Float32[np.ndarray, "b 4"]
    classes: Int32[np.ndarray, " b"]
    crowd: Bool[np.ndarray, " b"]
    area: Float32[np.ndarray, " b"]

    @property
    def most(self) -> int:
        """Return the largest number of boxes of a picture."""
        return int(np.diff(self.ends, prepend=0).max())

    def of(self, row: int) -> dict[str, np.ndarray]:
        """Return the boxes of one picture, with their classes, crowds and areas."""
        found = slice(self.ends[row - 1] if row else 0, self.ends[row])
        return {
            "boxes": self.boxes[found],
            "classes": self.classes[found],
            "crowd": self.crowd[found],
            "area": self.area[found],
        }


class _Category(msgspec.Struct, gc=False):
    id: int
    name: str


class _Picture(msgspec.Struct, gc=False):
    id: int
    file_name: str
    width: int
    height: int


class _Annotation(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    iscrowd: int | bool = 0
    area: float | None = None
    id: int | None = None


class _Head(msgspec.Struct):
    categories: list[_Category]
    info: Any = None


class _File(_Head, kw_only=True):
    images: list[_Picture]
    annotations: list[_Annotation]


def read_head(path: Path) -> Head:
    """Read the categories of a file, and what it says of its pixels.

    Raises:
      ValueError: no categories, one that is there twice, or what `read_instances`
        raises for a file that is no JSON.
    """
    return _head(path, _decoded(path, _Head))


def read_instances(path: Path) -> Instances:
    """Read the pictures and boxes of a file, by the rules of this module.

    Raises:
      ValueError: a file that breaks a rule, with its name and the first place.
      OSError: a file that cannot be read.
    """
    file = _decoded(path, _File)
    head = _head(path, file)
    if not file.images:
        raise ValueError(f"{path}: expected pictures in images, got none")
    _check_ids(path, "images", [picture.id for picture in file.images])
    for picture in file.images:
        _check_picture(path, picture)
    ids = [annotation.id for annotation in file.annotations]
    _check_ids(path, "annotations", [i for i in ids if i is not None])
    sizes = np.array([(p.height, p.width) for p in file.images], np.int32)
    rows = _looked_up(path, "image_id", file, [p.id for p in file.images])
    classes = _looked_up(path, "category_id", file, [i for i, _ in head.categories])
    boxes = _inside([a.bbox for a in file.annotations], sizes[rows])
    sides = boxes[:, 2:] - boxes[:, :2]
    kept = (sides > 0).all(1)
    _say_left_out(path, kept)
    # In the order of the pictures, and within one in that of the file.
    order = np.flatnonzero(kept)
    order = order[np.argsort(rows[order], kind="stable")]
    stated = np.array([a.area or 0 for a in file.annotations], np.float64)
    area = np.where(stated > 0, stated, sides.prod(1))
    crowd = np.array([bool(a.iscrowd) for a in file.annotations], bool)
    counts = np.bincount(rows[order], minlength=len(sizes))
    return Instances(
        names=np.array([os.fsencode(p.file_name) for p in file.images], bytes),
        sizes=sizes,
        ends=np.cumsum(counts),
        boxes=boxes[order],
        classes=classes[order],
        crowd=crowd[order],
        area=np.minimum(area[order], MAX_SIDE**2).astype(np.float32),
    )


def _decoded(path: Path, kind: Any) -> Any:
    """Decode a file without its outlines, which are most of it."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except RecursionError:
        found = "nested too deep"
    except (msgspec.DecodeError, ValueError) as error:
        found = str(error)
    raise ValueError(
        f"{path} is not a whole instances file of COCO ({found:.200}): mend it, or get "
        "it again"
    )


def _head(path, file: _Head) -> Head:
    _check_ids(path, "categories", [category.id for category in file.categories])
    if not file.categories:
        raise ValueError(f"{path}: expected categories, got none")
    categories = tuple(sorted((c.id, c.name) for c in file.categories))
    return Head(categories, _pixels(path, file.info))


def _pixels(path, info) -> Pixels:
    stated = info.get("pixels") if isinstance(info, dict) else None
    if stated is None:
        return Pixels()
    try:
        pixels = typed(stated, Pixels)
    except ReadingError as error:
        raise ValueError(
            f"{path}: expected channels, mean and std in info.pixels, got another "
            f"({error!s:.200})"
        ) from None
    of_each = all(len(x) in (0, pixels.channels) for x in (pixels.mean, pixels.std))
    if not (of_each and np.isfinite(pixels.mean).all() and _positive(pixels.std)):
        raise ValueError(
            f"{path}: expected a mean and a positive std for each of "
            f"{pixels.channels} channels in info.pixels, got {list(pixels.mean)} and "
            f"{list(pixels.std)}"
        )
    return pixels


def _positive(numbers):
    return all(0 < number < np.inf for number in numbers)


def _check_ids(path, field, ids: Sequence[int]) -> None:
    if len(set(ids)) == len(ids):
        return
    seen = set()
    twice = next(i for i in ids if i in seen or seen.add(i))
    raise ValueError(
        f"{path}: expected each id of {field} once, got {twice} twice: number them anew"
    )


def _check_picture(path, picture: _Picture) -> None:
    if not (0 < picture.width <= MAX_SIDE and 0 < picture.height <= MAX_SIDE):
        raise ValueError(
            f"{path}: expected 1..{MAX_SIDE} pixels a side for {picture.file_name!a}, "
            f"got {picture.width} x {picture.height} (width x height): write its size"
        )
    name = PurePosixPath(picture.file_name)
    inside = picture.file_name and not name.is_absolute() and ".." not in name.parts
    if not inside or "\0" in picture.file_name:
        raise ValueError(
            f"{path}: expected a file_name inside the folder of the pictures, got "
            f"{picture.file_name!a:.100}"
        )


_AMONG = {"image_id": "images", "category_id": "categories"}


def _looked_up(path, field, file: _File, known: Sequence[int]) -> np.ndarray:
    """Return the positions of a field of all annotations among the ids it may be."""
    places = {identity: i for i, identity in enumerate(known)}
    named = [getattr(annotation, field) for annotation in file.annotations]
    try:
        return np.array([places[identity] for identity in named], np.int32)
    except KeyError as error:
        [unknown] = error.args
        raise ValueError(
            f"{path}: expected annotations of {_AMONG[field]} of the file, got "
            f"{field} {unknown} in annotations[{named.index(unknown)}]: add it to "
            f"{_AMONG[field]}, or leave the annotation out"
        ) from None


def _inside(boxes, sizes) -> np.ndarray:
    """Turn x, y, width, height into corners inside the pictures; float32."""
    x, y, width, height = np.array(boxes, np.float64).reshape(-1, 4).T
    high, wide = sizes.T
    corners = (
        np.clip(x, 0, wide),
        np.clip(y, 0, high),
        np.clip(x + width, 0, wide),
        np.clip(y + height, 0, high),
    )
    return np.stack(corners, axis=1).astype(np.float32)


def _say_left_out(path, kept) -> None:
    if not kept.any():
        raise ValueError(
            f"{path}: expected boxes that lie in their pictures, got none of "
            f"{len(kept)} annotations"
        )
    if not kept.all():
        warnings.warn(
            f"{path}: left out {np.count_nonzero(~kept)} of {len(kept)} boxes, which "
            "lie outside their pictures or have no area",
            stacklevel=3,
        )
