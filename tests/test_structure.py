"""The packages: what imports what, and that docs/design.md draws it as it is."""

import ast
import re
import statistics
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "bitsnn_jax"
DESIGN = (ROOT / "docs" / "design.md").read_text()


@cache
def modules():
    """The files of the package, by dotted name."""
    names = {}
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(ROOT).with_suffix("").parts
        names[".".join(part for part in parts if part != "__init__")] = file
    return names


@cache
def imports():
    """For each module the modules of ours that it imports, anywhere in its file."""
    found = {}
    for name, file in modules().items():
        targets = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                targets |= {n if n in modules() else node.module for n in inner}
            elif isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names}
        found[name] = {n for n in targets if n in modules()} - {name}
    return found


def room(module):
    """The package, or file, directly in `bitsnn_jax` that a module is in."""
    return module.split(".")[1] if "." in module else module


@cache
def arrows():
    """For each room the rooms that it imports."""
    found = {room(name): set() for name in modules()}
    for name, targets in imports().items():
        found[room(name)] |= {room(target) for target in targets} - {room(name)}
    return found


def below(name):
    return set().union(*({n} | below(n) for n in arrows()[name]))


def test_no_module_imports_itself_through_others():
    assert len(list(TopologicalSorter(imports()).static_order())) == len(modules())


def test_no_package_imports_itself_through_others():
    assert len(list(TopologicalSorter(arrows()).static_order())) == len(arrows())


def test_the_picture_of_the_packages_is_that_of_the_imports():
    """An arrow that follows from two others is left out, as drawn."""
    [picture] = re.findall(r"^```mermaid\n(.*?)^```", DESIGN, re.S | re.M)
    drawn = re.findall(r"^ *(\w+) --> (\w+)$", picture, re.M)
    needed = {
        (name, target)
        for name, targets in arrows().items()
        for target in targets
        if not any(target in below(other) for other in targets)
    }
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == needed


def test_the_table_of_the_files_has_every_file_under_its_package():
    [table] = re.findall(r"^## Files\n(.*?)^## ", DESIGN, re.S | re.M)
    listed, package = [], None
    for line in table.splitlines():
        if heading := re.match(r"### `(\w+)/`", line):
            package = heading[1]
        elif line.startswith("| `"):
            cell = line.split("|")[1]
            prefix = f"bitsnn_jax.{package}." if package else "bitsnn_jax."
            listed += [
                (prefix + n).replace("/", ".")
                for n in re.findall(r"`([\w/]+)\.py`", cell)
            ]
    # One line for all methods, all networks, and all scripts.
    several = ("binary", "comparators", "direct", "models", "scripts")
    files = {
        name
        for name, file in modules().items()
        if file.name not in ("__init__.py", "__main__.py") and room(name) not in several
    }
    assert sorted(listed) == sorted(files)


def test_few_files_lie_directly_in_the_package_and_files_are_short():
    assert len(list(PACKAGE.glob("*.py"))) <= 12
    lines = [len(file.read_text().splitlines()) for file in modules().values()]
    assert statistics.median(lines) < 200


def test_the_folders_of_the_tests_are_those_of_the_package():
    folders = {file.parent.name for file in (ROOT / "tests").glob("*/test_*.py")}
    packages = {file.parent.name for file in PACKAGE.glob("*/__init__.py")}
    assert folders - {"fuzz", "kill"} <= packages


def test_the_referee_imports_nothing_of_the_package():
    assert not imports()["bitsnn_jax.referee"]
