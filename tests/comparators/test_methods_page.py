"""docs/methods.md: its code runs, and does what the page says."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"


def test_the_method_of_the_page_runs_and_is_worse():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert len(blocks) == 2
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    errors = names["errors"]
    assert list(errors) == ["eager", "qcfs"]
    assert errors["eager"][1] > errors["qcfs"][1]
    assert errors["qcfs"][2] < errors["qcfs"][1] < errors["qcfs"][0]
