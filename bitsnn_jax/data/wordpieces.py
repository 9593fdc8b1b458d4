"""Sentences as numbers: the word pieces of BERT, by the library `tokenizers`."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_CHUNK = 4096  # sentences at a time: what the library says of each takes kilobytes


class Pieces(NamedTuple):
    """Rows of unequal length, one behind the other.

    Attributes:
      ids: of all pieces of all rows.
      ends: where each row ends in `ids`.
      seconds: how many pieces of each row belong to its second sentence.
    """

    ids: Int32[np.ndarray, " pieces"]
    ends: Int64[np.ndarray, " n"]
    seconds: Int32[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The pieces that a vocab.txt lists, one a line; a piece's id is its line.

    Attributes:
      path: of the file.
      pieces: in the order of the file.
    """

    path: Path
    pieces: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pieces)

    @property
    def padding(self) -> int:
        """Return the id that stands where there is no piece."""
        return self.pieces.index("[PAD]")

    def split(self, rows: Sequence[Sequence[str]], *, max_length: int) -> Pieces:
        """Split sentences, one or two a row, into pieces: [CLS] a [SEP] b [SEP].

        Letters become lower case and lose their accents, as uncased BERTs have it. Of
        a row that is longer than `max_length` the longer sentence loses its last piece
        until it is not.
        """
        tokenizer = _tokenizer(self.pieces, max_length)
        ids, lengths, seconds = [], [], []
        for start in range(0, len(rows), _CHUNK):
            some = [row[0] if len(row) == 1 else row for row in rows[start:][:_CHUNK]]
            for found in tokenizer.encode_batch(some):
                ids.append(np.array(found.ids, np.int32))
                lengths.append(len(found.ids))
                seconds.append(sum(found.type_ids))
        return Pieces(
            np.concatenate(ids) if ids else np.zeros(0, np.int32),
            np.cumsum(lengths, dtype=np.int64),
            np.array(seconds, np.int32),
        )


def read_vocabulary(path: str) -> Vocabulary:
    """Read a vocab.txt.

    Raises:
      FileNotFoundError: no path, or no such file.
      ValueError: no vocabulary of a BERT.
    """
    expected = (
        "expected the vocab.txt of the network, which its Hugging Face folder has"
    )
    if not path or not Path(path).is_file():
        raise FileNotFoundError(f"data.vocabulary {path!r}: {expected}, found no file")
    try:
        text = Path(path).read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"data.vocabulary {path}: {expected}, got no UTF-8 ({error.reason} at byte "
            f"{error.start})"
        ) from None
    pieces = tuple(line.strip() for line in text.rstrip("\n").split("\n"))
    missing = [name for name in _SPECIAL if name not in pieces]
    if missing:
        raise ValueError(
            f"data.vocabulary {path}: {expected}, got {len(pieces)} lines without "
            f"{', '.join(missing)}"
        )
    [(twice, times)] = Counter(pieces).most_common(1)
    if times > 1:
        raise ValueError(
            f"data.vocabulary {path}: {expected}, got the line {twice!r} {times} times"
        )
    return Vocabulary(Path(path), pieces)


def _tokenizer(pieces, max_length) -> Any:
    try:
        from tokenizers.implementations import BertWordPieceTokenizer
    except ImportError as error:
        raise ImportError(
            "sentences need tokenizers: pip install 'bitsnn-jax[text]'"
        ) from error
    ids = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = BertWordPieceTokenizer(ids, lowercase=True)
    tokenizer.enable_truncation(max_length, strategy="longest_first")
    return tokenizer
