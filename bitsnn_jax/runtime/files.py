"""Files and folders that are whole or absent: written beside, renamed into place.

A process may be killed at any point. It then leaves `.NAME.new` or `.NAME.old`, and the
next process that replaces NAME finishes or removes them.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

# How long a reader waits for a folder that a writer is just putting in place.
_SWAP_SECONDS = 0.1


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Name the file in an error of the system that does not, as of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def make_folder(folder: Path) -> None:
    """Make it, and those above it, where they are missing.

    Raises:
      ValueError: a file stands where a folder must be.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(
            f"{folder} must be a folder, and a file has this name or that of a folder "
            "above it: give another"
        ) from error


def replace_text(path: Path, text: str) -> None:
    """Write a whole file, or leave the old one."""
    new = beside(path)
    try:
        with naming(path):
            new.write_text(text)
        os.replace(new, path)
    except BaseException:
        remove(new)
        raise


def replace_json(path: Path, value: Any) -> None:
    """Do the same with typed or plain values, as JSON."""
    # Not msgspec's own text: that has null for what is no number, and all in one line.
    replace_text(path, json.dumps(msgspec.to_builtins(value), indent=1) + "\n")


def write_files(contents: Mapping[str, bytes], folder: str | os.PathLike[str]) -> Path:
    """Write all files or, where one cannot be written, none; return the last's path.

    Files are renamed into place, in the order given.

    Args:
      contents: by name.
      folder: made where it is missing.
    """
    folder = Path(folder)
    make_folder(folder)
    with _alone_in(folder):
        for left in folder.glob(".report-*"):  # of a version that wrote into these
            remove(left)
        paths = [folder / name for name in contents]
        try:
            for path, content in zip(paths, contents.values(), strict=True):
                with naming(path):
                    beside(path).write_bytes(content)
            for path in paths:
                os.replace(beside(path), path)
        except BaseException:
            for path in paths:
                remove(beside(path))
            raise
    return paths[-1]


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """Give a path to write a new folder to, which then takes the place of `folder`.

    The old folder stays if the body raises, or if the process is killed before the new
    one is whole.
    """
    new, old = beside(folder), _before(folder)
    make_folder(folder.parent)
    with _alone_in(folder.parent):
        settle(folder)
        try:
            with naming(folder):
                yield new
            if folder.exists():
                folder.rename(old)
            try:
                new.rename(folder)
            except OSError:
                if old.exists():
                    old.rename(folder)
                raise
        except BaseException:
            remove(new)
            raise
        remove(old)


def settle(path: Path) -> None:
    """End what a killed process had begun in place of a file or folder.

    Args:
      path: the file or folder; no living process is replacing it.
    """
    new, old = beside(path), _before(path)
    if old.exists() and not path.exists():
        # Killed between the two renames: the new one was whole before the first.
        (new if new.exists() else old).rename(path)
    for name in _left(path):
        remove(path.with_name(name))


def standing(folder: Path) -> Path:
    """Find a folder for a reader, also if a kill came between two renames."""
    new, old = beside(folder), _before(folder)
    if folder.exists() or not old.exists():
        return folder
    time.sleep(_SWAP_SECONDS)  # a living writer is done by then
    if folder.exists():
        return folder
    return new if new.exists() else old


def remove(path: Path) -> None:
    """Remove a file or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def beside(path: Path) -> Path:
    """Name what is to take the place of a file or folder."""
    return path.with_name(f".{path.name}.new")


def _before(path: Path) -> Path:
    """Name what had the place of it."""
    return path.with_name(f".{path.name}.old")


def _left(path: Path) -> list[str]:
    """List the names of what was left beside a path, in order.

    They are hidden: NAME.old may be somebody's own.
    """
    name = re.escape(path.name)
    pattern = re.compile(rf"\.{name}\.(new|old)(\.orbax-checkpoint-tmp.*)?")
    with suppress(FileNotFoundError):
        return sorted(filter(pattern.fullmatch, os.listdir(path.parent)))
    return []


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other writer is in the folder; it leaves no file behind.

    Without locks, as on some network file systems, nothing is waited for.
    """
    if fcntl is None:
        yield
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # to write into it one need not read it
        yield
        return
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
