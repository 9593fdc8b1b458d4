"""Pictures with boxes around objects, in COCO's format: one split of a data set.

    DIR/annotations/instances_train2017.json    DIR/train2017/000000000009.jpg ...
    DIR/annotations/instances_val2017.json      DIR/val2017/000000000139.jpg ...

Any year, or none, may stand in the place of 2017: the name of a file says which folder
its pictures are in.
"""

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Self

import numpy as np
from jaxtyping import Int

from bitsnn_jax import config
from bitsnn_jax.data.coco import Instances, read_head, read_instances
from bitsnn_jax.data.examples import IMAGENET, Examples
from bitsnn_jax.data.images import Unreadable, decode, read
from bitsnn_jax.data.splits import SPLITS, held_out, tenth

_FILES = 4  # that stay in memory
_EXPECTED = (
    "DIR/annotations/instances_train2017.json, instances_val2017.json, and their "
    "pictures in DIR/train2017 and DIR/val2017 (or another year, or none)"
)


@dataclass(frozen=True, eq=False, kw_only=True)
class BoxedPictures(Examples):
    """Pictures that are decoded when they are asked for, with their boxes.

    `examples[i]` is {"image": uint8 [h, w, c], "boxes": float32 [m, 4], "classes":
    int32 [m], "crowd": bool [m], "area": float32 [m], "id": int32}. Images are as
    stored, boxes are x0, y0, x1, y1 in their pixels, and the id is i.

    Attributes:
      folder: of the pictures.
      instances: of the published part that they belong to.
      order: which of it they are.
      categories: names of the classes.
    """

    folder: Path
    instances: Instances
    order: Int[np.ndarray, " n"]
    categories: tuple[str, ...]

    @property
    def most(self) -> int:
        """Return the largest number of boxes of a picture in the published part."""
        return self.instances.most

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> dict:
        path = self._path(index)
        try:
            content = read(path)
        except FileNotFoundError:
            raise Unreadable.because(path, "no such file") from None
        image = decode(content, channels=self.image_shape[-1], place=str(path))
        return {"image": self._checked(image, index), **self.truth(index)}

    def truth(self, index: int) -> dict:
        """Return an example without its image, which is not read."""
        found = self.instances.of(int(self.order[index]))
        return {**found, "id": np.int32(index)}

    def size(self, index: int) -> tuple[int, int]:
        """Return the height and width that the file states for a picture."""
        height, width = self.instances.sizes[self.order[index]]
        return int(height), int(width)

    def _path(self, index):
        return self.folder / os.fsdecode(self.instances.names[self.order[index]])

    def _checked(self, image, index):
        if image.shape[:2] != self.size(index):
            wanted, found = (
                f"{width} x {height} pixels (width x height)"
                for height, width in (self.size(index), image.shape[:2])
            )
            raise Unreadable.because(
                self._path(index), f"{found}, not the {wanted} of its annotations"
            )
        return image

    def _first(self, count: int) -> Self:
        return dataclasses.replace(self, order=self.order[:count])


def load_boxes(data: config.Data, split: str) -> BoxedPictures:
    """Load one split of a data set with boxes.

    The published training part is permuted once and for all, whatever the seed of the
    run, and its last examples are the validation split: a tenth and at most 10,000. The
    published validation part is the test split.

    Pictures are decoded as RGB and normalised on the scale of ImageNet, unless the
    training file says otherwise in `info.pixels`, see `coco.Pixels`.

    Args:
      data: `name`, `directory`, `image_size` and `unreadable` are read. With "error",
        all pictures must be there from the beginning.
      split: "train", "validation" or "test".

    Raises:
      ValueError: unknown name or split, no `data.image_size`, files that break a rule
        of `data.coco`, or parts of different categories.
      FileNotFoundError: files or pictures that are not there.
    """
    if data.name not in BOXES:
        raise ValueError(
            f"data.name must be one of {', '.join(sorted(BOXES))}; got {data.name!r}"
        )
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}; got {split!r}")
    return BOXES[data.name](data, split)


def _coco(data: config.Data, split: str) -> BoxedPictures:
    size = data.image_size
    if not size:
        raise ValueError(
            f"data.name={data.name} has pictures of any size: set data.image_size, "
            "e.g. 512"
        )
    files = {part: _find(data.directory, part) for part in ("train", "val")}
    file = files["val" if split == "test" else "train"]
    head = _head(files["train"])
    if _head(file).categories != head.categories:
        raise ValueError(
            f"{file}: expected the {len(head.categories)} categories of "
            f"{files['train'].name}, got others: give both files the same"
        )
    folder = file.parents[1] / file.stem.removeprefix("instances_")
    instances = _instances(file, _stamp(file))
    if data.unreadable == "error":
        _check_there(file, folder, instances)
    count = len(instances.ends)
    if split == "test":
        order = np.arange(count)
    else:
        order = held_out(count, tenth(count))[split == "validation"]
    mean, std = _scale(head.pixels)
    return BoxedPictures(
        image_shape=(size, size, head.pixels.channels),
        num_classes=len(head.categories),
        white=255,
        mean=np.asarray(mean, np.float32),
        std=np.asarray(std, np.float32),
        folder=folder,
        instances=instances,
        order=order,
        categories=tuple(name for _, name in head.categories),
    )


def _find(directory: str, part: str) -> Path:
    found = sorted(Path(directory, "annotations").glob(f"instances_{part}*.json"))
    if not directory or not found:
        raise FileNotFoundError(
            f"data.directory {directory!r}: expected {_EXPECTED}, found no file "
            f"annotations/instances_{part}*.json"
        )
    if len(found) > 1:
        raise ValueError(
            f"data.directory {directory!r}: expected one file "
            f"annotations/instances_{part}*.json, found "
            f"{', '.join(path.name for path in found)}: move the others away"
        )
    return found[0]


def _scale(pixels):
    mean, std = IMAGENET.values()
    if pixels.channels == 1:
        mean, std = ((sum(numbers) / 3,) for numbers in (mean, std))
    return pixels.mean or mean, pixels.std or std


def _check_there(file, folder, instances):
    """Look for all pictures at once: a folder is listed faster than files are found."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{file}: expected its pictures in {folder}, found no such folder"
        )
    listed = {os.fsencode(entry.name) for entry in os.scandir(folder)}
    missing = [
        name
        for name in instances.names.tolist()
        if name not in listed and not (folder / os.fsdecode(name)).is_file()
    ]
    if missing:
        path, count = folder / os.fsdecode(missing[0]), len(instances.names)
        raise FileNotFoundError(
            f"{path}: expected the picture, which {file.name} names, found none "
            f"({len(missing)} of {count} are missing): get it again, or set "
            'data.unreadable="skip"'
        )


def _head(path):
    return _head_of(path, _stamp(path))


@lru_cache(maxsize=_FILES)
def _head_of(path, stamp):
    return read_head(path)


@lru_cache(maxsize=_FILES)
def _instances(path, stamp):
    """Read once for training and validation, and for all who ask again."""
    return read_instances(path)


def _stamp(path):
    """Tell whether a file is still the same."""
    found = path.stat()
    return found.st_mtime_ns, found.st_size


BOXES: dict[str, Callable[[config.Data, str], BoxedPictures]] = {"coco": _coco}
