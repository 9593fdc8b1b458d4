"""Tables as plain text."""

from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]], *, names: int = 1) -> str:
    """Lay out rows as text: the first `names` columns to the left, numbers right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if i < names else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)
