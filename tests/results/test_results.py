"""What is written down is read back as the same, and says where it comes from."""

import json

import pytest
from samples import comparison, conversion

from bitsnn_jax.results.comparison import ComparisonResult
from bitsnn_jax.results.conversion import ConversionResult
from bitsnn_jax.runtime.files import replace_json
from bitsnn_jax.runtime.reading import ReadingError, read_typed, typed

KINDS = [(conversion, ConversionResult), (comparison, ComparisonResult)]


@pytest.mark.parametrize("sample, kind", KINDS)
def test_what_is_written_is_read_back_as_the_same(sample, kind, tmp_path):
    value = typed(sample(), kind)
    replace_json(tmp_path / "a.json", value)
    assert read_typed(tmp_path / "a.json", kind, advice="") == value
    assert "\n  " in (tmp_path / "a.json").read_text()  # for people too


@pytest.mark.parametrize("sample, kind", KINDS)
def test_fields_of_a_later_version_are_passed_over(sample, kind):
    later = sample() | {"later": 1}
    later["run"]["later"] = {"a": [1]}
    assert typed(later, kind) == typed(sample(), kind)


def test_what_is_no_number_is_kept(tmp_path):
    plain = conversion()
    certificate = plain["steps"][0]["certificate"]["float64"]
    certificate["largest_output_difference"] = float("inf")
    replace_json(tmp_path / "a.json", typed(plain, ConversionResult))
    read = read_typed(tmp_path / "a.json", ConversionResult, advice="")
    assert read.steps[0].certificate is not None
    found = read.steps[0].certificate["float64"].largest_output_difference
    assert found == float("inf")


def test_a_mode_that_was_not_run_is_not_written(tmp_path):
    plain = conversion()
    del plain["steps"][0]["stepped"]
    replace_json(tmp_path / "a.json", typed(plain, ConversionResult))
    written = json.loads((tmp_path / "a.json").read_text())
    assert "stepped" not in written["steps"][0] and "stepped" in written["steps"][1]


def test_a_file_with_a_wrong_field_is_one_line_with_its_name(tmp_path):
    path = tmp_path / "a.json"
    plain = conversion()
    plain["steps"][1]["levels"] = "3"
    path.write_text(json.dumps(plain))
    with pytest.raises(ReadingError) as error:
        read_typed(path, ConversionResult, advice="run convert.py again")
    assert str(error.value) == (
        f"{path} is not whole (Expected `int`, got `str` - at `$.steps[1].levels`): "
        "run convert.py again"
    )
