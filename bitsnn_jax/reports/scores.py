"""How numbers are written: accuracy in percent, AP times 100, others in few digits."""

from typing import NamedTuple


class Form(NamedTuple):
    """How the values of a measure are written.

    Attributes:
      times: what they are multiplied by.
      digits: behind the point; None for three digits in all.
      unit: behind the number, "" or "%".
    """

    times: float = 1.0
    digits: int | None = None
    unit: str = ""


_PERCENT, _POINTS = Form(100, 2, "%"), Form(100, 1)


def form_of(measure: str) -> Form:
    """Return how a measure is written.

    >>> form_of("AP50")
    Form(times=100, digits=1, unit='')
    """
    if measure == "accuracy":
        return _PERCENT
    return _POINTS if measure.startswith("AP") else Form()


def bare(value: float | None, measure: str) -> str:
    """Write a value without its unit; a dash for None.

    >>> bare(0.98765, "accuracy"), bare(0.3014, "AP"), bare(0.6123, "matthews")
    ('98.77', '30.1', '0.612')
    """
    if value is None:
        return "–"
    form = form_of(measure)
    if form.digits is None:
        return number(form.times * value)
    return f"{form.times * value:.{form.digits}f}"


def with_unit(value: float | None, measure: str, *, space: str = "") -> str:
    """Write a value and its unit.

    Args:
      value: None for a dash.
      measure: its name.
      space: between the two.

    >>> with_unit(0.98765, "accuracy"), with_unit(0.3014, "AP")
    ('98.77%', '30.1')
    """
    unit = form_of(measure).unit
    text = bare(value, measure)
    return text if value is None or not unit else f"{text}{space}{unit}"


def headed(measure: str) -> str:
    """Return the head of a column of bare values.

    >>> headed("accuracy"), headed("AP")
    ('accuracy (%)', 'AP')
    """
    unit = form_of(measure).unit
    return f"{measure} ({unit})" if unit else measure


def unit_of(measure: str) -> str:
    """Return the unit that values are written with, or ""."""
    return form_of(measure).unit


def named(value: float, measure: str) -> str:
    """Write a value, with the name of its measure where no unit tells it.

    >>> named(0.98765, "accuracy"), named(0.3014, "AP")
    ('98.77%', 'AP 30.1')
    """
    text = with_unit(value, measure)
    return text if form_of(measure).unit else f"{measure} {text}"


def in_words(measure: str, *, capital: bool = False) -> str:
    """Return the name of a measure, at the beginning of a line or within one.

    >>> in_words("accuracy", capital=True), in_words("AP", capital=True)
    ('Accuracy', 'AP')
    """
    return measure[:1].upper() + measure[1:] if capital else measure


def number(value: float | None) -> str:
    """Write three digits.

    >>> number(0.51)
    '0.510'
    """
    return "–" if value is None else f"{value:#.3g}".rstrip(".")


def short(value: float) -> str:
    """Write a number with three digits and a unit.

    >>> [short(x) for x in (0.25, 16, 1234, 40_800_000)]
    ['0.25', '16', '1.23 k', '40.8 M']
    """
    for size, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= 0.9995 * size:  # 999.5 and more has four digits
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"
