"""Sets that TensorFlow Datasets has prepared as array_record; TensorFlow stays out.

    pip install 'bitsnn-jax[prepare]'
    tfds build cifar10 --data_dir=DIR --file_format=array_record

The first line is needed where the set is prepared only, not where it is read.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitsnn_jax.data.examples import Record
from bitsnn_jax.data.images import Unreadable

_MANUAL = {
    "imagenet2012": "after ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar of "
    "https://image-net.org were put into DIR/downloads/manual, "
}


@dataclass(frozen=True, eq=False)
class Prepared:
    """The images of one split, in the order of its files."""

    records: Any  # a tfds.core.DataSource, which has no public type
    name: str
    num_classes: int

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        place = f"{self.name}, record {index}"
        try:
            example = self.records[index]
            image, label = bytes(example["image"]), int(example["label"])
        except Exception as error:  # readers raise whatever the damage makes of them
            raise Unreadable.because(place, f"none ({_line(error)})") from error
        place = f"{place} {_text(example.get('file_name', b''))}".strip()
        if not 0 <= label < self.num_classes:
            found = f"label {label} of 0..{self.num_classes - 1}"
            raise Unreadable.because(place, found)
        return Record(image, label, place)


def open_prepared(directory: str, *, name: str, split: str) -> Prepared:
    """Open one split of a prepared set of images.

    Args:
      directory: what `tfds build` was given as --data_dir.
      name: of the set among those of TensorFlow Datasets.
      split: its name there, for example "validation".

    Raises:
      FileNotFoundError: no prepared set there, with the command that prepares it.
      ValueError: it was prepared as another format than array_record, or its files are
        damaged, or cannot hold as many records as they are said to.
    """
    return Prepared(*_opened(directory, name, split, encoded=("image",)))


def read_prepared(
    directory: str, *, name: str, split: str, sentences: Sequence[str]
) -> tuple[list[tuple[str, ...]], list[int]]:
    """Read one split of a prepared set of sentences.

    Args:
      directory, name, split: as of `open_prepared`.
      sentences: the names of its features that are sentences.

    Returns:
      The sentences of each example, and its label.

    Raises:
      FileNotFoundError: no prepared set there, with the command that prepares it.
      ValueError: as `open_prepared`, or a record that is damaged, or that has not what
        it should have.
    """
    records, place, num_classes = _opened(directory, name, split)
    texts, labels = [], []
    for index in range(len(records)):
        try:
            example = records[index]
            texts.append(tuple(example[part].decode() for part in sentences))
            labels.append(int(example["label"]))
        except Exception as error:  # readers raise whatever the damage makes of them
            wanted = ", ".join((*sentences, "label"))
            raise ValueError(
                f"{place}, record {index}: expected {wanted}, got none ({_line(error)})"
            ) from error
        if not 0 <= labels[-1] < num_classes:
            raise ValueError(
                f"{place}, record {index}: expected a label of 0..{num_classes - 1}, "
                f"got {labels[-1]}"
            )
    return texts, labels


def _opened(directory, name, split, *, encoded=()):
    """Return the records of a split, its name for messages, and how many classes."""
    how = (
        f"to prepare it, {_MANUAL.get(name, '')}pip install 'bitsnn-jax[prepare]' and "
        f"tfds build {name} --data_dir=DIR --file_format=array_record"
    )
    found = Path(directory, name).glob("*/dataset_info.json") if directory else ()
    # Hidden folders and what a build left unfinished have no version.
    versions = {path: _version(path.parent.name) for path in found}
    newest = max(filter(versions.get, versions), key=versions.__getitem__, default=None)
    if newest is None:
        raise FileNotFoundError(
            f"data.directory {directory!r}: expected {name}/<version>/"
            f"dataset_info.json in it, found none; {how}"
        )
    import tensorflow_datasets as tfds  # half a second that other sets need not wait

    try:
        builder = tfds.builder_from_directory(newest.parent)
        kind = builder.info.file_format.value
        records, num_classes = None, 0
        if kind == "array_record":
            as_stored = {part: tfds.decode.SkipDecoding() for part in encoded}
            records, num_classes = _records(builder, split, as_stored)
    except Exception as error:  # of JSON that anything may have happened to
        raise ValueError(
            f"{newest.parent}: expected what tfds build writes, got files that cannot "
            f"be read ({_line(error)}); {how}"
        ) from error
    if records is None:
        raise ValueError(
            f"{newest.parent}: expected the format array_record, got {kind}; {how}"
        )
    return records, f"{newest.parent}, split {split}", num_classes


def _records(builder, split, decoders):
    records = builder.as_data_source(split=split, decoders=decoders or None)
    num_classes = builder.info.features["label"].num_classes
    files = builder.info.splits[split].filepaths
    size = sum(os.stat(path).st_size for path in files)
    # Their number is in dataset_info.json, and positions of all are drawn.
    if not 0 < len(records) <= size:
        raise ValueError(f"{len(records)} records in {size} bytes of split {split}")
    if not num_classes:
        raise ValueError("labels of no classes")
    return records, num_classes


def _version(name):
    """Split into numbers, as 10.0.0 is newer than 9.0.0; none for another name."""
    parts = name.split(".")
    return [int(part) for part in parts] if all(map(str.isdecimal, parts)) else []


def _text(value):
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _line(error):
    return f"{type(error).__name__}: {' '.join(str(error).split()):.200}"
