"""Write deepforest's four aerial pictures of forests as a data set in COCO's format.

    pip download --no-deps deepforest==2.1.0
    python experiments/deepforest_scenes.py deepforest-2.1.0-py3-none-any.whl

The trees of four pictures (951 in 2.1.0) are annotated in XML files beside them. Each
picture is cut into square tiles that cover it and hardly overlap. A tree of which less
than half is in a tile counts for nothing there: it is a crowd.

Training and validation part are the same tiles, to be learnt by heart. The training
file lists each of them several times, so that one is left when others are held out.
"""

import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bitsnn_jax.data.coco_writer import Boxed, check_new, write_boxes
from bitsnn_jax.data.images import decode
from bitsnn_jax.data.splits import held_out, tenth
from bitsnn_jax.runtime.cli import Parser, a_path, as_script, whole
from bitsnn_jax.runtime.files import replaced_folder

SCENES = (
    "2019_YELL_2_528000_4978000_image_crop2",
    "2019_YELL_2_541000_4977000_image_crop",
    "OSBS_029",
    "SOAP_061",
)
DATA = "deepforest/data"  # where the package has them
CORNERS = ("xmin", "ymin", "xmax", "ymax")
SEEN = 0.5  # share of a tree; of less, it counts for nothing


def main() -> None:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("package", type=a_path, help="wheel of deepforest, or a folder of its files")
    add("--to", type=a_path, default=Path("runs/deepforest"), help="new folder")
    add("--tile", type=whole(16, 4096), default=256, help="side of a tile, in pixels")
    options = parser.parse_args()
    check_new(options.to, "--to")
    scenes = [read_scene(options.package, name) for name in SCENES]
    tiles = [tile for scene in scenes for tile in cut(scene, side=options.tile)]
    with replaced_folder(options.to) as new:
        for part, times in (("train", repeats(len(tiles))), ("val", 1)):
            info = {"description": "deepforest's scenes, in tiles"}
            counts = write_boxes(
                new, part, tiles, categories=["Tree"], info=info, repeats=times
            )
            print(f"{options.to / part}: {counts}, each listed {times} times")
    print(f"{sum(len(scene.boxes) for scene in scenes)} trees in {len(scenes)} scenes")


def read_scene(package: Path, name: str) -> Boxed:
    """A picture with its trees, dead ones too."""
    place = f"{package}, {DATA}/{name}.xml"
    root: Any = package if package.is_dir() else zipfile.Path(_wheel(package))
    try:
        content = (root / DATA / f"{name}.png").read_bytes()
        objects = ElementTree.fromstring((root / DATA / f"{name}.xml").read_bytes())
        boxes = [
            [float(tree.findtext(f"bndbox/{corner}", "")) for corner in CORNERS]
            for tree in objects.iter("object")
        ]
    except (OSError, KeyError, ValueError, ElementTree.ParseError) as error:
        raise ValueError(
            f"{place}: expected boxes of trees, and a .png beside it, as deepforest "
            f"2.1.0 has them; got {error!s:.100}"
        ) from None
    pixels = decode(content, channels=3, place=place)
    found = np.array(boxes, np.float32).reshape(-1, 4)
    return Boxed(pixels, found, np.zeros(len(found), np.int32))


def _wheel(package: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(package)
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{package}: expected the wheel of deepforest 2.1.0, or a folder of its "
            f"files, got another ({error})"
        ) from None


def cut(scene: Boxed, *, side: int) -> Iterator[Boxed]:
    """Square tiles that cover a picture, as few as do."""
    for top in starts(scene.pixels.shape[0], side):
        for left in starts(scene.pixels.shape[1], side):
            pixels = scene.pixels[top : top + side, left : left + side]
            height, width = pixels.shape[:2]
            moved = scene.boxes - np.array([left, top] * 2, np.float32)
            inside = np.clip(moved, 0, np.array([width, height] * 2, np.float32))
            share = _areas(inside) / np.maximum(_areas(moved), 1e-6)
            seen = share > 0
            yield Boxed(
                pixels,
                inside[seen],
                scene.classes[seen],
                crowd=share[seen] < SEEN,
            )


def starts(length: int, side: int) -> list[int]:
    """Where tiles begin, evenly spaced.

    >>> starts(400, 256), starts(100, 256)
    ([0, 144], [0])
    """
    last = max(0, length - side)
    count = -(-last // side) + 1
    return [round(last * i / max(1, count - 1)) for i in range(count)]


def _areas(boxes):
    return np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(1)


def repeats(count: int) -> int:
    """How often a file must list each of so many, for one of each to be trained on."""
    times = 1
    while True:
        times += 1
        listed = count * times
        trained, _ = held_out(listed, tenth(listed))
        if len(np.unique(trained // times)) == count:
            return times


if __name__ == "__main__":
    as_script(main)
