"""Sets that TensorFlow Datasets has prepared as array_record; TensorFlow stays out.

    pip install 'bitsnn-jax[prepare]'
    tfds build cifar10 --data_dir=DIR --file_format=array_record

The first line is needed where the set is prepared only, not where it is read.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitsnn_jax.data.examples import Record

_MANUAL = {
    "imagenet2012": "after ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar of "
    "https://image-net.org were put into DIR/downloads/manual, "
}


@dataclass(frozen=True, eq=False)
class Prepared:
    """The records of one split, in the order of its files."""

    records: Any  # a tfds.core.DataSource, which has no public type
    name: str
    num_classes: int

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        example = self.records[index]
        place = f"{self.name}, record {index} {_text(example.get('file_name', b''))}"
        return Record(example["image"], int(example["label"]), place.strip())


def open_prepared(directory: str, *, name: str, split: str) -> Prepared:
    """One split of a prepared set.

    Args:
      directory: what `tfds build` was given as --data_dir.
      name: of the set among those of TensorFlow Datasets.
      split: its name there, for example "validation".

    Raises:
      FileNotFoundError: no prepared set there, with the command that prepares it.
      ValueError: it was prepared as another format than array_record.
    """
    how = (
        f"to prepare it, {_MANUAL.get(name, '')}pip install 'bitsnn-jax[prepare]' and "
        f"tfds build {name} --data_dir=DIR --file_format=array_record"
    )
    versions = Path(directory, name).glob("*/dataset_info.json") if directory else ()
    # By number: 10.0.0 is newer than 9.0.0.
    newest = max(versions, key=lambda path: _version(path.parent.name), default=None)
    if newest is None:
        raise FileNotFoundError(
            f"data.directory {directory!r}: expected {name}/<version>/"
            f"dataset_info.json in it, found none; {how}"
        )
    import tensorflow_datasets as tfds  # half a second that other sets need not wait

    builder = tfds.builder_from_directory(newest.parent)
    if builder.info.file_format.value != "array_record":
        raise ValueError(
            f"{newest.parent}: expected the format array_record, got "
            f"{builder.info.file_format.value}; {how}"
        )
    raw: Any = {"image": tfds.decode.SkipDecoding()}
    records = builder.as_data_source(split=split, decoders=raw)
    num_classes = builder.info.features["label"].num_classes
    return Prepared(records, f"{newest.parent}, split {split}", num_classes)


def _version(name):
    return [int(part) if part.isdigit() else -1 for part in name.split(".")]


def _text(value):
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
