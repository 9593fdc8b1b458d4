"""Files that are whole or not there: written beside, and put in place by a rename."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


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
    """Makes it, and those above it, where they are missing.

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
    """Writes a whole file, or leaves the old one."""
    new = path.with_name(f"{path.name}.new")
    try:
        with naming(path):
            new.write_text(text)
        os.replace(new, path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def replace_json(path: Path, value: Any) -> None:
    """The same of plain values, as JSON."""
    replace_text(path, json.dumps(value, indent=1) + "\n")


def write_files(contents: Mapping[str, bytes], folder: str | os.PathLike[str]) -> Path:
    """Writes all files or, where one cannot be written, none; returns the last's path.

    Each is put in its place by a rename, in the order given.

    Args:
      contents: by name.
      folder: made where it is missing.
    """
    folder = Path(folder)
    make_folder(folder)
    # Inside the folder, because a rename must stay in one file system.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".report-") as scratch:
        for name, content in contents.items():
            with naming(folder / name):
                (Path(scratch) / name).write_bytes(content)
        for name in contents:
            os.replace(Path(scratch) / name, folder / name)
    return folder / list(contents)[-1]
