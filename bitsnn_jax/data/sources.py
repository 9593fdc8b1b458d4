"""Where examples come from, and which of them belong to which split."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from bitsnn_jax import config
from bitsnn_jax.data import idx

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)  # arrays have no single truth value
class Examples:
    """One split: pixels as they were stored, labels, and the scale of the pixels.

    `examples[i]` is one example, which is all that a pipeline reads.

    Attributes:
      images: pixels, 0 is black and `white` is white.
      labels: 0..num_classes - 1.
      num_classes: classes of the source, whether or not this split has them all.
      white: the pixel that stands for 1.
      mean: of the training split's pixels, for each channel, on the scale 0..1.
      std: their standard deviation; 1 for a channel that is constant.
    """

    images: UInt8[np.ndarray, "n h w c"]
    labels: Int32[np.ndarray, " n"]
    num_classes: int
    white: int
    mean: Float32[np.ndarray, " c"]
    std: Float32[np.ndarray, " c"]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        return {"image": self.images[index], "label": self.labels[index]}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        height, width, channels = self.images.shape[1:]
        return height, width, channels


class Source(NamedTuple):
    """A data set as it was published: a part to learn from, a part to test on."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    num_classes: int
    num_validation: int  # how many of `train` are held out to choose a model
    white: int = 255


def load(data: config.Data, split: str) -> Examples:
    """Examples of one split.

    The published training part is permuted once and for all, whatever the seed of the
    run, and its last `num_validation` examples are the validation split. The published
    test part is the test split. The scale is that of the training split in all three.

    Args:
      data: `name` and `directory` are read.
      split: "train", "validation" or "test".

    Returns:
      The examples, in a fixed order.

    Raises:
      ValueError: unknown name or split, or files that are not what they should be.
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
    source = SOURCES[data.name](data.directory)
    images, labels = source.train
    num_train = len(labels) - source.num_validation
    if num_train < 1:
        raise ValueError(
            f"data.directory: expected more than {source.num_validation} training "
            f"examples, as many are held out for validation; got {len(labels)}"
        )

    order = _permutation(len(labels))
    train, validation = order[:num_train], order[num_train:]
    mean, std = _pixel_moments(images[train], white=source.white)
    images, labels = {
        "train": (images[train], labels[train]),
        "validation": (images[validation], labels[validation]),
        "test": source.test,
    }[split]
    return Examples(
        images=images,
        labels=labels,
        num_classes=source.num_classes,
        white=source.white,
        mean=mean,
        std=std,
    )


def normalise(
    images: UInt8[np.ndarray, "*n c"], examples: Examples
) -> Float32[np.ndarray, "*n c"]:
    """Pixels to the input of a network: (pixel / white - mean) / std, float32."""
    # One multiplication and one addition a pixel; the constants in float64.
    scale = 1 / (examples.white * examples.std.astype(np.float64))
    shift = -examples.mean.astype(np.float64) / examples.std
    return images * scale.astype(np.float32) + shift.astype(np.float32)


def _permutation(n):
    # RandomState, because its stream is frozen: a Generator's may change with NumPy,
    # and validation examples would become training examples of older checkpoints.
    return np.random.RandomState(0).permutation(n)


def _pixel_moments(images, *, white):
    """Mean and standard deviation of each channel, from integer counts: no rounding."""
    values = np.arange(256) / white
    channels = images.reshape(-1, images.shape[-1]).T
    shares = np.stack([np.bincount(c, minlength=256) / c.size for c in channels])
    mean = shares @ values
    std = np.sqrt((shares * (values - mean[:, None]) ** 2).sum(1))
    return mean.astype(np.float32), np.where(std > 0, std, 1).astype(np.float32)


def _digits(directory):
    """1797 handwritten digits of 8x8 pixels from 0 to 16, inside scikit-learn."""
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
    order = _permutation(len(labels))
    train, test = order[:-360], order[-360:]
    return Source(
        train=(images[train], labels[train]),
        test=(images[test], labels[test]),
        num_classes=10,
        num_validation=180,
        white=16,
    )


def _idx(directory):
    """MNIST, Fashion-MNIST and whatever else comes as the same four files."""
    train = idx.read_pair(directory, prefix="train")
    test = idx.read_pair(directory, prefix="t10k")
    num_classes = int(train[1].max(initial=0)) + 1
    if test[1].max(initial=0) >= num_classes:
        raise ValueError(
            f"data.directory {directory}: expected test labels 0..{num_classes - 1} as "
            f"in the training files, got {test[1].max()}"
        )
    # A twelfth: 5000 of the 60,000 that MNIST and Fashion-MNIST have.
    return Source(train, test, num_classes, num_validation=max(1, len(train[1]) // 12))


def _fake(directory, *, shape, num_classes, num_train, num_test):
    """Noise with random labels: the shapes and the cost of a data set without it."""
    rng = np.random.RandomState(0)

    def part(n):
        images = rng.randint(0, 256, (n, *shape), dtype=np.uint8)
        return images, rng.randint(0, num_classes, n, dtype=np.int32)

    return Source(part(num_train), part(num_test), num_classes, num_train // 5)


SOURCES: dict[str, Callable[[str], Source]] = {
    "digits": _digits,
    "idx": _idx,
    "fake": partial(
        _fake, shape=(32, 32, 3), num_classes=10, num_train=640, num_test=128
    ),
    "fake_imagenet": partial(
        _fake, shape=(224, 224, 3), num_classes=1000, num_train=160, num_test=32
    ),
}
