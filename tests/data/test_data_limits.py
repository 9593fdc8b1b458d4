"""Data made to take all memory, or to start a program: refused by its header."""

import contextlib
import gzip
import io
import os
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pictures import encoded, png
from PIL import Image

import bitsnn_jax
from bitsnn_jax.config import Config, Data
from bitsnn_jax.data import as_evaluated, eval_batches, load, train_batches
from bitsnn_jax.data.augment import resize_and_crop
from bitsnn_jax.data.folder import open_pictures
from bitsnn_jax.data.idx import read_idx
from bitsnn_jax.data.images import MAX_BYTES, Unreadable, decode
from bitsnn_jax.jobs.compare_examples import calibration_inputs
from bitsnn_jax.training.validation import validate

# Pictures


@pytest.mark.parametrize(
    ("width", "height", "came"),
    [
        (2**13 + 1, 2**13, "8193 x 8192 pixels"),
        (2**16, 1, "65536 x 1 pixels"),
        (1, 2**16, "1 x 65536 pixels"),
        (12_000, 12_000, "12000 x 12000 pixels"),
        (2**31 - 1, 2**31 - 1, "more than the 67108864 pixels"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_of_too_many_pixels_is_refused_by_its_header(width, height, came):
    content = png(width, height)
    with pytest.raises(Unreadable, match=f"^here: .*got {came}.*data.unreadable"):
        decode(content, channels=3, place="here")


@pytest.mark.parametrize(
    ("kind", "mode", "channels"),
    [("PNG", "RGB", 1), ("PNG", "P", 3), ("JPEG", "CMYK", 3), ("PNG", "LA", 3)],
)
def test_a_large_picture_is_the_same_in_bands(kind, mode, channels):
    # Two bands of 2**22 pixels and a part of a third.
    noise = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((8192, 1100), Image.Resampling.NEAREST)
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    content = encoded(image, kind)
    whole = Image.open(io.BytesIO(content)).convert("L" if channels == 1 else "RGB")
    expected = np.asarray(whole).reshape(1100, 8192, channels)
    got = decode(content, channels=channels, place="")
    np.testing.assert_array_equal(got, expected, strict=True)


def test_the_upper_bits_of_a_large_picture_of_16_bits_are_the_same_in_bands():
    deep = np.arange(2**23, dtype=np.uint32).reshape(2048, 4096).astype(np.uint16)
    got = decode(encoded(Image.fromarray(deep), compress_level=1), channels=1, place="")
    np.testing.assert_array_equal(got[..., 0], deep >> 8)


def test_a_jpeg_of_many_scans_is_refused():
    # Each scan costs the time of a whole picture, and may be ten bytes long.
    content = encoded(Image.new("L", (64, 64), 100), "JPEG", progressive=True)
    scan = content[content.rindex(b"\xff\xda") : -2]
    assert decode(content, channels=1, place="").shape == (64, 64, 1)
    with pytest.raises(Unreadable, match="a JPEG of 206 scans, the limit is 100"):
        decode(content[:-2] + scan * 200 + content[-2:], channels=1, place="")


def test_a_film_behind_a_jpeg_is_no_scan_of_it():
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    # A segment may hold whatever looks like a scan.
    comment = b"\xff\xda" * 200
    options = {"quality": 95, "restart_marker_blocks": 1, "comment": comment}
    content = encoded(Image.fromarray(noise), "JPEG", **options)
    expected = decode(content, channels=3, place="")
    assert content.count(comment) == 1
    film = content + comment
    np.testing.assert_array_equal(decode(film, channels=3, place=""), expected)
    scan = content[content.rindex(b"\xff\xda") : -2]
    with pytest.raises(Unreadable, match="a JPEG of 121 scans"):
        decode(content[:-2] + scan * 120 + content[-2:], channels=3, place="")


def test_a_file_of_more_bytes_than_a_picture_has_is_not_read(tmp_path):
    path = tmp_path / "huge.png"
    path.touch()
    os.truncate(path, MAX_BYTES + 1)  # a hole, which takes no room on the disk
    with pytest.raises(Unreadable, match=r"huge\.png: .* 268435457 bytes, the limit"):
        open_pictures(tmp_path)[0]


def test_numbers_whose_white_is_unknown_are_refused():
    floats = Image.fromarray(np.full((4, 4), 0.5, np.float32))
    whole = Image.fromarray(np.full((4, 4), 70_000, np.int32))
    for image, mode in ((floats, "F"), (whole, "I")):
        with pytest.raises(Unreadable, match=f"mode {mode}, whose white is unknown"):
            decode(encoded(image, "TIFF"), channels=3, place="here")
    sixteen = Image.fromarray(np.full((2, 3), 0x1234, np.uint16))
    for kind in ("PNG", "TIFF", "PPM"):
        got = decode(encoded(sixteen, kind), channels=1, place="")
        assert (got == 0x12).all()


@pytest.mark.parametrize("kind", ["EPS", "GIF", "PDF", "ICO", "PCX"])
def test_other_formats_are_refused_whatever_the_name_and_start_nothing(
    kind, monkeypatch
):
    def start(*_, **__):
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(os, "system", start)
    content = encoded(Image.new("RGB", (64, 64)), kind)
    with pytest.raises(Unreadable, match="cannot be decoded as any of JPEG, PNG"):
        decode(content, channels=3, place="here.png")


def test_pictures_are_opened_in_one_place_and_as_formats_that_are_meant():
    sources = Path(bitsnn_jax.__file__).parent.rglob("*.py")
    calls = [
        (path.name, call)
        for path in sources
        for call in re.findall(r"Image\.open\(.*\)", path.read_text())
    ]
    assert calls == [("images.py", "Image.open(io.BytesIO(content), formats=FORMATS)")]


_CHILD = """
import resource, sys
from bitsnn_jax.data import load_pictures, as_evaluated
from bitsnn_jax.config import Data

examples = load_pictures(sys.argv[1], size=224)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for i in range(len(examples)):
    image = as_evaluated(Data(image_size=224), examples, i)["image"]
    assert image.shape == (224, 224, 3)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_picture_of_a_single_column_takes_no_memory(tmp_path):
    # 256 times 5,120,000 pixels, of which 224 times 224 are wanted: 5 GB.
    (tmp_path / "column.png").write_bytes(png(1, 20_000, rows=20_000))
    (tmp_path / "row.png").write_bytes(png(20_000, 1, rows=1))
    (tmp_path / "longest.png").write_bytes(png(1, 65_535, rows=65_535))
    command = [sys.executable, "-c", _CHILD, tmp_path]
    grown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(grown.stdout) < 100_000  # KB; the pixels take 0.2 MB


def test_the_middle_of_a_long_picture_is_what_resizing_it_whole_would_give():
    # 256 x 65,600 pixels, and 65,536 would still be resized as a whole.
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (8, 2050, 3), dtype=np.uint8)
    whole = Image.fromarray(image).resize((65_600, 256), Image.Resampling.BILINEAR)
    left = (65_600 - 224) // 2
    expected = np.asarray(whole.crop((left, 16, left + 224, 240))).astype(int)
    got = resize_and_crop(image, size=224)
    # The place of a pixel is float32 inside of Pillow: a rounding another way.
    assert np.abs(got - expected).max() <= 1
    turned = resize_and_crop(image.swapaxes(0, 1).copy(), size=224)
    np.testing.assert_array_equal(turned.swapaxes(0, 1), got)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_large_picture_is_resized_to_the_same_bits(channels):
    image = np.random.default_rng(0).integers(0, 256, (4200, 4200, 3), dtype=np.uint8)
    image = image[..., :channels]
    whole = Image.fromarray(image if channels == 3 else image[..., 0])
    whole = whole.resize((256, 256), Image.Resampling.BILINEAR)
    expected = np.asarray(whole.crop((16, 16, 240, 240))).reshape(224, 224, channels)
    np.testing.assert_array_equal(resize_and_crop(image, size=224), expected)


def readable(examples):
    kept = []
    for i in range(len(examples)):
        with contextlib.suppress(Unreadable):
            kept.append(examples[i])
    return kept


@pytest.mark.filterwarnings("ignore:.*expected a whole image")
def test_what_is_refused_by_its_header_is_skipped_where_that_is_asked_for(tmp_path):
    for part, count in (("train", 4), ("val", 2)):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                content = encoded(Image.new("RGB", (9, 9), (200,) * 3))
                (tmp_path / part / name / f"{i}.png").write_bytes(content)
    huge, eps = png(2**14, 2**14), encoded(Image.new("RGB", (9, 9)), "EPS")
    (tmp_path / "train" / "a" / "0.png").write_bytes(huge)
    (tmp_path / "train" / "b" / "1.png").write_bytes(eps)
    (tmp_path / "val" / "a" / "0.png").write_bytes(huge)
    os.truncate(tmp_path / "val" / "b" / "0.png", MAX_BYTES + 1)
    data = Data(name="image_folder", directory=str(tmp_path), image_size=8)
    with pytest.raises(Unreadable):
        as_evaluated(data, load(data, "test"), 0)
    data.unreadable, data.batch_size = "skip", 8
    batch = next(train_batches(data, load(data, "train"), seed=0))
    np.testing.assert_array_equal(batch["image"], 200)
    [batch] = list(eval_batches(data, load(data, "test"), batch_size=4))
    assert batch["label"].tolist() == [-1, 0, -1, 1]
    # Nor is black what thresholds are found on: six of eight can be read, and one of
    # the eight is held out.
    run, train = SimpleNamespace(config=Config(data=data)), load(data, "train")
    [images] = calibration_inputs(run, train, seed=0)
    red = np.rint((images[..., 0] * 0.229 + 0.485) * 255)
    np.testing.assert_array_equal(red, np.full((len(readable(train)), 8, 8), 200))


# IDX files


def idx_header(*shape):
    return bytes((0, 0, 8, len(shape))) + np.array(shape, ">u4").tobytes()


def peak(run):
    """Bytes that Python and NumPy held at once."""
    tracemalloc.start()
    try:
        run()
    finally:
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return held


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("shape", [(2**32 - 1,) * 3, (60_000, 2**10, 2**10), (2**27,)])
def test_dimensions_that_a_file_cannot_hold_are_refused_at_once(
    tmp_path, shape, zipped
):
    path = tmp_path / f"images{'.gz' if zipped else ''}"
    content = idx_header(*shape) + bytes(100)
    path.write_bytes(gzip.compress(content) if zipped else content)

    def read():
        with pytest.raises(ValueError, match="images.*expected .* bytes.*, got"):
            read_idx(path, ndim=len(shape))

    assert peak(read) < 10**6


def test_a_gzip_file_that_unpacks_to_more_than_its_header_says_is_left_unpacked(
    tmp_path,
):
    path = tmp_path / "labels.gz"
    path.write_bytes(gzip.compress(idx_header(1000) + bytes(2 * 10**8)))

    def read():
        with pytest.raises(ValueError, match="expected 1008 bytes .* got 1009 or more"):
            read_idx(path, ndim=1)

    assert peak(read) < 2 * 10**6


def test_a_gzip_file_packed_more_than_a_hundredfold_is_refused_unless_small(tmp_path):
    path = tmp_path / "labels.gz"
    for count, small in ((2**20, True), (2**26, False)):
        path.write_bytes(gzip.compress(idx_header(count) + bytes(count)))
        if small:
            assert read_idx(path, ndim=1).shape == (count,)
        else:
            with pytest.raises(ValueError, match="at most 100 times the 65.* bytes"):
                read_idx(path, ndim=1)


def test_the_checksum_at_the_end_of_a_gzip_file_is_read(tmp_path):
    path = tmp_path / "labels.gz"
    content = bytearray(gzip.compress(idx_header(4) + bytes(4)))
    content[-8] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="whole gzip file.*CRC"):
        read_idx(path, ndim=1)


# Settings


@pytest.mark.parametrize(
    "field", ["image_size", "crop", "cutout", "workers", "batch_size"]
)
def test_numbers_of_another_size_than_data_have_are_refused(field):
    for value in (-1, 10**9, 10**30):
        with pytest.raises(ValueError, match=rf"^data\.{field} must be .*got {value}$"):
            validate(Config(data=Data(**{field: value})))


def test_a_crop_that_would_miss_the_image_is_refused():
    train = load(Data(name="digits"), "train")
    next(train_batches(Data(name="digits", crop=7), train, seed=0))
    with pytest.raises(ValueError, match="data.crop must be below the 8 .* got 8"):
        train_batches(Data(name="digits", crop=8), train, seed=0)


def test_batches_that_memory_cannot_hold_are_refused():
    # 2**17 images of 4096 x 4096 x 3 bytes are 6.6 TB.
    data = Data(name="fake", image_size=4096, batch_size=2**17, eval_batch_size=2**17)
    examples = load(data, "test")
    for batches, field in (
        (lambda: train_batches(data, examples, seed=0), "data.batch_size"),
        (lambda: eval_batches(data, examples), "data.eval_batch_size"),
    ):
        with pytest.raises(ValueError, match=f"^{field}.*memory of .* GB, got 6597.1"):
            batches()


@pytest.mark.parametrize("name", ["digits", "fake", "fake_imagenet"])
def test_a_directory_for_data_without_files_is_refused(name, tmp_path):
    for directory in ("/nosuch", str(tmp_path)):
        message = f"must be empty for data.name={name}, .* got '{directory}'$"
        with pytest.raises(ValueError, match=rf"^data.directory \(--data\) {message}"):
            load(Data(name=name, directory=directory), "test")
