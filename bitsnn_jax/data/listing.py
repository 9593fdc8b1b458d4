"""Which files of a folder are pictures: one rule for all that list them.

A folder is read with all that lies below it, linked folders included. Names that a
system or a tool made for itself are passed over; whatever else is left out is said.
"""

import os
import warnings
from collections import Counter, deque
from typing import NamedTuple

# Those of torchvision's ImageFolder.
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_SYSTEM = {
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "__macosx",
    "__pycache__",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "@eadir",
}


class Listing(NamedTuple):
    """What is in a folder: paths relative to it, sorted, and what was left out."""

    names: list[str]
    left_out: Counter[str]


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder is hidden, or made by a system or a tool.

    >>> [is_hidden(n) for n in (".ipynb_checkpoints", "._a.png", "Thumbs.db", "a.png")]
    [True, True, True, False]
    """
    return name.startswith(".") or name.lower() in _SYSTEM


def list_classes(root: str | os.PathLike[str]) -> Listing:
    """List the folders of a folder, linked ones too."""
    names, left_out, above = [], Counter(), _above(root) | {_identity(root)}
    for entry in os.scandir(root):
        if is_hidden(entry.name):
            continue
        if not _is_folder(entry):
            if entry.name.lower().endswith(SUFFIXES):
                left_out["beside the folders of the classes"] += 1
        elif _identity(entry.path) in above:
            left_out["links back to a folder above"] += 1
        else:
            names.append(entry.name)
    return Listing(sorted(names), left_out)


def list_pictures(folder: str | os.PathLike[str]) -> Listing:
    """List the pictures of a folder and of all folders below it.

    Links to folders are followed, after all that lies there without a link. A folder is
    entered once, however many links lead to it, and none above the first is entered, so
    that links in a circle end.

    Raises:
      OSError: a folder that cannot be read.
    """
    names, left_out, entered = [], Counter(), _above(folder)
    linked = deque([""])
    while linked:
        inside = [linked.popleft()]
        while inside:
            below = inside.pop()
            here = os.path.join(folder, below)
            if _identity(here) in entered:
                left_out["links to a folder that is read already or lies above"] += 1
                continue
            entered.add(_identity(here))
            folders, prefix = [], os.path.join(below, "") if below else ""
            for entry in os.scandir(here):
                if is_hidden(entry.name):
                    continue
                if _is_folder(entry):
                    folders.append(entry)
                elif problem := _no_picture(entry):
                    left_out[problem] += 1
                else:
                    names.append(f"{prefix}{entry.name}")
            for entry in sorted(folders, key=lambda entry: entry.name):
                path = os.path.join(below, entry.name)
                (linked if entry.is_symlink() else inside).append(path)
    return Listing(sorted(names, key=lambda name: name.split(os.sep)), left_out)


def say_left_out(root: str | os.PathLike[str], left_out: Counter[str]) -> None:
    """Warn of what was left out, in one line, unless there is nothing."""
    if not left_out:
        return
    kinds = [f"{n} {what}" for what, n in sorted(left_out.items())]
    more = f" and {len(kinds) - 5} other kinds" if len(kinds) > 5 else ""
    warnings.warn(
        f"{root}: left out {left_out.total()} that are no pictures to read: "
        f"{', '.join(kinds[:5])}{more}; those end in {', '.join(SUFFIXES)}",
        stacklevel=3,
    )


def _is_folder(entry):
    # Of links in a circle DirEntry.is_dir raises an error.
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _no_picture(entry):
    """Say why a file is left out; nothing for a picture."""
    if not entry.name.lower().endswith(SUFFIXES):
        suffix = os.path.splitext(entry.name)[1].lower()
        return suffix if suffix[1:].isalnum() else "of no type"
    # No pipe either, which would be waited for for ever.
    is_file = os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file()
    return "" if is_file else "broken links or no files"


def _above(folder):
    """List the folders that a folder lies in, by its path and by its target's."""
    paths = {os.path.abspath(folder), os.path.realpath(folder)}
    found = set()
    for path in paths:
        while (parent := os.path.dirname(path)) != path:
            found.add(_identity(parent))
            path = parent
    return found


def _identity(path):
    found = os.stat(path)
    return found.st_dev, found.st_ino
