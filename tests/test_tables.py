"""Tables of the documents: each is what a stored file says, which says whence."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from bitsnn_jax.runs import pretrained, provenance

ROOT = Path(__file__).parents[1]
ABOUT = {
    **{"command": "python a.py", "config": "small", "seed": 0, "commit": "0" * 40},
    **{"machine": "2 cores", "jax": "0.10.2", "time": "2026-01-01T00:00:00"},
}
PAGE = "# A\n\n<!-- table: cells -->\n<!-- end -->\n"


@pytest.fixture
def tool(monkeypatch):
    """The modules of docs/tables, all tables entered."""
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "tables"))
    pages, stored = map(importlib.import_module, ("pages", "stored"))
    pages.enter_all()
    return pages, stored


@pytest.fixture
def small(tool, tmp_path, monkeypatch):
    """A repository of one page, with one table of one file."""
    pages, _ = tool
    (tmp_path / "docs" / "results").mkdir(parents=True)
    (tmp_path / "docs" / "page.md").write_text(PAGE)
    rows = {"about": ABOUT, "rows": [1.5, 2.5]}
    (tmp_path / "docs" / "results" / "cells.json").write_text(json.dumps(rows))

    def cells(stored):
        yield "name", "cell"
        yield from (("a", f"{row:.1f}") for row in stored["rows"])

    monkeypatch.setattr(
        pages, "TABLES", {"cells": pages.Table(("cells.json",), cells, {})}
    )
    for page, text in pages.rewritten(tmp_path):
        page.write_text(text)
    return tmp_path


def test_every_table_is_that_of_its_file(tool):
    pages, _ = tool
    differing = [str(page.relative_to(ROOT)) for page, _ in pages.rewritten(ROOT)]
    assert not differing, "run `python docs/tables`"
    assert list(pages.problems(ROOT)) == []


def test_every_stored_number_says_where_it_comes_from(tool):
    _, stored = tool
    assert list(stored.faults(ROOT)) == []


def test_no_page_has_measured_numbers_without_a_source(tool):
    pages, _ = tool
    assert list(pages.unmarked(ROOT)) == []
    heads = {
        (page.relative_to(ROOT).as_posix(), line)
        for page in pages.pages(ROOT)
        for line in page.read_text().splitlines()
    }
    for place, start in pages.EXCEPTIONS:
        assert any(p == place and line.startswith(start) for p, line in heads), start


def test_what_a_script_stores_says_where_it_comes_from(tool, tmp_path, monkeypatch):
    _, stored = tool
    script = str(ROOT / "experiments" / "bits.py")
    monkeypatch.setattr(sys, "argv", [script, "--out", "x.json", "--bits", "4"])
    monkeypatch.setattr(provenance, "commit", lambda: "0" * 40)
    file = tmp_path / "docs" / "results" / "x.json"
    provenance.store_numbers(file, [1], config="small", seed=0, rounds=3)
    assert list(stored.faults(tmp_path)) == []
    found = json.loads(file.read_text())
    assert found["rows"] == [1] and found["about"]["rounds"] == 3
    assert found["about"]["command"] == "python experiments/bits.py --bits 4"


def test_a_table_that_was_changed_by_hand_is_found(tool, small):
    pages, _ = tool
    page = small / "docs" / "page.md"
    assert "| a | 1.5 |" in page.read_text()
    assert list(pages.rewritten(small)) == []
    page.write_text(page.read_text().replace("1.5", "1.6"))
    [(found, text)] = pages.rewritten(small)
    assert found == page and "1.5" in text and "1.6" not in text


def test_a_file_that_was_changed_is_found(tool, small):
    pages, _ = tool
    file = small / "docs" / "results" / "cells.json"
    file.write_text(file.read_text().replace("2.5", "2.6"))
    assert len(list(pages.rewritten(small))) == 1


@pytest.mark.parametrize("field", ABOUT)
def test_a_file_that_leaves_out_a_field_is_found(tool, small, field):
    _, stored = tool
    assert list(stored.faults(small)) == []
    about = {k: v for k, v in ABOUT.items() if k != field}
    file = small / "docs" / "results" / "cells.json"
    file.write_text(json.dumps([{"about": about}]))
    assert any(field in fault for fault in stored.faults(small))


@pytest.mark.parametrize("commit", ["0" * 40 + "-dirty", "abc", None])
def test_a_file_of_no_clean_commit_is_found(tool, small, commit):
    _, stored = tool
    file = small / "docs" / "results" / "cells.json"
    file.write_text(json.dumps({"about": ABOUT | {"commit": commit}}))
    assert len(list(stored.faults(small))) == 1


def test_rows_as_text_need_a_file_beside_them(tool, small):
    _, stored = tool
    results = small / "docs" / "results"
    (results / "rows.csv").write_text("a\n1\n")
    assert len(list(stored.faults(small))) == 1
    (results / "rows.about.json").write_text(json.dumps({"about": ABOUT}))
    assert list(stored.faults(small)) == []


@pytest.mark.parametrize(
    "cell, measured", [("93.5 %", True), ("12 ms", True), ("T = 4", False)]
)
def test_measured_numbers_outside_of_comments_are_found(tool, small, cell, measured):
    pages, _ = tool
    page = small / "docs" / "page.md"
    page.write_text(f"{page.read_text()}\n| a | b |\n|---|---|\n| c | {cell} |\n")
    assert len(list(pages.unmarked(small))) == measured


def test_comments_and_functions_belong_together(tool, small):
    pages, _ = tool
    page = small / "docs" / "page.md"
    page.write_text(page.read_text().replace("table: cells", "table: other"))
    assert len(list(pages.problems(small))) == 2


def test_a_card_of_no_clean_commit_says_so_in_words():
    for name in pretrained.names():
        card = json.loads((pretrained.FOLDER / name / "card.json").read_text())
        dirty = card["metadata"]["commit"].endswith("-dirty")
        assert dirty == ("origin" in card), name
        measured = card.get("measured", {"commit": ""})["commit"]
        assert not measured.endswith("-dirty"), name
