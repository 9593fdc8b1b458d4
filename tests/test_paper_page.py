"""The page that goes through the paper: nothing is left out, verdicts are derived."""

import copy
import importlib.util
import json
import re
from pathlib import Path

import pytest
import samples

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")


@pytest.fixture
def claims(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "tables"))
    importlib.import_module("paper")
    return importlib.import_module("claims")


@pytest.fixture
def read(claims):
    stored = importlib.import_module("stored")
    return lambda claim: [stored.read(ROOT, file) for file in claim.files]


def numbers(kind: str, text: str) -> set[int]:
    """Those of "Tables 1, 9", "Figure 2(a)", "Eq. (4), (5)"."""
    found = set()
    for words in re.findall(
        rf"{kind}s? ((?:\(?\d+\)?(?:\([a-z, ]+\))?(?:, )?)+)", text
    ):
        found |= {int(n) for n in re.findall(r"\d+", words)}
    return found


def test_every_numbered_item_of_the_paper_is_on_the_page():
    assert numbers("Table", PAGE) >= set(range(1, 17))
    assert numbers("Figure", PAGE) >= set(range(1, 8))
    assert numbers("Eq.", PAGE) >= set(range(1, 13))
    assert {"Proposition I ", "Proposition II ", "Algorithm 1 "} <= {
        f"{words} " for words in re.findall(r"Proposition I+|Algorithm 1", PAGE)
    }


def test_tests_that_decide_are_there():
    named = re.findall(r"`(tests/[^`]*\.py)`", PAGE)
    assert len(named) > 5
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_each_verdict_is_one_of_four_and_undecided_without_numbers(claims, read):
    for claim in claims.CLAIMS:
        here, verdict = claim.judge(*read(claim))
        assert verdict in claims.VERDICTS and here, claim.item
        if not claim.files:
            assert verdict == "undecided", claim.item


def test_a_verdict_follows_its_numbers(claims, read):
    [exact] = (c for c in claims.CLAIMS if c.item == "Figure 4, Proposition II")
    [rows] = read(exact)
    assert exact.judge(rows)[1] == "confirmed"
    changed = copy.deepcopy(rows)
    [row, *_] = (row for row in changed if row["part"] == "certificates")
    row["steps"][0]["certificate"]["float64"]["differing"] = 1
    here, verdict = exact.judge(changed)
    assert verdict == "refuted" and here.startswith("1 of ")


def test_every_file_is_that_of_an_experiment(claims, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    # By its file: a module of docs/tables has the same name.
    spec = importlib.util.spec_from_file_location(
        "experiments_of_the_paper", ROOT / "experiments" / "paper.py"
    )
    experiments = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(experiments)
    monkeypatch.chdir(ROOT)
    known = {each.file: each for each in experiments.EXPERIMENTS.values()}
    copied = {"cards", "compare.csv", "compare_vgg.csv"}
    used = {file for claim in claims.CLAIMS for file in claim.files} - copied
    assert used == known.keys()
    for file, each in known.items():
        assert 0 < each.found <= each.rows, file
        assert (ROOT / each.words.split()[0]).is_file(), file


def test_a_run_of_another_network_has_no_row(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    rows = importlib.import_module("paper_rows")
    names = [each["config"] for each in json.loads(rows.PAPER.read_text())]
    assert [n for n in names if not (ROOT / "configs" / f"{n}.py").is_file()] == []
    for name in (names[0], "small"):
        found = samples.conversion()
        found["run"]["name"] = name
        (tmp_path / name / "snn").mkdir(parents=True)
        (tmp_path / name / "snn" / "conversion.json").write_text(json.dumps(found))
    made = rows.row(tmp_path / names[0])
    assert made["config"] == names[0] and made["ann"] == found["ann"]["accuracy"]
    with pytest.raises(ValueError, match="one of the paper's configs, vgg16_cifar10, "):
        rows.row(tmp_path / "small")


def test_one_row_is_meant(claims):
    assert claims.at([{"a": 1}, {"a": 2}], a=2) == {"a": 2}
    for rows in ([], [{"a": 1}, {"a": 1}]):
        with pytest.raises(ValueError, match="expected one row"):
            claims.at(rows, a=1)
