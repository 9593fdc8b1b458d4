"""docs/: the Python of its pages runs, and the reference leaves nothing out."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
# README.md and methods.md have tests of their own, of what their code finds.
PAGES = {
    page.relative_to(DOCS).as_posix(): blocks
    for page in sorted(DOCS.rglob("*.md"))
    if page.name != "methods.md"
    if (blocks := re.findall(r"^```python\n(.*?)^```", page.read_text(), re.S | re.M))
}
# What the commands are made of, and how they print.
INTERNAL = {
    "numerics.stored",
    "reports.comparison_plots",
    "reports.plots",
    "runs.pretrained.__main__",
    "runtime.cli",
    "runtime.columns",
    "runtime.files",
    "runtime.shapes",
    "version",
}


def public_modules():
    package = ROOT / "bitsnn_jax"
    for file in package.rglob("*.py"):
        parts = file.relative_to(package).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        if name and name not in INTERNAL:
            yield name


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for block in PAGES[page]:
        exec(compile(block, page, "exec"), names)


def test_home_has_the_network_of_twenty_lines():
    [block] = PAGES["index.md"]
    assert len(list(filter(str.strip, block.splitlines()))) <= 20


def test_every_module_is_on_one_page_of_the_reference():
    pages = (DOCS / "reference").glob("*.md")
    listed = [
        name
        for page in pages
        for name in re.findall(r"^::: bitsnn_jax\.(\S+)$", page.read_text(), re.M)
    ]
    # Packages whose own file says nothing but what is in them.
    empty = {file.parent.name for file in (ROOT / "bitsnn_jax").glob("*/__init__.py")}
    empty -= {"data", "models", "training"}
    assert sorted([*listed, *empty]) == sorted(public_modules())


def test_every_page_is_in_the_navigation():
    listed = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
    of_the_root = {"guide.md", "contributing.md", "changelog.md"}
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert len(listed) == len(set(listed))
    assert set(listed) == pages | of_the_root
