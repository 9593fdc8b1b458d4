"""Labelled sentences, or pairs of them, as the tokens of a text network."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from jaxtyping import Int, Int32

from bitsnn_jax import config
from bitsnn_jax.data.glue import FORMS, Form
from bitsnn_jax.data.prepared import read_prepared
from bitsnn_jax.data.splits import SPLITS, held_out, tenth
from bitsnn_jax.data.tsv import Labelled, read_tsv
from bitsnn_jax.data.wordpieces import Pieces, Vocabulary, read_vocabulary

_FILES = 4  # that stay in memory, split into pieces


class Part(NamedTuple):
    """A published part of a data set, split into pieces once."""

    pieces: Pieces
    labels: Int32[np.ndarray, " n"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Sentences:
    """Examples {"tokens": int32 [3, max_length], "label"}.

    The rows of `tokens` are the ids of word pieces, their types (1 in the second
    sentence) and a mask: 1 for a piece, 0 for padding.

    Attributes:
      part: the published part that they belong to.
      order: which of it they are.
      max_length: pieces of an example, padding included.
      num_classes: classes of the source.
      pieces: of the vocabulary; empty where words mean nothing.
      padding: the id of no piece.
      measures: besides accuracy, see `glue.Form`.
    """

    part: Part
    order: Int[np.ndarray, " n"]
    max_length: int
    num_classes: int
    pieces: tuple[str, ...] = ()
    padding: int = 0
    measures: tuple[str, ...] = ()

    @property
    def input_shape(self) -> tuple[int, int]:
        """Return the shape of an example's tokens."""
        return 3, self.max_length

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> dict:
        pieces, labels = self.part
        row = self.order[index]
        end = pieces.ends[row]
        ids = pieces.ids[pieces.ends[row - 1] if row else 0 : end]
        tokens = np.zeros(self.input_shape, np.int32)
        tokens[0] = self.padding
        tokens[0, : len(ids)] = ids
        tokens[1, len(ids) - pieces.seconds[row] : len(ids)] = 1
        tokens[2, : len(ids)] = 1
        return {"tokens": tokens, "label": labels[row]}

    def first(self, limit: int | None) -> Self:
        """Return the first `limit` of them, or all where there are fewer or for None.

        Raises:
          ValueError: less than one.
        """
        if limit is None:
            return self
        if limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        return dataclasses.replace(self, order=self.order[:limit])

    def words(self, index: int) -> list[str]:
        """Return the pieces of an example, for people to read."""
        tokens = self[index]["tokens"]
        ids = tokens[0][tokens[2] == 1].tolist()
        return [self.pieces[i] if self.pieces else str(i) for i in ids]


def load_sentences(data: config.Data, split: str) -> Sentences:
    """Load the examples of one split, as tokens.

    The published training part is permuted once and for all, whatever the seed of the
    run, and its last examples are the validation split: a tenth and at most 10,000. The
    published development part (dev.tsv; "validation" in TensorFlow Datasets) is the
    test split: the test part of GLUE has no labels.

    Args:
      data: `name`, `directory`, `vocabulary`, `max_length` and `unreadable` are read.
      split: "train", "validation" or "test".

    Raises:
      ValueError: unknown name or split, or files that are not what they should be.
      FileNotFoundError: files that are not there.
      ImportError: tokenizers is not installed.
    """
    if data.name not in SENTENCES:
        raise ValueError(
            f"data.name must be one of {', '.join(sorted(SENTENCES))}; got "
            f"{data.name!r}"
        )
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}; got {split!r}")
    return SENTENCES[data.name](data, split)


def _split(part: Part, split: str, **fields: Any) -> Sentences:
    count = len(part.labels)
    if split == "test":
        order = np.arange(count)
    else:
        order = held_out(count, tenth(count))[split == "validation"]
    return Sentences(part=part, order=order, **fields)


def _from_tsv(data: config.Data, split: str, *, form: Form) -> Sentences:
    path = Path(data.directory, "dev.tsv" if split == "test" else "train.tsv")
    read = _Reading(form, data.unreadable == "skip", path)
    return _of_form(data, split, form, read, stamps=(_stamp(path),))


def _from_prepared(data: config.Data, split: str, *, name: str) -> Sentences:
    form = FORMS[name]
    part = "validation" if split == "test" else "train"
    read = _Prepared(data.directory, f"glue/{name}", part, form)
    return _of_form(data, split, form, read, stamps=())


def _of_form(data, split, form, read, *, stamps):
    vocabulary = _vocabulary(data.vocabulary, _stamp(Path(data.vocabulary)))
    return _split(
        _in_pieces(read, vocabulary, data.max_length, stamps),
        split,
        max_length=data.max_length,
        num_classes=len(form.classes),
        pieces=vocabulary.pieces,
        padding=vocabulary.padding,
        measures=form.measures,
    )


class _Reading(NamedTuple):
    """What is read from a TSV file; equal for equal files."""

    form: Form
    skip: bool
    path: Path

    def __call__(self) -> Labelled:
        return read_tsv(self.path, self.form, skip=self.skip)


class _Prepared(NamedTuple):
    """What is read from a prepared set; equal for equal parts."""

    directory: str
    name: str
    part: str
    form: Form

    def __call__(self) -> Labelled:
        names = self.form.features or self.form.sentences
        found = read_prepared(
            self.directory, name=self.name, split=self.part, sentences=names
        )
        return Labelled(*found)


@lru_cache(maxsize=_FILES)
def _vocabulary(path: str, stamp: Any) -> Vocabulary:
    return read_vocabulary(path)


@lru_cache(maxsize=_FILES)
def _in_pieces(
    read: Callable[[], Labelled], vocabulary: Vocabulary, max_length: int, stamps: Any
) -> Part:
    """Read and split once for training and validation, and for all who ask again."""
    sentences, labels = read()
    pieces = vocabulary.split(sentences, max_length=max_length)
    return Part(pieces, np.array(labels, np.int32))


def _stamp(path):
    """Tell whether a file is still the same."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _fake(data: config.Data, split: str) -> Sentences:
    """Make tokens without meaning, to measure time with."""
    if data.directory:
        raise ValueError(
            f"data.directory (--data) must be empty for data.name={data.name}, which "
            f"reads no files; got {data.directory!r}"
        )
    count = {True: 128, False: 640}[split == "test"]
    rng = np.random.RandomState(split == "test")
    lengths = rng.randint(min(8, data.max_length), data.max_length + 1, count)
    pieces = Pieces(
        rng.randint(0, 100, lengths.sum()).astype(np.int32),
        np.cumsum(lengths),
        (lengths // 2).astype(np.int32),
    )
    labels = rng.randint(0, 2, count).astype(np.int32)
    return _split(
        Part(pieces, labels), split, max_length=data.max_length, num_classes=2
    )


SENTENCES: dict[str, Callable[[config.Data, str], Sentences]] = {
    "fake_sentences": _fake,
    **{name: partial(_from_tsv, form=form) for name, form in FORMS.items()},
    **{f"glue/{name}": partial(_from_prepared, name=name) for name in FORMS},
}
