"""TSV files as GLUE has them: a header, one example a line, and no quoting."""

import warnings
from pathlib import Path
from typing import NamedTuple

from bitsnn_jax.data.glue import Form


class Labelled(NamedTuple):
    """Examples of one file: the sentences of each, one or two, and its class."""

    sentences: list[tuple[str, ...]]
    labels: list[int]


def read_tsv(path: Path, form: Form, *, skip: bool) -> Labelled:
    """Read the examples of a file.

    Args:
      path: of the file.
      form: its columns, of which there may be others, and its labels.
      skip: leave out lines that are broken, with a warning that counts them. GLUE's own
        files of QQP have some.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a file without the columns, without an example, or no UTF-8; a line
        with another number of columns or with another label, without `skip`.
    """
    lines = _lines(path)
    header = form.header or tuple(lines.pop(0).split("\t"))
    missing = [name for name in (*form.sentences, form.label) if name not in header]
    if missing:
        raise ValueError(
            f"{path}: expected the columns {', '.join((*form.sentences, form.label))} "
            f"between tabs in line 1, got {', '.join(header)!a:.100}"
        )
    found, broken = Labelled([], []), []
    first = 1 if form.header else 2
    for number, line in enumerate(lines, first):
        wrong = _take(line.split("\t"), header, form, found)
        if wrong:
            broken.append(f"line {number} has {wrong}")
    if broken and not skip:
        raise ValueError(
            f'{path}: {broken[0]}; mend it, or set data.unreadable="skip" to leave '
            f"such lines out ({len(broken)} of {len(lines)})"
        )
    if not found.labels:
        raise ValueError(f"{path}: expected examples, one a line, got none")
    if broken:
        warnings.warn(
            f"{path}: {len(broken)} of {len(lines)} lines are left out; {broken[0]}",
            stacklevel=2,
        )
    return found


def _lines(path):
    if not path.is_file():
        raise FileNotFoundError(
            f"data.directory: expected GLUE's train.tsv and dev.tsv in it, found no "
            f"{path}"
        )
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: expected UTF-8, got {error.reason} at byte {error.start}"
        ) from None
    # Not by splitlines(), for which a sentence may hold the end of a line.
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def _take(cells, header, form, found):
    """Append an example, or return what is wrong with it."""
    if len(cells) != len(header):
        return f"{len(cells)} columns, not {len(header)}"
    row = dict(zip(header, cells, strict=True))
    if row[form.label] not in form.classes:
        classes = " or ".join(form.classes)
        return f"the {form.label} {row[form.label]!a:.40}, not {classes}"
    found.sentences.append(tuple(row[name] for name in form.sentences))
    found.labels.append(form.classes.index(row[form.label]))
    return ""
