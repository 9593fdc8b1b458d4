"""Small data sets in COCO's format, made for tests."""

import json

import numpy as np
from PIL import Image

from bitsnn_jax.config import Data

NAMES = {3: "cat", 7: "dog", 8: "cow"}  # with holes, as COCO's have


def annotation(image, box, category=7, **fields):
    return {"image_id": image, "category_id": category, "bbox": box, **fields}


def instances(pictures, annotations, **fields):
    """A file of pictures, id -> (width, height), and annotations."""
    images = [
        {"id": i, "file_name": f"{i:012}.png", "width": width, "height": height}
        for i, (width, height) in pictures.items()
    ]
    numbered = [{"id": i, **a} for i, a in enumerate(annotations)]
    categories = [{"id": i, "name": name} for i, name in NAMES.items()]
    found = {"images": images, "annotations": numbered, "categories": categories}
    return {**found, **fields}


def write_part(directory, part, file):
    """Write a file and its pictures: noise, the same for the same size."""
    (directory / "annotations").mkdir(parents=True, exist_ok=True)
    (directory / "annotations" / f"instances_{part}.json").write_text(json.dumps(file))
    (directory / part).mkdir(exist_ok=True)
    for picture in file["images"]:
        shape = picture["height"], picture["width"], 3
        noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        Image.fromarray(noise).save(directory / part / picture["file_name"])


def write_boxes(directory, *, train=20, val=5, side=16, **fields):
    """Squares with as many boxes as the number of a picture by four says."""
    for part, count in (("train", train), ("val", val)):
        annotations = [
            annotation(i, [j, 2, 6 + j, 8], sorted(NAMES)[j % 3])
            for i in range(count)
            for j in range(i % 4)
        ]
        sizes = {i: (side, side) for i in range(count)}
        write_part(directory, part, instances(sizes, annotations))
    settings = {"image_size": side, "batch_size": 4, "eval_batch_size": 4}
    return Data(name="coco", directory=str(directory), **settings | fields)
