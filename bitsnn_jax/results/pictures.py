"""The part of `conversion.json` about pictures: boxes of the truth, boxes found."""

from msgspec import Struct


class NamedBox(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A box in a picture.

    Attributes:
      box: its left, upper, right and lower end, in pixels.
      category: what is in it.
      score: of a detection; None of the truth.
    """

    box: tuple[float, float, float, float]
    category: str
    score: float | None = None


class Picture(Struct, frozen=True, kw_only=True):
    """An example as the network sees it, and what is found in it.

    Attributes:
      example: which one.
      image: as PNG; in base64 in the file.
      truth: the boxes that there are.
      found: by network: "ANN", and "SNN, T = 4".
    """

    example: int
    image: bytes
    truth: tuple[NamedBox, ...]
    found: dict[str, tuple[NamedBox, ...]]
