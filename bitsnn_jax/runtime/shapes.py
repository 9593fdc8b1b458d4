"""The shape of JSON values: what is missing, or of another kind, is named.

A shape is None for any value; a type for a value of it, where float stands for every
number; [x] for a list of x; and a dictionary for one with these names, of which "name?"
may be absent. The name "*" stands for all that are there.
"""

from collections.abc import Mapping
from typing import Any

_WORDS = {str: "text", int: "a whole number", float: "a number", dict: "a mapping"}


def complete(value: Any, shape: Any, path: str) -> Any:
    """Copy `value`, with None for each optional part that is absent.

    Args:
      value: plain JSON values.
      shape: what they must be.
      path: what the messages call `value`.

    Raises:
      ValueError: a part is missing, or of the wrong kind; the message names it.

    >>> complete({"steps": 4}, {"steps": int, "seconds?": float}, "results")
    {'steps': 4, 'seconds': None}
    >>> complete({"steps": "4"}, {"steps": int}, "results")
    Traceback (most recent call last):
    ...
    ValueError: results.steps must be a whole number, got '4'
    """
    if isinstance(shape, type):
        return _typed(value, shape, path)
    if isinstance(shape, list):
        if not isinstance(value, list | tuple):
            raise ValueError(f"{path} must be a list, got {type(value).__name__}")
        return [complete(v, shape[0], f"{path}[{i}]") for i, v in enumerate(value)]
    if not isinstance(shape, dict):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"{path} must be a mapping, got {type(value).__name__}")
    copy = dict(value)
    for key, part in _expanded(shape, value):
        name = key.removesuffix("?")
        if name in value and not (value[name] is None and key != name):
            copy[name] = complete(value[name], part, f"{path}.{name}")
        elif key != name:
            copy[name] = None
        else:
            raise ValueError(
                f"{path}.{name} is missing: it is needed, and {path} holds only "
                f"{', '.join(map(str, value)) or 'nothing'}"
            )
    return copy


def _expanded(shape, value):
    for key, part in shape.items():
        yield from ((name, part) for name in (value if key == "*" else [key]))


def _typed(value, kind, path):
    allowed = (int, float) if kind is float else kind
    # True is no number, though Python has it for one.
    if not isinstance(value, allowed) or isinstance(value, bool) and kind is not bool:
        raise ValueError(
            f"{path} must be {_WORDS.get(kind, kind.__name__)}, got {value!r:.80}"
        )
    return value
