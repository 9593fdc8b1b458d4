"""The pages: tables between comments, and those that should be."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from stored import read, source

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", "docs/*.md")
# Tables with numbers that nobody measured here: (page, how the first line begins).
EXCEPTIONS: dict[tuple[str, str], str] = {
    ("docs/commands.md", "| extra | adds |"): "the size of a package",
    ("docs/data.md", "| field of `data` |"): "what a field does",
    ("docs/design.md", "| where | the paper |"): "the paper's own numbers",
    ("docs/design.md", "| where | what it says |"): "the paper's own numbers",
    ("CONTRIBUTING.md", "| target | what it does |"): "about how long a target takes",
}

Row = Sequence[str]
_BLOCK = re.compile(r"<!-- table: (\S+) -->\n(.*?)<!-- end -->", re.S)
_TABLE = re.compile(r"^\|.*\n\|[-:| ]+\|\n(?:\|.*\n)*", re.M)
_CODE = re.compile(r"`[^`]*`|\]\([^)]*\)")
# 12.3, 12,345, 12 %, 12x, 12 ms: a number that somebody has measured.
_MEASURED = re.compile(r"\d[.,]\d|\d ?%|\d ?(?:x|s|ms|MB|GB)\b")
_NUMBER = re.compile(r"\**[\d–-][\d.,]*(?: ?[%x±(].*)?\**|–|")


class Table(NamedTuple):
    """Files of docs/results, and a function of their contents that yields rows.

    The first row is the head. Of files that are lists of rows, the function is given
    those that have the values of `where`.
    """

    files: tuple[str, ...]
    rows: Callable[..., Iterable[Row]]
    where: dict[str, str]


TABLES: dict[str, Table] = {}


def enter_all() -> None:
    """Import every file beside this one, which enters its tables."""
    for file in sorted(Path(__file__).parent.glob("[!_]*.py")):
        import_module(file.stem)


def table(name: str, *files: str, **where: str) -> Callable:
    """Enter a function as the table of that name."""

    def enter(rows: Callable[..., Iterable[Row]]) -> Callable[..., Iterable[Row]]:
        TABLES[name] = Table(files, rows, where)
        return rows

    return enter


def markdown(rows: Iterable[Row]) -> str:
    """A table as Markdown; columns of numbers stand to the right.

    >>> print(markdown([("name", "T"), ("a", "4")]), end="")
    | name | T |
    |---|---:|
    | a | 4 |
    """
    head, *body = rows
    columns = list(zip(*body, strict=True))
    right = [all(_NUMBER.fullmatch(cell) for cell in column) for column in columns]
    rule = "|".join("---:" if r else "---" for r in right)
    lines = [f"| {' | '.join(head)} |", f"|{rule}|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in body)]) + "\n"


def pages(root: Path) -> Iterator[Path]:
    for pattern in PAGES:
        yield from sorted(root.glob(pattern))


def rewritten(root: Path) -> Iterator[tuple[Path, str]]:
    """(page, text) of those whose tables differ from the files."""
    for page in pages(root):
        text = page.read_text(encoding="utf-8")

        def made(block: re.Match, page: Path = page) -> str:
            if block[1] not in TABLES:
                return block[0]
            files, rows, where = TABLES[block[1]]
            lines = markdown(rows(*(read(root, file, where) for file in files)))
            below = source(root, files, page, where)
            return f"<!-- table: {block[1]} -->\n{lines}\n{below}\n<!-- end -->"

        new = _BLOCK.sub(made, text)
        if new != text:
            yield page, new


def problems(root: Path) -> Iterator[str]:
    """Comments that name no table, and tables that no page shows."""
    shown = set()
    for page in pages(root):
        for name, _ in _BLOCK.findall(page.read_text(encoding="utf-8")):
            shown.add(name)
            if name not in TABLES:
                yield f"{page.relative_to(root)}: no function makes table {name}"
    yield from (f"no page shows table {name}" for name in sorted(set(TABLES) - shown))


def unmarked(root: Path) -> Iterator[str]:
    """Tables with measured numbers that no function makes."""
    for page in pages(root):
        place = page.relative_to(root).as_posix()
        text = _BLOCK.sub("", page.read_text(encoding="utf-8"))
        for found in _TABLE.findall(text):
            head, _, *body = found.splitlines()
            expected = any(
                p == place and head.startswith(start) for p, start in EXCEPTIONS
            )
            if _MEASURED.search(_CODE.sub("", "\n".join(body))) and not expected:
                yield f"{place}: measured numbers without a source in {head!r}"
