"""Damaged data files: read, or refused with one line, in little memory and time."""

import faulthandler
import gzip
import multiprocessing
import resource
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import sentences
from boxed_pictures import write_boxes
from mutate import mutations
from pictures import encoded, prepare
from PIL import Image

from bitsnn_jax.config import Data
from bitsnn_jax.data import (
    as_evaluated,
    boxes_as_evaluated,
    load,
    load_boxes,
    load_pictures,
    load_sentences,
)

pytestmark = pytest.mark.slow
COUNT = 150  # damaged copies of a file
SECONDS, BYTES = 20, 2**30  # that one of them may take

NOISE = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
RGB = Image.fromarray(NOISE)
DEEP = Image.fromarray(np.arange(480, dtype=np.uint16).reshape(24, 20) * 100)
PICTURES = {
    "rgb.png": lambda: encoded(RGB),
    "palette.png": lambda: encoded(RGB.quantize(16), transparency=3),
    "deep.png": lambda: encoded(DEEP),
    "baseline.jpg": lambda: encoded(RGB, "JPEG", exif=_exif()),
    "progressive.jpg": lambda: encoded(RGB, "JPEG", progressive=True),
    "cmyk.jpg": lambda: encoded(RGB.convert("CMYK"), "JPEG"),
    "lossy.webp": lambda: encoded(RGB, "WEBP"),
    "lossless.webp": lambda: encoded(RGB.convert("RGBA"), "WEBP", lossless=True),
    "moving.webp": lambda: encoded(
        RGB, "WEBP", save_all=True, append_images=[RGB.rotate(90)], exif=_exif()
    ),
    "rgb.bmp": lambda: encoded(RGB, "BMP"),
    "palette.bmp": lambda: encoded(RGB.quantize(16), "BMP"),
    "raw.tif": lambda: encoded(RGB, "TIFF"),
    "deflated.tif": lambda: encoded(RGB, "TIFF", compression="tiff_adobe_deflate"),
    "jpeg.tif": lambda: encoded(RGB, "TIFF", compression="jpeg"),
    "lzw.tif": lambda: encoded(DEEP, "TIFF", compression="tiff_lzw"),
    "rgb.ppm": lambda: encoded(RGB, "PPM"),
    "deep.pgm": lambda: encoded(DEEP, "PPM"),
    "plain.pgm": lambda: b"P2\n3 2 9\n1 2 3 4 5 6\n",
}


def _exif():
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    return exif


def with_checksums(content):
    """A PNG whose chunks have the right ones, for damage behind them to be met."""
    out, at = content[:8], 8
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        body = content[at + 4 : at + 8 + length]
        checksum = zlib.crc32(body).to_bytes(4, "big")
        out += content[at : at + 4] + body + checksum
        at += 12 + length
    return out + content[at:]


def _limited(send, use, path, whole, copies):
    """In a process of its own: what came of each damaged copy that is no refusal."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
    # Of addresses more, which cost nothing until they are written to.
    resource.setrlimit(resource.RLIMIT_AS, (taken + 8 * BYTES,) * 2)
    warnings.simplefilter("ignore")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    faults = []
    use(path)
    for i, content in enumerate(copies):
        path.write_bytes(content)
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        try:
            use(path)
        except (ValueError, OSError) as error:
            if "\n" in str(error):
                faults.append((i, f"more than a line: {error}"))
        except BaseException as error:
            faults.append((i, repr(error)))
    faulthandler.cancel_dump_traceback_later()
    path.write_bytes(whole)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    send.send((faults, grown * 1024))


def check(use, path, *, change=lambda content: content):
    """Damages a file COUNT times, and holds each copy to what this file is about."""
    whole = path.read_bytes()
    copies = list(mutations(whole, seed=0, count=COUNT))
    copies += [fixed for copy in copies if (fixed := change(copy)) != copy]
    spawn = multiprocessing.get_context("spawn")
    receive, send = spawn.Pipe(duplex=False)
    child = spawn.Process(target=_limited, args=(send, use, path, whole, copies))
    child.start()
    send.close()
    try:
        faults, grown = receive.recv()
    except EOFError:
        child.join()
        raise AssertionError(
            f"the process ended with {child.exitcode}: a crash, or {SECONDS} s"
        ) from None
    child.join()
    assert not faults
    assert grown < BYTES


def use_picture(path):
    examples = load_pictures(path.parent, size=16)
    for i in range(len(examples)):
        as_evaluated(Data(image_size=16), examples, i)


def use_idx(path):
    data = Data(name="idx", directory=str(path.parent))
    for split in ("train", "test"):
        examples = load(data, split)
        examples[len(examples) - 1]


def use_prepared(path):
    data = Data(name="cifar10", directory=str(path.parents[2]))
    for split in ("train", "test"):
        examples = load(data, split)
        for i in range(min(len(examples), 20)):
            as_evaluated(data, examples, i)


def use_sentences(path):
    data = sentences.settings(path.parent)
    for split in ("train", "validation", "test"):
        examples = load_sentences(data, split)
        examples[len(examples) - 1]
        examples.words(0)


def use_boxes(path):
    settings = {"directory": str(path.parents[1]), "image_size": 16}
    data = Data(name="coco", unreadable="skip", **settings)
    for split in ("train", "test"):
        examples = load_boxes(data, split)
        for i in range(min(len(examples), 5)):
            boxes_as_evaluated(data, examples, i)


@pytest.mark.parametrize("name", PICTURES)
def test_damaged_pictures_are_read_or_refused(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(PICTURES[name]())
    change = with_checksums if name.endswith("png") else lambda content: content
    check(use_picture, path, change=change)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("name", ["images-idx3-ubyte", "labels-idx1-ubyte"])
def test_damaged_idx_files_are_read_or_refused(tmp_path, name, suffix):
    arrays = {"images-idx3": NOISE[:12], "labels-idx1": np.uint8([0, 1, 2] * 4)}
    for prefix in ("train", "t10k"):
        for kind, array in arrays.items():
            header = (
                bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">i4").tobytes()
            )
            content = header + array.tobytes()
            content = gzip.compress(content, mtime=0) if suffix else content
            (tmp_path / f"{prefix}-{kind}-ubyte{suffix}").write_bytes(content)
    check(use_idx, tmp_path / f"train-{name}{suffix}")


@pytest.mark.parametrize(
    "name",
    ["dataset_info.json", "features.json", "cifar10-train.array_record-00000-of-00001"],
)
def test_damaged_prepared_sets_are_read_or_refused(tmp_path, name):
    prepare(tmp_path, "cifar10")
    check(use_prepared, tmp_path / "cifar10" / "3.0.2" / name)


@pytest.mark.parametrize("name", ["train.tsv", "dev.tsv", "vocab.txt"])
def test_damaged_sentences_are_read_or_refused(tmp_path, name):
    sentences.write_sst2(tmp_path)
    check(use_sentences, tmp_path / name)


@pytest.mark.parametrize("part", ["train", "val"])
def test_damaged_boxes_are_read_or_refused(tmp_path, part):
    write_boxes(tmp_path)
    check(use_boxes, tmp_path / "annotations" / f"instances_{part}.json")
