"""README.md: short, its code runs, and its links lead somewhere."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def blocks():
    return re.findall(r"^```python\n(.*?)^```", README.read_text(), re.S | re.M)


def test_it_is_a_page_and_no_manual():
    assert 6_000 <= len(README.read_bytes()) <= 8_000


def test_its_network_has_twenty_lines_and_converts_exactly(capsys):
    [block] = blocks()
    assert len(list(filter(str.strip, block.splitlines()))) <= 20
    names = {"__name__": "readme"}
    exec(compile(block, README.name, "exec"), names)
    changed = [shift.path for shift in names["report"].changed]
    assert changed == ["params/Conv_1/bias", "params/Dense_0/bias"]
    # 8 images, with 8x8x8 and 4x4x16 neurons.
    assert (
        f"0 of {8 * (8 * 8 * 8 + 4 * 4 * 16)} codes differ" in capsys.readouterr().out
    )
