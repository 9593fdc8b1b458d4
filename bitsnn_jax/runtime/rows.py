"""Rows that are on disk as soon as they are there, so that a stopped sweep goes on."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from bitsnn_jax.runtime.files import make_folder, replace_json
from bitsnn_jax.runtime.reading import ReadingError, read_typed

_Row = TypeVar("_Row")
_ADVICE = "expected the rows of this experiment; remove it to begin anew"


class StoredRows(list[_Row]):
    """Store rows one by one, each at once.

    Args:
      rows: that are there already.
      key: what tells rows apart.
      store: writes all of them; called after each addition.
    """

    def __init__(
        self,
        rows: Iterable[_Row] = (),
        *,
        key: Callable[[_Row], Hashable],
        store: Callable[[Self], None],
    ):
        super().__init__(rows)
        self.key, self.store = key, store
        self.found = {key(row) for row in self}

    def add(self, row: _Row) -> None:
        """Append a row and write all."""
        self.append(row)
        self.found.add(self.key(row))
        self.store(self)

    def save(self) -> None:
        """Write all, as after a row was changed in place."""
        self.store(self)


class Rows(StoredRows[dict[str, Any]]):
    """Keep the rows of an experiment in a JSON file.

    Args:
      path: of the file, which may not be there yet.
      keys: the fields that tell rows apart.

    Raises:
      ReadingError: a file that holds something else.
    """

    def __init__(self, path: Path, keys: Sequence[str]):
        self.path, self.keys = path, tuple(keys)
        rows: list[dict[str, Any]] = []
        if path.exists():
            rows = read_typed(path, list[dict[str, Any]], advice=_ADVICE)
        missing = [(i, k) for i, row in enumerate(rows) for k in keys if k not in row]
        if missing:
            i, name = missing[0]
            raise ReadingError(
                f"{path} is not whole (row {i} has no `{name}`): {_ADVICE}"
            )
        try:
            super().__init__(rows, key=self._key, store=self._store)
        except TypeError as error:  # a key may be a list
            raise ReadingError(f"{path} is not whole ({error}): {_ADVICE}") from None

    def known(self, row: Mapping[str, Any]) -> bool:
        """Tell whether a row need not be computed again."""
        return self._key(row) in self.found

    def _key(self, row: Mapping[str, Any]) -> tuple:
        return tuple(row[k] for k in self.keys)

    def _store(self, rows: Sequence[dict[str, Any]]) -> None:
        make_folder(self.path.parent)
        replace_json(self.path, list(rows))
