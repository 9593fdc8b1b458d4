"""A comparison that is stopped anywhere goes on with the rows that it has."""

import pytest
from msgspec import structs
from samples import comparison as sample

from bitsnn_jax.jobs.compare_store import ComparisonStore
from bitsnn_jax.results.comparison import ComparisonResult, Failure
from bitsnn_jax.runtime.reading import read_typed, typed


@pytest.fixture
def whole():
    return typed(sample(), ComparisonResult)


def begun(whole, **changed):
    """As a call begins."""
    return structs.replace(whole, methods={}, rows=(), failed=(), **changed)


def read(folder):
    return read_typed(folder / "compare.json", ComparisonResult, advice="")


def test_after_each_row_the_file_is_whole_and_the_next_call_has_it(whole, tmp_path):
    for i, row in enumerate(whole.rows[:5]):
        store = ComparisonStore(tmp_path / "compare.json", begun(whole))
        assert [store.has(*r.key) for r in whole.rows[:5]] == [j < i for j in range(5)]
        store.add(row, whole.methods[row.method])
        assert read(tmp_path).rows == whole.rows[: i + 1]


def test_the_end_has_the_order_of_one_call_whatever_the_calls(whole, tmp_path):
    store = ComparisonStore(tmp_path / "compare.json", begun(whole))
    rows = [row for row in whole.rows if row.method in ("qcfs", "srp", "cos")]
    for row in reversed(rows):
        store.add(row, whole.methods[row.method])
    found = store.finish(("srp", "qcfs"))  # and one that is not known any more
    assert list(found.methods) == ["srp", "qcfs", "cos"]
    order = [list(found.methods).index(row.method) for row in found.rows]
    assert order == sorted(order)
    assert sorted(r.key for r in found.rows) == sorted(r.key for r in rows)
    assert read(tmp_path) == found


def test_failures_of_a_method_are_those_of_its_last_call(whole, tmp_path):
    file = tmp_path / "compare.json"
    store = ComparisonStore(file, begun(whole))
    one, other = (Failure(method=name, error="no") for name in ("qcfs", "snm"))
    for failure in (one, other, one):
        store.fail(failure)
    assert store.finish(()).failed == (one, other)
    again = ComparisonStore(file, begun(whole))
    missing = [Failure(method=name, error="missing") for name in ("qcfs", "snm")]
    again.begin("qcfs", missing)
    assert again.results.failed == (other, missing[0])


@pytest.mark.parametrize("field", ["examples", "batch", "neurons", "depth", "profile"])
def test_rows_of_something_else_are_not_taken_over(field, whole, tmp_path):
    file = tmp_path / "compare.json"
    ComparisonStore(file, begun(whole)).finish(())
    before = file.read_bytes()
    other = "other" if field == "profile" else 1
    with pytest.raises(ValueError, match="of other networks or images: remove it"):
        ComparisonStore(file, begun(whole, **{field: other}))
    assert file.read_bytes() == before
    changed = structs.replace(whole.run, command="another", version="2")
    ComparisonStore(file, begun(whole, run=changed))
