"""What the paper says, item by item, and what the stored results say of it.

A claim is a function of files of docs/results. It returns what was measured, and a
verdict that it derives from these numbers: "confirmed", "refuted", "in part",
"undecided". `docs/tables/paper.py` makes the tables of docs/paper.md of them.
"""

from collections import defaultdict
from collections.abc import Callable
from operator import itemgetter
from typing import Any, NamedTuple

VERDICTS = ("confirmed", "in part", "refuted", "undecided")
RESNET, VGG = "resnet20_fashion_mnist", "vgg_fashion_mnist"


class Claim(NamedTuple):
    """One numbered item of the paper, or one statement of its text.

    Attributes:
      section: of docs/paper.md.
      item: such as "Table 1".
      says: the paper, with its numbers.
      files: of docs/results, that `judge` is given.
      judge: their contents -> (what was measured here, verdict).
      page: of docs/, where the numbers are discussed.
    """

    section: str
    item: str
    says: str
    files: tuple[str, ...]
    judge: Callable[..., tuple[str, str]]
    page: str


CLAIMS: list[Claim] = []


def claims_of(section: str) -> Callable:
    """Make the decorator that enters a function as what decides a claim."""

    def claim(item: str, says: str, *files: str, page: str) -> Callable:
        def enter(judge):
            CLAIMS.append(Claim(section, item, says, files, judge, page))
            return judge

        return enter

    return claim


def of_all(checks: list[bool]) -> str:
    """Say what follows if a claim is that all of these hold.

    >>> of_all([True, True]), of_all([True, False]), of_all([False])
    ('confirmed', 'in part', 'refuted')
    """
    if all(checks):
        return "confirmed"
    return "in part" if any(checks) else "refuted"


def grouped(rows: list[Any], *fields: str) -> dict[Any, list[Any]]:
    """Lists of the rows that agree in these fields, by what they have there.

    >>> grouped([{"T": 4, "seed": 0}, {"T": 4, "seed": 1}], "T")
    {4: [{'T': 4, 'seed': 0}, {'T': 4, 'seed': 1}]}
    """
    groups, key = defaultdict(list), itemgetter(*fields)
    for row in rows:
        groups[key(row)].append(row)
    return dict(groups)


def at(rows: list[Any], **values: Any) -> Any:
    """Return the one row that has these values.

    >>> at([{"a": 1, "b": 2}, {"a": 2, "b": 3}], a=2)["b"]
    3
    """
    found = [r for r in rows if all(r[name] == v for name, v in values.items())]
    if len(found) != 1:
        raise ValueError(f"expected one row with {values}, found {len(found)}")
    return found[0]
