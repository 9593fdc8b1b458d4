"""docs/: the code of its pages runs, links resolve, the reference is complete."""

import ast
import pkgutil
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
# Tests of their own have README.md and these.
OWN_TESTS = {"commands.md", "methods.md", "direct_methods.md"}
PAGES = {
    page.relative_to(DOCS).as_posix(): blocks
    for page in sorted(DOCS.rglob("*.md"))
    if page.name not in OWN_TESTS
    if (blocks := re.findall(r"^```python\n(.*?)^```", page.read_text(), re.S | re.M))
}
# What the commands are made of, and how they print.
INTERNAL = {
    "numerics.stored",
    "reports.box_plots",
    "reports.comparison_axes",
    "reports.comparison_plots",
    "reports.overview",
    "reports.place_plots",
    "reports.plots",
    "runs.pretrained.__main__",
    "runtime.cli",
    "runtime.columns",
    "runtime.files",
    "runtime.rows",
    "version",
}

# By the readers of methods.md and direct_methods.md.
TO_BE_MADE = {"bitsnn_jax/comparators/eager.py", "bitsnn_jax/direct/quiet.py"}


def public_modules():
    package = ROOT / "bitsnn_jax"
    for file in package.rglob("*.py"):
        parts = file.relative_to(package).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        if name and name not in INTERNAL:
            yield name


SLOW = {"your_network.md"}  # a dozen networks, traced and compared


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] if page in SLOW else [])
        for page in PAGES
    ],
)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if any("import torch\n" in block for block in PAGES[page]):
        pytest.importorskip("torch")
    names = {"__name__": "page"}
    for block in PAGES[page]:
        exec(compile(block, page, "exec"), names)
    if page == "your_network.md":
        # "All biases that are fed by spikes."
        changed = [shift.path for shift in names["report"].changed]
        fed = ("BatchNorm_0", "Conv_1", "Dense_0")
        assert changed == [f"params/{module}/bias" for module in fed]


def pages():
    """Every page for people, by its path in the repository."""
    files = {*ROOT.glob("*.md"), *DOCS.rglob("*.md")}
    return {file.relative_to(ROOT).as_posix(): file for file in sorted(files)}


@cache
def headings(file):
    """The anchors of a page: lower case, no punctuation, hyphens for spaces."""
    text = re.sub(r"^```.*?^```", "", file.read_text(), flags=re.S | re.M)
    found = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in found}


@pytest.mark.parametrize("page", pages())
def test_links_lead_to_files_and_headings(page):
    file = pages()[page]
    for target in re.findall(r"\]\(([^)\s]+)\)", file.read_text()):
        if target.startswith("https://"):
            continue
        name, _, heading = target.partition("#")
        linked = (file.parent / name).resolve() if name else file
        assert linked.exists(), target
        if heading:
            assert heading in headings(linked), target


@pytest.mark.parametrize("page", sorted({*pages()} - {"CHANGELOG.md"}))
def test_files_and_names_in_the_text_exist(page):
    text = pages()[page].read_text()
    folders = "bitsnn_jax|tests|docs|configs|benchmarks|examples|experiments"
    for file in re.findall(rf"(?<![\w/])(?:{folders})/[\w./-]*\.\w+", text):
        assert (ROOT / file).exists() or file in TO_BE_MADE, file
    modules = {f"bitsnn_jax.{name}" for name in public_modules()}
    for name in re.findall(r"(?<![\w.])bitsnn_jax(?:\.\w+)+", text):
        if name not in modules:  # some cannot be imported without an extra
            pkgutil.resolve_name(name)


def test_every_module_is_on_one_page_of_the_reference():
    pages = (DOCS / "reference").glob("*.md")
    listed = [
        name
        for page in pages
        for name in re.findall(r"^::: bitsnn_jax\.(\S+)$", page.read_text(), re.M)
    ]
    # Packages whose own file says nothing but what is in them.
    empty = {file.parent.name for file in (ROOT / "bitsnn_jax").glob("*/__init__.py")}
    empty -= {"data", "models", "tasks", "training"}
    assert sorted([*listed, *empty]) == sorted(public_modules())


def test_every_page_is_in_the_navigation():
    listed = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
    of_the_root = {"index.md", "contributing.md", "changelog.md"}
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert len(listed) == len(set(listed))
    assert set(listed) == pages | of_the_root


# First words that are no verbs, beside those that ruff's D401 knows.
NO_VERBS = set(
    "A An The What Whether Which Where When How Why If In Inside On Of For From By "
    "With As At To Only Not No None All Each Every One True False Same Twice".split()
)


def public_functions():
    """The place and the docstring of each function that a user may call."""
    for file in sorted((ROOT / "bitsnn_jax").rglob("*.py")):
        where = file.relative_to(ROOT).as_posix()
        scopes = [(where, ast.parse(file.read_text()))]
        while scopes:
            where, scope = scopes.pop()
            for node in scope.body:
                if not isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                    continue
                if node.name.startswith("_"):
                    continue
                name = f"{where}: {node.name}"
                if isinstance(node, ast.ClassDef):
                    scopes.append((name, node))
                elif not any("property" in ast.dump(d) for d in node.decorator_list):
                    yield name, ast.get_docstring(node)


def begins_with_a_verb(docstring):
    found = re.match("([A-Z][a-z]+)(-[a-z]+)?(,? |[.]$)", docstring.split("\n")[0])
    word = found[1] if found else ""
    return found and word not in NO_VERBS and not re.search("[^s]s$|ing$|ed$", word)


def test_public_functions_are_described_by_an_imperative_sentence():
    """Properties and classes are things; of an override its base class speaks."""
    found = list(public_functions())
    assert len(found) > 300
    stilted = {
        name: text for name, text in found if text and not begins_with_a_verb(text)
    }
    assert not stilted
