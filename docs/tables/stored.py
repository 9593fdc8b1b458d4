"""The files of docs/results: what they hold, and where that comes from."""

import csv
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

CARDS = "bitsnn_jax/runs/pretrained"
TARGETS = "bitsnn_jax/integers/targets.json"  # published, each with its source
FIELDS = ("command", "config", "seed", "commit", "machine", "jax", "time")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def read(root: Path, name: str, where: Mapping[str, str] = MappingProxyType({})) -> Any:
    """A file of docs/results; "cards" are the cards of the trained networks.

    "targets" are the limits of chips.

    Args:
      root: of the repository.
      name: of the file; a CSV is a list of rows as text.
      where: which rows of a list.
    """
    if name == "cards":
        files = sorted((root / CARDS).glob("*/card.json"))
        return {file.parent.name: _json(file) for file in files}
    if name == "targets":
        return _json(root / TARGETS)
    file = root / "docs" / "results" / name
    if file.suffix == ".csv":
        with file.open(encoding="utf-8", newline="") as lines:
            return list(csv.DictReader(lines))
    content = _json(file)
    if isinstance(content, list):
        return [row for row in content if all(row[k] == v for k, v in where.items())]
    return content


def abouts(
    root: Path, name: str, where: Mapping[str, str] = MappingProxyType({})
) -> list[dict[str, Any]]:
    """Where the numbers of a file come from: once, or for each row."""
    if name in ("cards", "targets"):
        return []
    if name.endswith(".csv"):
        name = name.removesuffix(".csv") + ".about.json"
    content = read(root, name, where)
    if isinstance(content, dict) and "about" in content:
        return [content["about"]]
    entries = content.values() if isinstance(content, dict) else content
    return [entry.get("about", {}) for entry in entries]


def faults(root: Path) -> Iterator[str]:
    """What the files do not say about their numbers, a line for each."""
    for file in sorted((root / "docs" / "results").iterdir()):
        place = file.relative_to(root)
        try:
            found = abouts(root, file.name)
        except FileNotFoundError as error:
            yield f"{place}: {Path(error.filename).name} should say where it is from"
            continue
        for about in {json.dumps(a, sort_keys=True): a for a in found}.values():
            yield from (f"{place}: {fault}" for fault in _wrong(about))


def _wrong(about: dict[str, Any]) -> Iterator[str]:
    for field in FIELDS:
        if field not in about:
            yield f"about has no {field}"
    commit = about.get("commit") or ""
    if not _COMMIT.fullmatch(commit):
        yield f"commit must be 40 hexadecimal digits, got {commit!r}"


def source(
    root: Path, names: tuple[str, ...], page: Path, where: Mapping[str, str]
) -> str:
    """A line that names the files of a table, their commits and machines."""
    parts = []
    for name in dict.fromkeys(names):
        if name.endswith(".about.json"):
            continue
        if name == "cards":
            parts.append("the cards of the networks")
            continue
        if name == "targets":
            parts.append(f"`{TARGETS}` has the source of each")
            continue
        target = root / "docs" / "results" / name
        link = Path(os.path.relpath(target, page.parent)).as_posix()
        found = abouts(root, name, where)
        if not found:
            parts.append(f"[{name}]({link}) has none yet")
            continue
        commits = {a["commit"][:7]: None for a in found}
        machines = {f"{a['machine']}, JAX {a['jax']}": None for a in found}
        word = "commit" if len(commits) == 1 else "commits"
        parts.append(
            f"[{name}]({link}), {word} {', '.join(commits)}, {'; '.join(machines)}"
        )
    return f"Numbers: {'. '.join(parts)}."


def _json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))
