"""Changed files: all different, and the same each time; a few of them are read."""

import gzip
import io
import json
import zipfile

import numpy as np
import pytest
from fuzz import formats
from fuzz.mutate import mutations
from fuzz.run import tried

ARCHIVE = io.BytesIO()
np.savez(ARCHIVE, a=np.ones(3), b=np.zeros((4, 5)))
ORIGINALS = {
    "json": json.dumps({"a": [1, 2, {"b": 3.5}], "c": "x", "d": None}).encode(),
    "zip": ARCHIVE.getvalue(),
    "gzip": gzip.compress(b"abc" * 100, mtime=0),
    "bytes": bytes(range(256)),
    "number": b"1",
    "nothing": b"",
}


@pytest.mark.parametrize("kind", ORIGINALS)
def test_copies_differ_from_the_file_and_are_the_same_for_a_seed(kind):
    data = ORIGINALS[kind]
    made = list(mutations(data, seed=1, count=200))
    assert len(made) == 200 and data not in made
    assert made == list(mutations(data, seed=1, count=200))
    assert made != list(mutations(data, seed=2, count=200))


def test_half_of_the_copies_are_still_of_their_format():
    made = list(mutations(ORIGINALS["json"], seed=0, count=200))[1::2]
    assert sum(_is_read(json.loads, copy) for copy in made) > 80
    made = list(mutations(ORIGINALS["zip"], seed=0, count=200))[1::2]
    archives = (zipfile.ZipFile(io.BytesIO(copy)) for copy in made)
    assert all(archive.testzip() is None for archive in archives)
    made = list(mutations(ORIGINALS["gzip"], seed=0, count=200))[1::2]
    assert len({gzip.decompress(copy) for copy in made}) > 50


def _is_read(read, data):
    try:
        read(data)
    except (ValueError, RecursionError):
        return False
    return True


# All of them, thousands of times: test_fuzz.py.
CHEAP = (".safetensors", "compare.json", "metrics.jsonl", "IDX", "pictures")


@pytest.mark.filterwarnings("ignore")  # Pillow's, of TIFF files
@pytest.mark.parametrize("name", CHEAP)
def test_a_few_changed_files_are_refused_or_the_same(name, tmp_path):
    found = tried(formats, name, tmp_path / "case", count=20)
    assert found["faults"] == [] and found["files"] == 20
