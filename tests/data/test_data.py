"""Data: splits, files, augmentation, and which examples a pipeline hands out."""

import gzip
import json
import sys
from itertools import islice

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitsnn_jax.config import Data
from bitsnn_jax.data import (
    InMemory,
    Normalisation,
    eval_batches,
    load,
    normalise,
    normaliser,
    steps_per_epoch,
    train_batches,
)

few = settings(max_examples=20, derandomize=True)
sizes = st.tuples(
    st.integers(1, 23), st.integers(1, 4), st.integers(1, 3)
)  # examples, rows of a shard, shards


def numbered(n, *, shape=(2, 2, 1)):
    """n examples with their position as the label and in every pixel."""
    labels = np.arange(n, dtype=np.int32)
    return InMemory(
        image_shape=shape,
        images=np.tile(labels.astype(np.uint8)[:, None, None, None], (1, *shape)),
        labels=labels,
        num_classes=n,
        white=1,
        mean=np.zeros(shape[-1], np.float32),
        std=np.ones(shape[-1], np.float32),
    )


def idx_bytes(array):
    header = bytes((0, 0, 8, array.ndim))
    return header + np.array(array.shape, ">i4").tobytes() + array.tobytes()


def write_idx_folder(folder, train, test, *, zipped=False):
    for prefix, (images, labels) in (("train", train), ("t10k", test)):
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            content = idx_bytes(array.astype(np.uint8))
            path = folder / f"{prefix}-{name}-ubyte{'.gz' if zipped else ''}"
            path.write_bytes(gzip.compress(content) if zipped else content)


def counting_images(n):
    """n images of 1x2 pixels, each the two bytes of its position."""
    return np.stack(np.divmod(np.arange(n), 256), -1)[:, None, :]


def positions(examples):
    high, low = examples.images[:, 0, :, 0].astype(int).T
    return (256 * high + low).tolist()


def batches(iterable):
    return [{k: np.asarray(v) for k, v in batch.items()} for batch in iterable]


def assert_same(got, expected):
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], strict=True)


# Splits


def test_idx_splits_are_disjoint_and_cover_and_hold_out_5000_of_60000(tmp_path):
    labels = np.arange(60_000) % 10
    write_idx_folder(
        tmp_path, (counting_images(60_000), labels), (counting_images(7), labels[:7])
    )
    data = Data(name="idx", directory=str(tmp_path))
    train, validation, test = (
        positions(load(data, split)) for split in ("train", "validation", "test")
    )
    assert len(validation) == 5000
    assert sorted(train + validation) == list(range(60_000))
    assert test == list(range(7))


def test_splits_never_change(tmp_path):
    # RandomState(0).permutation(5) is 2 0 1 3 4; its last one is held out.
    images, labels = counting_images(5), np.arange(5)
    write_idx_folder(tmp_path, (images, labels), (images, labels))
    data = Data(name="idx", directory=str(tmp_path))
    assert positions(load(data, "train")) == [2, 0, 1, 3]
    assert positions(load(data, "validation")) == [4]
    assert load(data, "train").labels.tolist() == [2, 0, 1, 3]


def test_digits_splits_are_disjoint_and_cover_the_set():
    from sklearn.datasets import load_digits

    parts = [load(Data(name="digits"), s) for s in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [1257, 180, 360]
    ours = np.concatenate([part.images for part in parts]).reshape(-1, 64)
    theirs = load_digits().data.astype(np.uint8)
    # All 1797 pictures differ, so that sorted rows compare the sets.
    assert len(np.unique(theirs, axis=0)) == 1797
    np.testing.assert_array_equal(np.unique(ours, axis=0), np.unique(theirs, axis=0))
    assert all(set(part.labels) == set(range(10)) for part in parts)


@pytest.mark.parametrize(
    ("name", "shape", "num_classes"),
    [
        ("digits", (8, 8, 1), 10),
        ("fake", (32, 32, 3), 10),
        ("fake_imagenet", (224, 224, 3), 1000),
    ],
)
def test_sources_state_their_shape_and_are_the_same_each_time(name, shape, num_classes):
    examples, again = load(Data(name=name), "train"), load(Data(name=name), "train")
    assert examples.image_shape == shape
    assert examples.num_classes == num_classes
    assert examples.images.dtype == np.uint8 and examples.labels.dtype == np.int32
    assert len(np.unique(examples.images[:20], axis=0)) == 20
    np.testing.assert_array_equal(examples.images, again.images)
    np.testing.assert_array_equal(examples.labels, again.labels)


def test_the_first_are_as_many_as_asked_for_and_at_least_one():
    test = load(Data(name="digits"), "test")
    assert test.first(None) is test
    assert [len(test.first(n)) for n in (1, 7, 9999)] == [1, 7, 360]
    np.testing.assert_array_equal(test.first(7)[6]["image"], test[6]["image"])
    for limit in (0, -1):
        with pytest.raises(ValueError, match=f"limit must be at least 1, got {limit}"):
            test.first(limit)


def test_all_splits_have_the_scale_of_the_training_pixels():
    parts = [load(Data(name="digits"), s) for s in ("train", "validation", "test")]
    pixels = parts[0].images.astype(np.float64) / 16  # the digits' white
    for part in parts:
        # Rounded to float32: half an ulp of a number below 1.
        np.testing.assert_allclose(part.mean, pixels.mean((0, 1, 2)), atol=6e-8)
        np.testing.assert_allclose(part.std, pixels.std((0, 1, 2)), atol=6e-8)
    z = normalise(parts[0].images, parts[0]).astype(np.float64)
    # float32 roundings of single pixels average out well below 1e-6.
    assert abs(z.mean()) < 1e-6 and abs(z.std() - 1) < 1e-6


def test_normalised_pixels_follow_the_formula_channel_by_channel():
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 2), dtype=np.uint8)
    mean, std = np.float32([0.2, 0.6]), np.float32([0.5, 0.1])
    examples = InMemory(
        images=images,
        labels=np.zeros(3, np.int32),
        image_shape=(4, 5, 2),
        num_classes=1,
        white=255,
        mean=mean,
        std=std,
    )
    got = normalise(images, examples)
    assert got.dtype == np.float32
    # Values up to 10, three float32 roundings: 3 * 10 * 2**-24.
    np.testing.assert_allclose(got, (images / 255 - mean) / std, atol=2e-6)


def test_a_compiled_program_normalises_to_the_bits_of_numpy():
    # Each pixel at each of many scales, as channels.
    rng = np.random.default_rng(0)
    examples = InMemory(
        images=np.zeros((1, 1, 1, 999), np.uint8),
        labels=np.zeros(1, np.int32),
        image_shape=(1, 1, 999),
        num_classes=1,
        white=255,
        mean=rng.uniform(0, 1, 999).astype(np.float32),
        std=rng.uniform(0.01, 1, 999).astype(np.float32),
    )
    pixels = np.tile(np.arange(256, dtype=np.uint8)[:, None], 999)
    got = jax.jit(Normalisation.of(examples).__call__)(pixels)
    np.testing.assert_array_equal(got, normalise(pixels, examples), strict=True)


def test_a_constant_channel_stays_finite(tmp_path):
    images, labels = np.zeros((4, 2, 2)), np.arange(4)
    write_idx_folder(tmp_path, (images, labels), (images, labels))
    examples = load(Data(name="idx", directory=str(tmp_path)), "train")
    np.testing.assert_array_equal(normalise(examples.images, examples), 0)


# Files


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files_come_back_as_they_were_written(tmp_path, zipped):
    rng = np.random.default_rng(0)
    train = rng.integers(0, 256, (24, 3, 5)), rng.permutation(24)
    test = rng.integers(0, 256, (6, 3, 5)), rng.permutation(6)
    write_idx_folder(tmp_path, train, test, zipped=zipped)
    data = Data(name="idx", directory=str(tmp_path))
    examples = load(data, "test")
    np.testing.assert_array_equal(examples.images[..., 0], test[0])
    np.testing.assert_array_equal(examples.labels, test[1])
    assert examples.num_classes == 24
    parts = load(data, "train"), load(data, "validation")
    by_label = {int(label): image for part in parts for image, label in _pairs(part)}
    assert len(by_label) == 24
    for image, label in zip(*train, strict=True):
        np.testing.assert_array_equal(by_label[int(label)][..., 0], image)


def _pairs(examples):
    return zip(examples.images, examples.labels, strict=True)


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
whole = idx_bytes(np.zeros((4, 2, 2), np.uint8))


@pytest.mark.parametrize(
    ("name", "content", "expected", "came"),
    [
        (IMAGES, whole[:-1], "expected 32 bytes", "got 31"),
        (IMAGES, whole + b"\0", "expected 32 bytes", "got 33"),
        (IMAGES, whole[:9], "expected 16 bytes", "got 9"),
        (IMAGES, b"", "magic number 00000803", "got an empty file"),
        (IMAGES, b"\0\0\x0d" + whole[3:], "magic number 00000803", "got 00000d03"),
        (LABELS, whole, "magic number 00000801", "got 00000803"),
        (LABELS, idx_bytes(np.zeros(3, np.uint8)), "each of the 4 images", "got 3"),
        (LABELS, idx_bytes(np.zeros(4, np.uint8)), "test labels 0..0", "got 3"),
        (
            f"{IMAGES}.gz",
            gzip.compress(whole, mtime=0)[:-9],
            "whole gzip file",
            "broken",
        ),
        (f"{IMAGES}.gz", whole, "whole gzip file", "broken"),
    ],
)
def test_a_corrupt_file_is_named_with_what_was_expected_and_what_came(
    tmp_path, name, content, expected, came
):
    good = np.zeros((4, 2, 2)), np.arange(4)
    write_idx_folder(tmp_path, good, good)
    (tmp_path / IMAGES).unlink() if name.endswith(".gz") else None
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError) as error:
        load(Data(name="idx", directory=str(tmp_path)), "train")
    message = str(error.value)
    assert expected in message and came in message and "\n" not in message
    assert name in message or "data.directory" in message


@pytest.mark.parametrize(
    ("labels", "expected", "came"),
    [
        ([1, 2, 3, 1], "3 different labels to be 0..2", "got 1..3 without 0"),
        ([0, 1, 2, 255], "0..3", "0..255 without 3, 4, 5, 6, 7 and 247 more"),
        ([255, 255, 255, 255], "1 different labels to be 0..0", "got 255..255"),
        ([0, 1, 3, 4], "0..3", "got 0..4 without 2"),
    ],
)
def test_labels_that_are_not_numbered_from_0_on_are_no_classes(
    tmp_path, labels, expected, came
):
    train = np.zeros((4, 2, 2)), np.array(labels)
    write_idx_folder(tmp_path, train, (train[0], np.zeros(4)))
    for split in ("train", "validation", "test"):
        with pytest.raises(ValueError) as error:
            load(Data(name="idx", directory=str(tmp_path)), split)
        message = str(error.value)
        assert message.startswith(str(tmp_path / LABELS)) and "\n" not in message
        assert expected in message and came in message


def test_a_test_part_may_lack_classes_but_not_have_others(tmp_path):
    train = np.zeros((4, 2, 2)), np.array([0, 1, 2, 3])
    write_idx_folder(tmp_path, train, (train[0][:2], np.array([3, 1])))
    data = Data(name="idx", directory=str(tmp_path))
    assert load(data, "test").num_classes == 4
    write_idx_folder(tmp_path, train, (train[0][:2], np.array([0, 255])))
    with pytest.raises(ValueError, match=r"t10k-labels.*0\.\.3 .*, got 255$"):
        load(data, "train")


def test_images_of_no_pixels_or_of_two_sizes_are_refused(tmp_path):
    data = Data(name="idx", directory=str(tmp_path))
    labels = np.arange(4)
    nothing, small, large = (np.zeros((4, n, 3)) for n in (0, 2, 5))
    write_idx_folder(tmp_path, (nothing, labels), (nothing, labels))
    with pytest.raises(ValueError, match="train-images.*one pixel, got 0 x 3"):
        load(data, "train")
    write_idx_folder(tmp_path, (large, labels), (small, labels))
    with pytest.raises(ValueError, match=r"test images of \(5, 3\) .* got \(2, 3\)"):
        load(data, "train")


def test_a_missing_file_is_named_with_the_way_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        load(Data(name="idx", directory=str(tmp_path)), "train")
    for part in (IMAGES, "data.directory", "dataset-fashion-mnist"):
        assert part in str(error.value)


def test_a_training_part_without_examples_to_spare_is_refused(tmp_path):
    one = np.zeros((1, 2, 2)), np.zeros(1)
    write_idx_folder(tmp_path, one, one)
    with pytest.raises(ValueError, match="more than 1 training examples.* got 1"):
        load(Data(name="idx", directory=str(tmp_path)), "train")


def test_digits_without_scikit_learn_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'bitsnn-jax\[digits\]'"):
        load(Data(name="digits"), "train")


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="digits, fake, .*, svhn; got 'mn'"):
        load(Data(name="mn"), "train")
    with pytest.raises(ValueError, match="train, validation, test; got 'val'"):
        load(Data(name="fake"), "val")


# Batches to train on


@few
@given(sizes, st.integers(0, 2**32 - 1))
def test_every_example_is_met_once_an_epoch(size, seed):
    n, rows, _ = size
    stream = train_batches(Data(batch_size=rows), numbered(n), seed=seed)
    met = np.concatenate([b["label"] for b in islice(stream, -(-3 * n // rows))])
    for epoch in range(3):
        assert sorted(met[epoch * n : (epoch + 1) * n]) == list(range(n))


def test_every_epoch_and_every_seed_has_its_own_order():
    first, second, other = (
        [next(stream)["label"].tolist() for _ in range(2)]
        for stream in (
            train_batches(Data(batch_size=50), numbered(50), seed=seed)
            for seed in (1, 1, 2)
        )
    )
    assert first == second
    assert first[0] != first[1] and first[0] != other[0]
    assert first[0] != list(range(50))


@few
@given(sizes, st.integers(0, 100))
def test_the_shards_of_a_batch_are_the_batch_of_a_single_host(size, seed):
    n, rows, num_shards = size
    data = Data(batch_size=rows * num_shards, crop=1, flip=True)
    examples = numbered(n, shape=(3, 3, 1))
    whole = batches(islice(train_batches(data, examples, seed=seed), 3))
    for s in range(num_shards):
        stream = train_batches(
            data, examples, seed=seed, shard_index=s, num_shards=num_shards
        )
        own_rows = [{k: v[s::num_shards] for k, v in b.items()} for b in whole]
        assert_same(batches(islice(stream, 3)), own_rows)


@few
@given(sizes, st.integers(0, 5), st.integers(0, 100))
def test_a_resumed_stream_continues_bit_by_bit(size, steps, seed):
    n, rows, num_shards = size
    data = Data(batch_size=rows * num_shards, crop=1, flip=True)
    examples = numbered(n, shape=(3, 3, 1))

    def fresh():
        return train_batches(data, examples, seed=seed, num_shards=num_shards)

    stream, resumed = fresh(), fresh()
    batches(islice(stream, steps))
    state = json.loads(json.dumps(stream.get_state()))
    # Resumed from somewhere else, as after a failed step.
    batches(islice(resumed, 2))
    resumed.set_state(state)
    assert_same(batches(islice(resumed, 3)), batches(islice(stream, 3)))


def test_training_images_are_augmented_anew_each_epoch_and_labels_kept():
    examples = numbered(20, shape=(4, 4, 1))
    stream = train_batches(Data(batch_size=20, crop=2), examples, seed=0)
    first, second = (
        {int(y): x for x, y in zip(b["image"], b["label"], strict=True)}
        for b in batches(islice(stream, 2))
    )
    for label, image in first.items():
        assert set(np.unique(image)) <= {0, label}
    assert sum((first[y] != second[y]).any() for y in first) > 10


@few
@given(sizes)
def test_steps_per_epoch_is_the_fewest_that_meet_every_example(size):
    n, batch_size, _ = size
    steps = steps_per_epoch(Data(batch_size=batch_size), numbered(n))
    assert (steps - 1) * batch_size < n <= steps * batch_size


# Batches to evaluate on


@few
@given(sizes)
def test_evaluation_covers_every_example_once_in_equal_steps(size):
    n, rows, num_shards = size
    shards = [
        batches(
            eval_batches(
                Data(eval_batch_size=rows * num_shards, crop=1, flip=True),
                numbered(n),
                shard_index=s,
                num_shards=num_shards,
            )
        )
        for s in range(num_shards)
    ]
    assert {len(shard) for shard in shards} == {-(-n // (rows * num_shards))}
    everything = [batch for shard in shards for batch in shard]
    for batch in everything:
        assert batch["image"].shape == (rows, 2, 2, 1)
        assert batch["label"].shape == batch["mask"].shape == (rows,)
        assert batch["mask"].dtype == bool and batch["image"].dtype == np.uint8
        np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["label"])
    seen = np.concatenate([batch["label"][batch["mask"]] for batch in everything])
    assert sorted(seen) == list(range(n))


def test_pixels_normalised_by_the_network_are_the_images():
    examples = load(Data(name="digits"), "test")
    settings = Data(name="digits", eval_batch_size=40)
    pixels = next(iter(eval_batches(settings, examples)))["image"]
    images = normalise(pixels, examples)
    # (pixel - mean) / std in another order of operations, of values up to 4.
    found = normaliser(examples)(np.float32(pixels))
    np.testing.assert_allclose(found, images, atol=1e-5)


def test_evaluation_can_be_repeated_and_takes_its_own_batch_size():
    passes = eval_batches(Data(), numbered(5), batch_size=2)
    assert_same(batches(passes), batches(passes))
    assert [b["label"].tolist() for b in passes] == [[0, 1], [2, 3], [4, 4]]
    assert [b["mask"].tolist() for b in passes][-1] == [True, False]


# Bad input


@pytest.mark.parametrize(
    ("data", "n", "arguments", "message"),
    [
        (
            Data(batch_size=3),
            4,
            {"num_shards": 2},
            "data.batch_size .* 2 shards, got 3",
        ),
        (Data(batch_size=0), 4, {}, "data.batch_size .* got 0"),
        (Data(), 4, {"shard_index": 2, "num_shards": 2}, r"in 0\.\.1, got 2"),
        (Data(), 0, {}, "at least one example"),
        (Data(), 4, {"seed": -1}, "seed .* got -1"),
    ],
)
def test_a_bad_request_to_train_is_named(data, n, arguments, message):
    with pytest.raises(ValueError, match=message):
        train_batches(data, numbered(n), **{"seed": 0, **arguments})


@pytest.mark.parametrize(
    ("n", "arguments", "message"),
    [
        (4, {"batch_size": 3, "num_shards": 2}, "eval_batch_size .* 2 shards, got 3"),
        (4, {"shard_index": -1}, r"in 0\.\.0, got -1"),
        (0, {}, "at least one example"),
    ],
)
def test_a_bad_request_to_evaluate_is_named(n, arguments, message):
    with pytest.raises(ValueError, match=message):
        eval_batches(Data(), numbered(n), **arguments)
