"""Thousands of changed files: each is refused in one line, or it is the same.

`make fuzz` runs this and prints a row for each format. What may change without notice:
bytes of a container that hold no value (paddings and notes of HDF5, Orbax's notes of
its own), and formats that have no checksum.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

# Each in a process of its own: what JAX takes for one is not counted for the next.
PROCESSES = (
    ("export", "export by the referee"),
    ("export, resealed", "export, resealed, by the referee"),
    ("export of rows, resealed", "export of rows, resealed, by the referee"),
    ("NIR", "NIR, resealed", "StableHLO"),
    (".safetensors", ".pth", "IDX", "pictures"),
    ("network of the package", "network of the package, resealed"),
    ("run", "variables", "variables, descriptions"),
    ("result.json and conversion.json", "compare.json", "metrics.jsonl"),
)


def changed(folder, names, count=0):
    """A row for each format; the files that ended the process are in `folder`."""
    run = Path(__file__).with_name("run.py")
    done = subprocess.run(
        [sys.executable, str(run), str(folder), str(count), *names],
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, f"{names}, {folder}: {done.stderr[-3000:]}"
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_no_changed_file_is_read_as_another_or_stops_the_reader(tmp_path):
    rows = []
    for names in PROCESSES:
        for row in changed(tmp_path, names):
            rows.append(row)
            print(
                f"\n{row['format']:34} {row['files']:5} files: "
                f"{row.get('refused', 0):4} refused, {row.get('same', 0):4} the same, "
                f"{row.get('other', 0):4} another value; {row['seconds']:6.1f} s, "
                f"longest {row['longest']:5.2f} s, {row['megabytes']} MB",
                end="",
                flush=True,
            )
    assert [fault for row in rows for fault in row["faults"]] == []
    assert sum(row["files"] for row in rows) >= 3000
