"""Write scenes of Fashion-MNIST's garments in COCO's format, to find garments in.

    python -m bitsnn_jax.data.fashion_scenes --source DIR --out DIR

Pictures of the training part show garments of the training files, those of the
validation part garments of the test files. Pixels are on the scale that a classifier of
the garments is trained with, so that a network can start from one. The same options
give the same bits.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bitsnn_jax.config import Data
from bitsnn_jax.data import idx
from bitsnn_jax.data.coco_writer import Boxed, check_new, write_boxes
from bitsnn_jax.data.scenes import Objects, draw_scene
from bitsnn_jax.data.sources import load
from bitsnn_jax.runtime.cli import SEEDS, Parser, a_path, between, filled, one_line
from bitsnn_jax.runtime.cli import whole as whole_number
from bitsnn_jax.runtime.files import replaced_folder

GARMENTS = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat")
GARMENTS += ("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_FILES = {"train": "train", "val": "t10k"}  # parts, and how their garments' files begin


@dataclass(frozen=True, kw_only=True)
class SceneOptions:
    """What to write.

    Attributes:
      source: folder of the four IDX files.
      out: folder that does not exist yet, or is empty.
      train, val: pictures of each part.
      size: side of a picture, in pixels.
      garments: fewest and most in a picture.
      scales: smallest and largest factor of a garment's size.
      seed: of everything that is drawn.
    """

    source: str
    out: Path
    train: int = 5000
    val: int = 500
    size: int = 128
    garments: Sequence[int] = (2, 7)
    # The smallest anchor of a RetinaNet has 32 pixels, a garment 28.
    scales: Sequence[float] = (1.0, 2.0)
    seed: int = 0


def write_scenes(options: SceneOptions) -> dict[str, dict[str, int]]:
    """Write the scenes; return for each part how many pictures and boxes it has.

    Raises:
      ValueError: options that do not fit each other, files that hold no garments, or a
        folder that holds anything; nothing is written.
      OSError: a file that cannot be read or written.
    """
    _check(options)
    garments = {part: _garments(options.source, part) for part in _FILES}
    sides = [side for part in garments.values() for side in part.images.shape[1:]]
    largest = round(max(sides) * options.scales[1])
    if largest > options.size:
        raise ValueError(
            f"--size must be at least the {largest} pixels of the largest garment, got "
            f"{options.size}: make it larger, or --scales smaller"
        )
    info = _info(options)
    with replaced_folder(options.out) as new:
        return {
            part: write_boxes(
                new,
                part,
                _drawn(options, part, garments[part]),
                categories=GARMENTS,
                info=info,
            )
            for part in _FILES
        }


def _check(options):
    for name in ("garments", "scales"):
        low, high = getattr(options, name)
        if low > high:
            raise ValueError(
                f"--{name} must be LOW and HIGH, in this order, got {low} and {high}"
            )
    check_new(options.out, "--out")


def _garments(source: str, part: str) -> Objects:
    images, labels = idx.read_pair(source, prefix=_FILES[part])
    if labels.max(initial=0) >= len(GARMENTS):
        raise ValueError(
            f"--source {source}: expected the {len(GARMENTS)} kinds of garments of "
            f"Fashion-MNIST, got label {labels.max()}"
        )
    return Objects(images[..., 0], labels)


def _drawn(options: SceneOptions, part: str, garments: Objects) -> Iterator[Boxed]:
    (fewest, most), (smallest, largest) = options.garments, options.scales
    for i in range(getattr(options, part)):
        # By RandomState, because its stream is frozen: a Generator's may change.
        rng = np.random.RandomState([options.seed, part == "val", i])
        scene = draw_scene(
            garments,
            rng,
            size=options.size,
            count=(fewest, most),
            scales=(smallest, largest),
        )
        yield Boxed(scene.pixels, scene.boxes, scene.classes, scene.areas)


def _info(options) -> dict[str, Any]:
    training = load(Data(name="idx", directory=options.source), "train")
    [mean], [std] = training.mean.tolist(), training.std.tolist()
    return {
        "description": "scenes of Fashion-MNIST's garments",
        "seed": options.seed,
        "pixels": {"channels": 1, "mean": [mean], "std": [std]},
    }


@one_line()
def main(argv: list[str] | None = None) -> None:
    parser = Parser(__doc__, prog="python -m bitsnn_jax.data.fashion_scenes")
    add, default = parser.add_argument, SceneOptions
    two = {"nargs": 2, "metavar": ("LOW", "HIGH")}
    count, factor = whole_number(1, 100), between(0.1, 100)
    add("--source", type=filled, required=True, help="folder of the four IDX files")
    add("--out", type=a_path, required=True, help="new folder")
    add("--train", type=whole_number(1), default=default.train, help="pictures")
    add("--val", type=whole_number(1), default=default.val, help="pictures")
    add("--size", type=whole_number(8, 4096), default=default.size, help="in pixels")
    add("--garments", type=count, default=default.garments, help="in a picture", **two)
    add("--scales", type=factor, default=default.scales, help="of garments", **two)
    add("--seed", type=whole_number(0, SEEDS), default=default.seed)
    options = SceneOptions(**vars(parser.parse_args(argv)))
    for part, counts in write_scenes(options).items():
        print(f"{options.out / part}: {counts['pictures']} pictures, ", end="")
        print(f"{counts['boxes']} garments")


if __name__ == "__main__":
    main()
