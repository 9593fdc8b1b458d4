"""Folders of images, one for each class, as most people have ImageNet."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int32

from bitsnn_jax.data.examples import Record

SUFFIXES = (".jpg", ".jpeg", ".png")
# Where the test part may be. ILSVRC's own "test" has neither classes nor labels.
_TEST = ("val", "validation", "test")
_EXPECTED = "DIR/train/<class>/*.JPEG and DIR/val/<class>/*.JPEG (or .jpg, .png)"


@dataclass(frozen=True, eq=False)
class Folder:
    """The images of one part, sorted by class, then by name.

    Attributes:
      root: holds a folder for each class.
      classes: names of these folders, sorted; a label is a position among them.
      names: of the files, as bytes: a million of them go to every worker.
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
        return Record(path.read_bytes(), label, str(path))


def open_folder(directory: str, part: str) -> Folder:
    """The training or the test part of an image folder.

    The test part is the first of `val`, `validation` and `test` that there is. Files
    with other suffixes than those of `SUFFIXES`, in upper or lower case, are ignored.

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
    classes = _classes(train)
    _check_same(train, classes, test, _classes(test))
    root = train if part == "train" else test
    files = [_images(root / name) for name in classes]
    empty = [name for name, found in zip(classes, files, strict=True) if not found]
    if part == "train" and empty or not any(files):
        raise ValueError(
            f"{root}: expected images ({', '.join(SUFFIXES)}) in every class folder, "
            f"found none in {_some(empty) or 'it'}"
        )
    return Folder(
        root=root,
        classes=classes,
        names=np.array([name for found in files for name in found], bytes),
        labels=np.repeat(
            np.arange(len(classes), dtype=np.int32), list(map(len, files))
        ),
    )


def _classes(root):
    return tuple(sorted(entry.name for entry in os.scandir(root) if entry.is_dir()))


def _images(folder):
    names = (entry.name for entry in os.scandir(folder))
    return sorted(os.fsencode(n) for n in names if n.lower().endswith(SUFFIXES))


def _check_same(train, train_classes, test, test_classes):
    gone = sorted(set(train_classes) - set(test_classes))
    new = sorted(set(test_classes) - set(train_classes))
    if gone or new:
        raise ValueError(
            f"{test}: expected the {len(train_classes)} class folders of {train}, got "
            f"{len(test_classes)}: without {_some(gone)}, with {_some(new)} besides"
        )


def _some(names, count=3):
    """The first few names, and how many more there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(map(repr, names[:count])) + more if names else "none"


@dataclass(frozen=True)
class Pictures:
    """Images without labels, whatever folders they lie in; sorted by path."""

    paths: tuple[Path, ...]
    num_classes: int = 1

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Record:
        path = self.paths[index]
        return Record(path.read_bytes(), 0, str(path))


def open_pictures(directory: str | os.PathLike[str]) -> Pictures:
    """All images of a folder and the folders in it, as examples of label 0.

    Raises:
      FileNotFoundError: no such folder; ValueError: no image in it.
    """
    base = Path(directory)
    if not base.is_dir():
        raise FileNotFoundError(f"{base}: expected a folder of images, found none")
    found = (Path(root, n) for root, _, names in os.walk(base) for n in names)
    paths = tuple(sorted(p for p in found if p.suffix.lower() in SUFFIXES))
    if not paths:
        raise ValueError(f"{base}: expected images ({', '.join(SUFFIXES)}), found none")
    return Pictures(paths)
