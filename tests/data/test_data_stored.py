"""Data that is read from disk as it is needed: decoding, folders."""

import json
import multiprocessing
import os
import warnings
from itertools import islice

import numpy as np
import pytest
from pictures import encoded, greys
from PIL import Image

from bitsnn_jax.config import Config, Data, Model, Optimizer
from bitsnn_jax.data import eval_batches, load, train_batches
from bitsnn_jax.data.images import Unreadable, decode
from bitsnn_jax.jobs.convert import ConvertOptions, convert_source
from bitsnn_jax.jobs.evaluation import evaluate, without_spikes
from bitsnn_jax.jobs.sources import RunSource
from bitsnn_jax.training import train_and_evaluate

CLASSES = ("ant", "bee", "cat")


def write_folder(root, *, counts=(("train", 8), ("val", 3)), classes=CLASSES):
    """JPEGs of one grey each, which counts up, of sizes that differ."""
    grey = 0
    for part, count in counts:
        for label, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                picture = Image.new("RGB", (20 + grey % 7, 18 + label), (grey,) * 3)
                path = root / part / name / f"{name}_{i}.{('JPEG', 'jpg')[i % 2]}"
                path.write_bytes(encoded(picture, "JPEG"))
                grey += 3
    return Data(name="image_folder", directory=str(root), image_size=16)


def batches(iterable):
    return [{k: np.asarray(v) for k, v in batch.items()} for batch in iterable]


def assert_same(got, expected):
    for a, b in zip(got, expected, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], strict=True)


def damage(data, part, *, name="bee", position=1):
    """Cuts a file of a class short, and returns its path."""
    folder = os.path.join(data.directory, part, name)
    path = os.path.join(folder, sorted(os.listdir(folder))[position])
    content = open(path, "rb").read()
    open(path, "wb").write(content[: len(content) // 2])
    return path


# Decoding


@pytest.mark.parametrize(
    ("image", "kind", "expected"),
    [
        (Image.new("RGB", (3, 2), (10, 20, 30)), "PNG", (10, 20, 30)),
        (Image.new("RGBA", (3, 2), (10, 20, 30, 0)), "PNG", (10, 20, 30)),
        (Image.new("L", (3, 2), 40), "JPEG", (40, 40, 40)),
        (Image.new("LA", (3, 2), (40, 9)), "PNG", (40, 40, 40)),
        (Image.new("1", (3, 2), 1), "PNG", (255, 255, 255)),
        (Image.new("RGB", (3, 2), (10, 20, 30)).quantize(), "PNG", (10, 20, 30)),
        (Image.new("CMYK", (3, 2), (255, 0, 0, 0)), "JPEG", (0, 255, 255)),
        (Image.fromarray(np.full((2, 3), 0x1234, np.uint16)), "PNG", (0x12,) * 3),
    ],
    ids=["RGB", "RGBA", "L", "LA", "1", "P", "CMYK", "I;16"],
)
def test_whatever_a_picture_is_it_becomes_8_bit_rgb(image, kind, expected):
    pixels = decode(encoded(image, kind), channels=3, place="here")
    assert pixels.shape == (2, 3, 3) and pixels.dtype == np.uint8
    # JPEG rounds its coefficients and its colours: one or two levels.
    assert np.abs(pixels.astype(int) - expected).max() <= (2 if kind == "JPEG" else 0)


@pytest.mark.parametrize("transparency", [3, bytes(range(16))])
def test_transparency_is_dropped_without_a_word(transparency):
    image = Image.new("RGB", (3, 2), (10, 20, 30)).quantize(16)
    content = encoded(image, transparency=transparency)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = decode(content, channels=3, place="here")
    assert (pixels == (10, 20, 30)).all()


def test_a_grey_set_has_one_channel():
    pixels = decode(encoded(Image.new("RGB", (3, 2), (9, 9, 9))), channels=1, place="")
    np.testing.assert_array_equal(pixels, np.full((2, 3, 1), 9, np.uint8), strict=True)


def test_pixels_lie_as_they_are_stored_whatever_exif_says():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter
    content = encoded(Image.new("L", (8, 16)), "JPEG", exif=exif)
    assert decode(content, channels=3, place="").shape == (16, 8, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9])
def test_a_truncated_picture_is_named(kind, share):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(noise), kind)
    short = content[: int(share * len(content))]
    with pytest.raises(Unreadable) as error:
        decode(short, channels=3, place="DIR/a.jpg")
    message = str(error.value)
    assert message.startswith("DIR/a.jpg") and "\n" not in message
    assert f"got {len(short)} bytes" in message and "data.unreadable" in message


# Folders


def test_folder_splits_are_disjoint_and_cover_and_know_their_classes(tmp_path):
    data = write_folder(tmp_path)
    (tmp_path / "train" / "bee" / "readme.txt").write_text("no picture")
    train, validation, test = (load(data, s) for s in ("train", "validation", "test"))
    assert [len(part) for part in (train, validation, test)] == [22, 2, 9]
    assert sorted(greys(train) + greys(validation)) == list(range(0, 72, 3))
    assert greys(test) == list(range(72, 99, 3))  # in order of class, then of name
    assert [int(test[i]["label"]) for i in range(9)] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for part in (train, validation):
        # 8 pictures a class, counted in threes.
        labels = [int(part[i]["label"]) for i in range(len(part))]
        assert labels == [grey // 24 for grey in greys(part)]
    for part in (train, validation, test):
        assert part.num_classes == 3 and part.image_shape == (16, 16, 3)
        np.testing.assert_array_equal(part.mean, np.float32([0.485, 0.456, 0.406]))


@pytest.mark.parametrize("name", ["val", "validation", "test"])
def test_the_test_part_may_have_each_of_its_usual_names(tmp_path, name):
    data = write_folder(tmp_path, counts=(("train", 2), (name, 1)))
    assert greys(load(data, "test")) == [18, 21, 24]


def test_class_folders_that_differ_are_named(tmp_path):
    data = write_folder(tmp_path)
    (tmp_path / "val" / "bee").rename(tmp_path / "val" / "bees")
    for split in ("train", "validation", "test"):
        with pytest.raises(ValueError) as error:
            load(data, split)
        assert "without 'bee', with 'bees' besides" in str(error.value)
        assert str(tmp_path / "val") in str(error.value)


def test_a_class_without_pictures_is_named(tmp_path):
    data = write_folder(tmp_path)
    for file in (tmp_path / "train" / "cat").iterdir():
        file.rename(file.with_suffix(".gif"))
    with pytest.raises(ValueError, match=r"\.jpg, \.jpeg, \.png.* none in 'cat'$"):
        load(data, "train")


@pytest.mark.parametrize("present", ["", "train", "val"])
def test_a_missing_folder_is_named_with_what_should_be_there(tmp_path, present):
    (tmp_path / present).mkdir(exist_ok=True)
    with pytest.raises(FileNotFoundError) as error:
        load(Data(name="image_folder", directory=str(tmp_path), image_size=8), "train")
    message, missing = str(error.value), "val" if present == "train" else "train"
    assert f"found no folder {missing}" in message and "image-net.org" in message


def test_pictures_of_any_size_need_one_to_be_brought_to(tmp_path):
    with pytest.raises(ValueError, match="set data.image_size, e.g. 224"):
        load(Data(name="image_folder", directory=str(tmp_path)), "train")


# Batches


def augmented(data, **fields):
    changes = {"random_resized_crop": True, "flip": True, "batch_size": 6, **fields}
    return Data(**vars(data) | changes)


def test_every_picture_is_met_once_an_epoch_over_any_number_of_hosts(tmp_path):
    data = augmented(write_folder(tmp_path), color_jitter=0.4)
    train = load(data, "train")
    whole = batches(islice(train_batches(data, train, seed=1), 11))  # 3 epochs of 22
    labels = np.concatenate([batch["label"] for batch in whole])
    for epoch in range(3):
        met = labels[22 * epoch : 22 * (epoch + 1)]
        assert sorted(met) == sorted(int(train[i]["label"]) for i in range(22))
    assert whole[0]["image"].shape == (6, 16, 16, 3)
    for s in range(3):
        shard = train_batches(data, train, seed=1, shard_index=s, num_shards=3)
        own = [{k: v[s::3] for k, v in batch.items()} for batch in whole[:4]]
        assert_same(batches(islice(shard, 4)), own)


def test_any_number_of_workers_makes_the_same_bits_and_resumes_the_others(tmp_path):
    data = augmented(write_folder(tmp_path))
    train = load(data, "train")
    expected = batches(islice(train_batches(data, train, seed=2), 9))
    stream = train_batches(augmented(data, workers=2), train, seed=2)
    assert_same(batches(islice(stream, 5)), expected[:5])
    # In the middle of the second epoch, to no workers and back.
    state = json.loads(json.dumps(stream.get_state()))
    alone = train_batches(data, train, seed=2)
    alone.set_state(state)
    assert_same(batches(islice(alone, 2)), expected[5:7])
    stream.set_state(alone.get_state())
    assert_same(batches(islice(stream, 2)), expected[7:])
    stream.close()
    assert not multiprocessing.active_children()


def test_evaluation_with_workers_covers_each_once_in_the_same_bits(tmp_path):
    data = write_folder(tmp_path)
    test = load(data, "test")
    expected = batches(eval_batches(data, test, batch_size=4))
    data.workers = 2
    assert_same(batches(eval_batches(data, test, batch_size=4)), expected)
    mask = np.concatenate([batch["mask"] for batch in expected])
    assert mask.tolist() == 9 * [True] + 3 * [False]
    # The grey counts up. A JPEG of one grey is that grey, and so is each of its views.
    red = np.concatenate([batch["image"][:, 0, 0, 0] for batch in expected])[mask]
    assert red.tolist() == list(range(72, 99, 3))


def test_evaluation_counts_every_picture_of_a_stream(tmp_path):
    data = write_folder(tmp_path)
    data.eval_batch_size = 4
    test = load(data, "test")

    def by_brightness(variables, x):
        # Classes are 9 levels of grey apart; the first begins at 72.
        level = (x[:, 0, 0, 0] * 0.229 + 0.485) * 255
        edges = np.float32([70, 79.5, 88.5])
        return (level[:, None] > edges).cumsum(-1) * (level[:, None] > edges)

    ann = without_spikes(by_brightness)
    assert evaluate(ann, {}, data, test, repeats=1).accuracy == 1
    assert len(evaluate(ann, {}, data, test.first(5), repeats=1).predictions) == 5
    damage(data, "val", name="ant")  # black counts as an ant, but must not here
    with pytest.raises(Unreadable, match=r"ant_\d"):
        evaluate(ann, {}, data, test, repeats=1)
    data.unreadable = "skip"
    with pytest.warns(UserWarning, match=r"ant_\d.*counts as an error"):
        found = evaluate(ann, {}, data, test, repeats=1)
    # Eight of nine: the damaged one counts, and as an error.
    assert len(found.predictions) == 9 and found.accuracy == pytest.approx(8 / 9)


@pytest.mark.slow
def test_a_run_on_a_stream_is_trained_converted_and_proved(tmp_path):
    data = write_folder(tmp_path)
    data.batch_size, data.eval_batch_size = 8, 8
    run = Config(
        data=data,
        model=Model(name="small", num_classes=3, width=0.25),
        optimizer=Optimizer(epochs=1),
    )
    train_and_evaluate(run, tmp_path / "run")
    source = RunSource(tmp_path / "run", limit=7)
    found = convert_source(source, ConvertOptions(steps=[2], out=tmp_path / "snn"))
    assert found.examples == 7
    for certificate in found.steps[0].certificate.values():
        assert certificate.examples == 7
    assert found.steps[0].certificate["float64"].exact
    assert np.shape(found.raster.image) == (16, 16, 3)
    assert found.raster.label == 0


# Damaged pictures


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_picture_ends_training_with_its_name(tmp_path, workers):
    data = augmented(write_folder(tmp_path), workers=workers)
    path = damage(data, "train", position=1)
    with pytest.raises(Unreadable) as error:
        batches(islice(train_batches(data, load(data, "train"), seed=0), 5))
    assert path in str(error.value)


@pytest.mark.filterwarnings("ignore:.*expected a whole image")  # of batches to come
def test_a_damaged_picture_is_replaced_by_the_next_that_is_whole(tmp_path):
    data = write_folder(tmp_path)
    data.batch_size, data.unreadable = 22, "skip"
    train = load(data, "train")
    whole = greys(train)
    path = damage(data, "train", position=2)
    # 8 pictures before the second class and 2 in it, counted in threes: grey 30.
    position = whole.index(30)
    expected = whole.copy()
    expected[position] = whole[(position + 1) % len(whole)]
    with pytest.warns(UserWarning, match="another one takes its place") as caught:
        batch, again = (next(train_batches(data, train, seed=4)) for _ in range(2))
    assert all(path in str(warning.message) for warning in caught)
    assert sorted(batch["image"][:, 0, 0, 0].tolist()) == sorted(expected)
    assert_same([batch], [again])


@pytest.mark.filterwarnings("ignore:.*expected a whole image")
def test_a_folder_of_damaged_pictures_only_is_an_error(tmp_path):
    data = write_folder(tmp_path, counts=(("train", 2), ("val", 1)))
    data.unreadable = "skip"
    for path in tmp_path.glob("train/*/*"):
        path.write_bytes(b"no picture")
    stream = train_batches(data, load(data, "train"), seed=0)
    with (
        pytest.warns(UserWarning, match="another one"),
        pytest.raises(ValueError, match="expected a whole image, found none"),
    ):
        next(stream)
