"""What the experiments share: rows kept as JSON."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bitsnn_jax.runtime.files import make_folder, replace_json
from bitsnn_jax.runtime.reading import read_json
from bitsnn_jax.runtime.shapes import complete

_ADVICE = "expected the rows of this experiment; remove it to begin anew"


class Rows(list[dict[str, Any]]):
    """Rows of a file, to which they are added one by one.

    Each is on disk as soon as it is there, so that a sweep that was stopped goes on
    where it was; `known` says which rows need not be computed again.

    Args:
      path: of the JSON file, which may not be there yet.
      keys: the fields that tell rows apart.

    Raises:
      ValueError: a file that holds something else.
    """

    def __init__(self, path: Path, keys: Sequence[str]):
        self.path, self.keys = path, tuple(keys)
        rows = read_json(path, kind=list, advice=_ADVICE) if path.exists() else []
        try:
            super().__init__(complete(rows, [dict.fromkeys(self.keys)], "it"))
            self.found = {self.key(row) for row in self}
        except (ValueError, TypeError) as error:  # a key may be a list
            raise ValueError(f"{path} is not whole ({error}): {_ADVICE}") from error

    def key(self, row: Mapping[str, Any]) -> tuple:
        return tuple(row[k] for k in self.keys)

    def known(self, row: Mapping[str, Any]) -> bool:
        return self.key(row) in self.found

    def add(self, row: dict[str, Any]) -> None:
        self.append(row)
        self.found.add(self.key(row))
        self.save()

    def save(self) -> None:
        make_folder(self.path.parent)
        replace_json(self.path, list(self))
