"""One split of a data set: its examples one by one, and the scale of its pixels."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from jaxtyping import Float32, Int, Int32, UInt8

from bitsnn_jax.data.images import decode

# Mean and deviation as they are commonly given, so that published weights fit.
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@dataclass(frozen=True, eq=False, kw_only=True)  # arrays have no single truth value
class Examples:
    """What a pipeline reads: `examples[i]` is {"image": uint8 [h, w, c], "label"}.

    Images are as they were stored, so that their size may differ from that of the
    network's input, and from one to the next.

    Attributes:
      image_shape: of the input of a network: height, width, channels.
      num_classes: classes of the source, whether or not this split has them all.
      white: the pixel that stands for 1; 0 is black.
      mean: of the training split's pixels, for each channel, on the scale 0..1.
      std: their standard deviation; 1 for a channel that is constant.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    white: int
    mean: Float32[np.ndarray, " c"]
    std: Float32[np.ndarray, " c"]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Return `image_shape`, by the name that every task has for it."""
        return self.image_shape

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> dict:
        raise NotImplementedError

    def first(self, limit: int | None) -> Self:
        """Return the first `limit` of them, or all where there are fewer or for None.

        Raises:
          ValueError: less than one.
        """
        if limit is None:
            return self
        if limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        return self._first(limit)

    def _first(self, count: int) -> Self:
        raise NotImplementedError


@dataclass(frozen=True, eq=False, kw_only=True)
class InMemory(Examples):
    """Examples that are two arrays."""

    images: UInt8[np.ndarray, "n h w c"]
    labels: Int32[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        return {"image": self.images[index], "label": self.labels[index]}

    def _first(self, count: int) -> Self:
        some = {"images": self.images[:count], "labels": self.labels[:count]}
        return dataclasses.replace(self, **some)


class Record(NamedTuple):
    """An encoded image, its label, and where it is, for messages."""

    content: bytes
    label: int
    place: str


class Records(Protocol):
    """A published part of a data set, on disk."""

    @property
    def num_classes(self) -> int: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Record: ...


@dataclass(frozen=True, eq=False, kw_only=True)
class Streamed(Examples):
    """Examples that are read and decoded when they are asked for.

    Attributes:
      records: the published part that they belong to.
      order: which records they are.
    """

    records: Records
    order: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> dict:
        content, label, place = self.records[int(self.order[index])]
        image = decode(content, channels=self.image_shape[-1], place=place)
        return {"image": image, "label": np.int32(label)}

    def _first(self, count: int) -> Self:
        return dataclasses.replace(self, order=self.order[:count])


def scale_and_shift(examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    """Write (pixel / white - mean) / std as a product and a sum: float64 [c] each."""
    scale = 1 / (examples.white * examples.std.astype(np.float64))
    return scale, -examples.mean.astype(np.float64) / examples.std


class Normalisation(NamedTuple):
    """`normalise` for one scale of pixels; programs that are compiled are kept by it.

    Attributes:
      scale: for each channel.
      shift: for each channel, added after it.
    """

    scale: tuple[float, ...]
    shift: tuple[float, ...]

    @classmethod
    def of(cls, examples: Examples) -> Self:
        """Return that of a data set."""
        scale, shift = scale_and_shift(examples)
        return cls(tuple(scale.tolist()), tuple(shift.tolist()))

    def __call__(self, pixels: Any) -> Any:
        """Turn pixels, uint8 [..., c], into float32 of the same kind of array."""
        scale, shift = (np.array(numbers, np.float32) for numbers in self)
        on_host = isinstance(pixels, np.ndarray)
        return (_by_numpy if on_host else _by_xla)(pixels, scale, shift)


def normaliser(examples: Examples) -> Callable[[Any], Any]:
    """Return what normalises pixels in floats of any type, inside a program."""
    scale, shift = scale_and_shift(examples)

    def normalised(pixels):
        return pixels * scale.astype(pixels.dtype) + shift.astype(pixels.dtype)

    return normalised


def normalise(
    images: UInt8[np.ndarray, "*n c"], examples: Examples
) -> Float32[np.ndarray, "*n c"]:
    """Turn pixels into a network's input: (pixel / white - mean) / std, float32."""
    return Normalisation.of(examples)(images)


def _by_numpy(pixels, scale, shift):
    # By rows of pixels: NumPy starts anew for each run along the last axis, and one of
    # three channels takes it longer to start than to do.
    *outer, channels = pixels.shape
    width = outer.pop() if outer else 1
    rows = pixels.reshape(*outer, width * channels)
    out = rows * np.tile(scale, width)
    out += np.tile(shift, width)
    return out.reshape(pixels.shape)


def _by_xla(pixels, scale, shift):
    """Round after the product and after the sum, as NumPy does.

    XLA makes one operation of a product and the sum behind it, with one rounding. So
    the scale is two numbers of 12 bits, whose products with 8 bits are exact, and the
    product is a sum, which is rounded once in either way.
    """
    upper = (scale.view(np.uint32) & 0xFFFFF000).view(np.float32)
    x = pixels.astype(np.float32)
    return (x * upper + x * (scale - upper)) + shift
