"""Folders of images, one for each class, as most people have ImageNet."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int32

from bitsnn_jax.data.examples import Record
from bitsnn_jax.data.images import read
from bitsnn_jax.data.listing import (
    SUFFIXES,
    list_classes,
    list_pictures,
    say_left_out,
)

# Where the test part may be. ILSVRC's own "test" has neither classes nor labels.
_TEST = ("val", "validation", "test")
_EXPECTED = "DIR/train/<class>/*.JPEG and DIR/val/<class>/*.JPEG (or .png, ...)"


@dataclass(frozen=True, eq=False)
class Folder:
    """The images of one part, sorted by class, then by name.

    Attributes:
      root: holds a folder for each class.
      classes: names of these folders, sorted; a label is a position among them.
      names: paths of the files in these folders, as bytes: a million of them go to
        every worker.
      labels: of the files.
    """

    root: Path
    classes: tuple[str, ...]
    names: np.ndarray
    labels: Int32[np.ndarray, " n"]

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Record:
        label = int(self.labels[index])
        path = self.root / self.classes[label] / os.fsdecode(self.names[index])
        return Record(read(path), label, str(path))


def open_folder(directory: str, part: str) -> Folder:
    """Open the training or the test part of an image folder.

    The test part is the first of `val`, `validation` and `test` that there is. A class
    has all pictures below its folder, as `list_pictures` finds them; a warning says
    which files are left out.

    Args:
      directory: holds `train` and the test part.
      part: "train" or "test".

    Raises:
      FileNotFoundError: no such folders.
      ValueError: parts of different classes, or a class of `train` without images.
    """
    base = Path(directory)
    train = base / "train"
    tests = [base / name for name in _TEST if (base / name).is_dir()]
    if not directory or not train.is_dir() or not tests:
        missing = "train" if not train.is_dir() else " or ".join(_TEST)
        raise FileNotFoundError(
            f"data.directory {directory!r}: expected {_EXPECTED}, found no folder "
            f"{missing}; for ImageNet, ILSVRC2012_img_train.tar and _val.tar of "
            "https://image-net.org, unpacked into one folder for each class"
        )
    test = tests[0]
    found = {root: list_classes(root) for root in (train, test)}
    classes = found[train].names
    _check_same(train, classes, test, found[test].names)
    root = train if part == "train" else test
    listed = [list_pictures(root / name) for name in classes]
    files = [pictures.names for pictures in listed]
    left_out = sum((pictures.left_out for pictures in listed), found[root].left_out)
    say_left_out(root, left_out)
    empty = [name for name, names in zip(classes, files, strict=True) if not names]
    if part == "train" and empty or not any(files):
        raise ValueError(
            f"{root}: expected images ({', '.join(SUFFIXES)}) in every class folder, "
            f"found none in {_some(empty) or 'it'}"
        )
    return Folder(
        root=root,
        classes=tuple(classes),
        names=np.array([os.fsencode(n) for names in files for n in names], bytes),
        labels=np.repeat(
            np.arange(len(classes), dtype=np.int32), list(map(len, files))
        ),
    )


def _check_same(train, train_classes, test, test_classes):
    gone = sorted(set(train_classes) - set(test_classes))
    new = sorted(set(test_classes) - set(train_classes))
    if gone or new:
        raise ValueError(
            f"{test}: expected the {len(train_classes)} class folders of {train}, got "
            f"{len(test_classes)}: without {_some(gone)}, with {_some(new)} besides"
        )


def _some(names, count=3):
    """Name the first few, and say how many more there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(map(repr, names[:count])) + more if names else "none"


@dataclass(frozen=True)
class Pictures:
    """Images of a folder, sorted by path.

    Attributes:
      root: the folder.
      names: paths in it.
      classes: the folders in it, if all images lie in some. A label is a position among
        them; otherwise it is 0.
    """

    root: Path
    names: tuple[str, ...]
    classes: tuple[str, ...] = ("",)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Record:
        path = self.root / self.names[index]
        inside = Path(self.names[index]).parts[0]
        label = self.classes.index(inside) if inside in self.classes else 0
        return Record(read(path), label, str(path))


def open_pictures(directory: str | os.PathLike[str]) -> Pictures:
    """List all images of a folder and the folders below it.

    They are those that `list_pictures` finds; a warning says which files are left out.

    Raises:
      FileNotFoundError: no such folder; ValueError: no image in it.
    """
    base = Path(directory)
    if not base.is_dir():
        raise FileNotFoundError(f"{base}: expected a folder of images, found none")
    names, left_out = list_pictures(base)
    say_left_out(base, left_out)
    if not names:
        raise ValueError(f"{base}: expected images ({', '.join(SUFFIXES)}), found none")
    inside = [Path(name).parts for name in names]
    if any(len(parts) < 2 for parts in inside):
        return Pictures(base, tuple(names))
    return Pictures(base, tuple(names), tuple(sorted({parts[0] for parts in inside})))
