"""Sets that tfds has prepared: written here, and read whole, damaged and unfinished."""

import json

import pytest
from pictures import greys, prepare

from bitsnn_jax.config import Data
from bitsnn_jax.data import eval_batches, load
from bitsnn_jax.data.images import Unreadable


def test_a_prepared_set_is_read_as_it_was_written(tmp_path):
    data = prepare(tmp_path, "cifar10")
    train, validation, test = (load(data, s) for s in ("train", "validation", "test"))
    assert [len(part) for part in (train, validation, test)] == [18, 2, 6]
    assert sorted(greys(train) + greys(validation)) == list(range(20))
    assert sorted(greys(test)) == list(range(6))
    for part in (train, validation, test):
        assert part.image_shape == (32, 32, 3) and part.num_classes == 10
        for i, grey in enumerate(greys(part)):
            assert part[i]["image"].shape == (32, 32, 3)
            assert part[i]["label"] == grey % 10


def test_a_set_of_another_format_says_how_to_prepare_it(tmp_path):
    data = prepare(tmp_path, "cifar10")
    info = tmp_path / "cifar10" / "3.0.2" / "dataset_info.json"
    info.write_text(
        json.dumps(json.loads(info.read_text()) | {"fileFormat": "tfrecord"})
    )
    with pytest.raises(
        ValueError, match="array_record, got tfrecord.*tfds build cifar10"
    ):
        load(data, "test")


def test_hidden_and_unfinished_versions_are_not_read(tmp_path):
    data = prepare(tmp_path, "cifar10")
    for name in (".ipynb_checkpoints", "incomplete.ABC_9.0.0", "old"):
        folder = tmp_path / "cifar10" / name
        folder.mkdir()
        (folder / "dataset_info.json").write_text("{}")
    assert len(load(data, "test")) == 6
    (tmp_path / "cifar10" / "3.0.2").rename(tmp_path / "cifar10" / ".3.0.2")
    with pytest.raises(FileNotFoundError, match="cifar10/<version>/"):
        load(data, "test")


@pytest.mark.parametrize(
    ("count", "came"), [("2147483648", "2147483648 records in 131072 bytes"), ("0", "")]
)
def test_more_records_than_the_files_can_hold_are_refused(tmp_path, count, came):
    data = prepare(tmp_path, "cifar10")
    info = tmp_path / "cifar10" / "3.0.2" / "dataset_info.json"
    info.write_text(info.read_text().replace('"20"', f'"{count}"'))
    with pytest.raises(ValueError, match=f"3.0.2: .*{came}.*tfds build") as error:
        load(data, "train")
    assert "\n" not in str(error.value)


def test_damaged_records_are_named_and_skipped_where_that_is_asked_for(tmp_path):
    data = prepare(tmp_path, "cifar10")
    [path] = (tmp_path / "cifar10" / "3.0.2").glob("cifar10-test.*")
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    test = load(data, "test")
    with pytest.raises(Unreadable, match="split test, record 0: .*Corrupted"):
        test[0]
    data.unreadable = "skip"
    [batch] = list(eval_batches(data, test, batch_size=6))
    assert -1 in batch["label"]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("cifar100", ["tfds build cifar100 --data_dir=DIR --file_format=array_record"]),
        ("svhn", ["svhn_cropped/<version>"]),
        ("imagenet2012", ["ILSVRC2012_img_train.tar", "DIR/downloads/manual"]),
    ],
)
def test_a_set_that_is_not_there_says_how_to_get_it(tmp_path, name, parts):
    with pytest.raises(FileNotFoundError) as error:
        load(Data(name=name, directory=str(tmp_path), image_size=8), "train")
    for part in [*parts, "data.directory", "pip install 'bitsnn-jax[prepare]'"]:
        assert part in str(error.value)
