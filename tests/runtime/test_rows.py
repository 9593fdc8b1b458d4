"""Rows are on disk as soon as they are there, and are told apart by their keys."""

import json

import pytest

from bitsnn_jax.runtime.reading import ReadingError
from bitsnn_jax.runtime.rows import Rows


def test_each_row_is_on_disk_at_once_and_known_to_the_next(tmp_path):
    path = tmp_path / "new" / "rows.json"
    rows = Rows(path, ("name", "seed"))
    for seed in range(3):
        rows.add({"name": "a", "seed": seed, "accuracy": seed / 4})
        assert json.loads(path.read_text()) == list(rows)
    again = Rows(path, ("name", "seed"))
    assert again == rows
    assert again.known({"name": "a", "seed": 2, "accuracy": None})
    assert not again.known({"name": "b", "seed": 2})


@pytest.mark.parametrize(
    "text, words",
    [
        ("{}", "Expected `array`, got `object`"),
        ('[{"name": "a"}, {"nam": "a"}]', "row 1 has no `name`"),
        ('[{"name": []}]', "unhashable"),
        ('[{"name"', "no JSON"),
    ],
)
def test_a_file_that_holds_something_else_is_one_line(tmp_path, text, words):
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(ReadingError, match="remove it to begin anew") as error:
        Rows(path, ("name",))
    assert words in str(error.value) and str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)
