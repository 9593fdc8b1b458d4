"""Where examples come from, and which of them belong to which split."""

import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from bitsnn_jax import config
from bitsnn_jax.data import idx
from bitsnn_jax.data.examples import (
    IMAGENET,
    Examples,
    InMemory,
    Records,
    Streamed,
)
from bitsnn_jax.data.folder import open_folder, open_pictures
from bitsnn_jax.data.prepared import open_prepared
from bitsnn_jax.data.splits import SPLITS, held_out, permutation, tenth


class Source(NamedTuple):
    """A data set of two arrays a part: one to learn from, one to test on."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    num_classes: int
    num_validation: int  # how many of `train` are held out to choose a model
    white: int = 255


class Stored(NamedTuple):
    """A data set of encoded images, too many to be held in memory."""

    open: Callable[[str, str], Records]  # (data.directory, "train" or "test")
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int = 0  # side of the images, which are square; 0: of any size


def load(data: config.Data, split: str) -> Examples:
    """Load the examples of one split.

    The published training part is permuted once and for all, whatever the seed of the
    run, and its last examples are the validation split: a tenth and at most 10,000 of
    sets that are streamed, a `Source`'s `num_validation` of others. The published test
    part is the test split; for ImageNet that is the part which is called validation.
    The scale is that of the training split in all three; sets that are streamed are not
    read through for it, and have the one that is commonly given.

    Args:
      data: `name`, `directory` and `image_size` are read.
      split: "train", "validation" or "test".

    Returns:
      The examples, in a fixed order.

    Raises:
      ValueError: unknown name or split, files that are not what they should be,
        images of any size without `data.image_size`, or a `data.directory` for a set
        that has no files.
      FileNotFoundError: files that are not there.
      ImportError: "digits" without scikit-learn.

    >>> [len(load(config.Data(name="digits"), split)) for split in SPLITS]
    [1257, 180, 360]
    """
    if data.name not in SOURCES:
        raise ValueError(
            f"data.name must be one of {', '.join(sorted(SOURCES))}; got {data.name!r}"
        )
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}; got {split!r}")
    return SOURCES[data.name](data, split)


def _made(make_source, data: config.Data, split: str) -> InMemory:
    """Make a source without files: a directory that is set was meant for another."""
    if data.directory:
        raise ValueError(
            f"data.directory (--data) must be empty for data.name={data.name}, which "
            f"reads no files; got {data.directory!r}"
        )
    return _arrays(make_source(), data, split)


def _arrays(source: Source, data: config.Data, split: str) -> InMemory:
    train, validation = held_out(len(source.train[1]), source.num_validation)
    mean, std = _pixel_moments(source.train[0], train, white=source.white)
    images, labels = source.test
    if split != "test":
        kept = train if split == "train" else validation
        images, labels = (array[kept] for array in source.train)
    height, width, channels = images.shape[1:]
    size = data.image_size
    return InMemory(
        image_shape=(size or height, size or width, channels),
        num_classes=source.num_classes,
        white=source.white,
        mean=mean,
        std=std,
        images=images,
        labels=labels,
    )


def _streamed(stored: Stored, data: config.Data, split: str) -> Streamed:
    size = data.image_size or stored.image_size
    if not size:
        raise ValueError(
            f"data.name={data.name} has images of any size: set data.image_size, "
            "e.g. 224"
        )
    records = stored.open(data.directory, "test" if split == "test" else "train")
    if split == "test":
        order = np.arange(len(records))
    else:
        count = len(records)
        order = held_out(count, tenth(count))[split == "validation"]
    return _examples(stored, records, order, size)


def _examples(stored, records, order, size) -> Streamed:
    return Streamed(
        image_shape=(size, size, len(stored.mean)),
        num_classes=records.num_classes,
        white=255,
        mean=np.asarray(stored.mean, np.float32),
        std=np.asarray(stored.std, np.float32),
        records=records,
        order=order,
    )


def load_pictures(
    directory: str | os.PathLike[str],
    *,
    size: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Streamed:
    """Load all images of a folder, by default on the scale of ImageNet.

    Args:
      directory: anything that holds images, in it or in its folders. Folders in it
        are classes, in the order of their names.
      size: side of the network's input.
      mean, std: of the pixels of each channel, on the scale 0..1.

    Raises:
      FileNotFoundError: no such folder; ValueError: no images in it.
    """
    records = open_pictures(directory)
    order = np.arange(len(records))
    stored = _STORED["image_folder"]
    stored = stored._replace(
        mean=tuple(mean or stored.mean), std=tuple(std or stored.std)
    )
    return _examples(stored, records, order, size)


def _pixel_moments(images, kept, *, white):
    """Compute each channel's mean and deviation from exact integer counts."""
    values = np.arange(256) / white
    # In parts: NumPy counts copies of 64 bits.
    rows = max(1, 2**22 // math.prod(images.shape[1:]))
    parts = [kept[i : i + rows] for i in range(0, len(kept), rows)]
    counts = np.sum([_histograms(images[part]) for part in parts], axis=0)
    shares = counts / counts[0].sum()
    mean = shares @ values
    std = np.sqrt((shares * (values - mean[:, None]) ** 2).sum(1))
    return mean.astype(np.float32), np.where(std > 0, std, 1).astype(np.float32)


def _histograms(images):
    channels = images.reshape(-1, images.shape[-1]).T
    return np.stack([np.bincount(values, minlength=256) for values in channels])


def _digits():
    """Load 1797 handwritten digits of 8x8 pixels from 0 to 16, inside scikit-learn."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "data.name 'digits' needs scikit-learn: pip install 'bitsnn-jax[digits]'"
        ) from error
    pixels, labels = load_digits(return_X_y=True)
    images = np.asarray(pixels, np.uint8).reshape(-1, 8, 8, 1)
    labels = np.asarray(labels, np.int32)
    # Published as one part; a fifth, drawn at random, is the test split.
    order = permutation(len(labels))
    train, test = order[:-360], order[-360:]
    return Source(
        train=(images[train], labels[train]),
        test=(images[test], labels[test]),
        num_classes=10,
        num_validation=180,
        white=16,
    )


def _idx(data: config.Data, split: str) -> InMemory:
    """Load MNIST, Fashion-MNIST and whatever else comes as the same four files."""
    directory = data.directory
    train = idx.read_pair(directory, prefix="train")
    num_classes = int(train[1].max(initial=0)) + 1
    test = idx.read_pair(directory, prefix="t10k", num_classes=num_classes)
    shapes = [images.shape[1:3] for images, _ in (train, test)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"data.directory {directory}: expected test images of {shapes[0]} pixels "
            f"as in the training files, got {shapes[1]}"
        )
    # A twelfth: 5000 of the 60,000 that MNIST and Fashion-MNIST have.
    held_out = max(1, len(train[1]) // 12)
    return _arrays(Source(train, test, num_classes, held_out), data, split)


def _fake(*, shape, num_classes, num_train, num_test):
    """Make noise with random labels, of the shapes and the cost of a data set."""
    rng = np.random.RandomState(0)

    def part(n):
        images = rng.randint(0, 256, (n, *shape), dtype=np.uint8)
        return images, rng.randint(0, num_classes, n, dtype=np.int32)

    return Source(part(num_train), part(num_test), num_classes, num_train // 5)


def _prepared(directory, part, *, name, test="test"):
    return open_prepared(directory, name=name, split=test if part == "test" else part)


# With mean and deviation as they are commonly given.
_STORED = {
    "image_folder": Stored(open_folder, **IMAGENET),
    "imagenet2012": Stored(
        partial(_prepared, name="imagenet2012", test="validation"), **IMAGENET
    ),
    "cifar10": Stored(
        partial(_prepared, name="cifar10"),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        image_size=32,
    ),
    "cifar100": Stored(
        partial(_prepared, name="cifar100"),
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        image_size=32,
    ),
    "svhn": Stored(
        partial(_prepared, name="svhn_cropped"),
        mean=(0.4377, 0.4438, 0.4728),
        std=(0.1980, 0.2010, 0.1970),
        image_size=32,
    ),
    "mnist": Stored(
        partial(_prepared, name="mnist"), (0.1307,), (0.3081,), image_size=28
    ),
    "fashion_mnist": Stored(
        partial(_prepared, name="fashion_mnist"),
        mean=(0.2860,),
        std=(0.3530,),
        image_size=28,
    ),
}

_MADE: dict[str, Callable[[], Source]] = {
    "digits": _digits,
    "fake": partial(
        _fake, shape=(32, 32, 3), num_classes=10, num_train=640, num_test=128
    ),
    "fake_imagenet": partial(
        _fake, shape=(224, 224, 3), num_classes=1000, num_train=160, num_test=32
    ),
}

SOURCES: dict[str, Callable[[config.Data, str], Examples]] = {
    "idx": _idx,
    **{name: partial(_made, make_source) for name, make_source in _MADE.items()},
    **{name: partial(_streamed, stored) for name, stored in _STORED.items()},
}
