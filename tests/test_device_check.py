"""`benchmarks/device_check.py`: what fails or is late stops nothing, and is told."""

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def check(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("device_check")


def store(path, rows):
    path.write_text(json.dumps({"about": {}, "rows": rows}))


def rows(path):
    found = json.loads(path.read_text())["rows"]
    return {row.pop("part"): row for row in found}


def test_a_part_that_fails_is_stored_with_one_line_and_the_rest_goes_on(
    check, tmp_path
):
    def fails():
        raise RuntimeError("no kernel\nfor this")

    file, part = tmp_path / "a.json", check.Part
    todo = [part("bad", 1, fails), part("good", 1, lambda: {"codes": 3})]
    check.work(file, todo, until=time.time() + 60, store=store)
    found = rows(file)
    assert found["bad"]["error"] == "RuntimeError: no kernel"
    assert found["good"]["codes"] == 3 and found["good"]["seconds"] >= 0


def test_what_was_left_out_is_done_by_the_next_call_and_nothing_twice(check, tmp_path):
    file, done = tmp_path / "a.json", []

    def run(name):
        return lambda: done.append(name) or {"told": name}

    todo = [check.Part(n, s, run(n)) for n, s in (("a", 1), ("long", 900), ("b", 1))]
    check.work(file, todo, until=time.time() + 60, store=store)
    assert done == ["a", "b"]
    assert "takes about 900 s" in rows(file)["long"]["left_out"]
    check.forget(file)
    check.work(file, todo, until=time.time() + 1000, store=store)
    assert done == ["a", "b", "long"]
    assert {name: row["told"] for name, row in rows(file).items()} == {
        name: name for name in ("a", "b", "long")
    }


# Does a part a call, and does not survive the second.
DIES = """
import json, os, sys
path = sys.argv[1]
rows = json.load(open(path))["rows"]
rows.append({"part": str(len(rows))})
json.dump({"rows": rows}, open(path, "w"))
if len(rows) < 4:
    os.abort()
"""


def test_a_part_that_takes_its_process_with_it_does_not_stop_the_others(
    check, tmp_path
):
    file = tmp_path / "a.json"
    store(file, [])
    until = time.time() + 60
    check.supervise([sys.executable, "-c", DIES, file], file, until=until)
    check.fill_up(file, ["0", "late"])
    assert list(rows(file)) == ["0", "1", "2", "3", "late"]
    with pytest.raises(ValueError, match="no part could be begun: status 3"):
        dies = [sys.executable, "-c", "raise SystemExit(3)"]
        check.supervise(dies, file, until=until)


@pytest.mark.slow
def test_the_whole_check_runs_on_a_cpu(tmp_path):
    file = tmp_path / "a.json"
    command = [sys.executable, ROOT / "benchmarks" / "device_check.py", "--quick"]
    subprocess.run([*command, f"--out={file}", "--minutes=30"], check=True)
    found = rows(file)
    assert not [n for n, row in found.items() if {"error", "left_out"} & row.keys()]
    assert found["certificate, T = 2"]["differing"] == 0
    for name in (name for name in found if name.startswith("codes")):
        for row in found[name]["executions"]:
            assert row["differing"] == row["logits_differing"] == 0
