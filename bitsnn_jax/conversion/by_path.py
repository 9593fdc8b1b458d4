"""Options that differ from layer to layer: by the path of each."""

from collections.abc import Callable, Collection, Mapping
from fnmatch import fnmatchcase
from typing import Any, TypeVar

Option = TypeVar("Option")
# One value for all, {pattern: value}, or a function of the path.
ByPath = Option | Mapping[str, Option] | Callable[[str], Option]


def at_path(option: Any, path: str, name: str) -> Any:
    """Return the value of an option at a path.

    Args:
      option: one value for all; or {pattern: value}, of which the first that matches
        counts, with "*" for any characters; or a function of the path.
      path: of the layer.
      name: of the option, for messages.

    Raises:
      ValueError: no pattern matches.

    >>> at_path({"stem*": 255, "*": 15}, "stem/relu", "levels")
    255
    """
    if callable(option):
        return option(path)
    if not isinstance(option, Mapping):
        return option
    for pattern, value in option.items():
        if fnmatchcase(path, pattern):
            return value
    raise ValueError(
        f"{name} has no value for {path}, only for {', '.join(map(str, option))}: add "
        '"*" for all others'
    )


Skip = str | Collection[str] | Callable[[str], bool]


def is_skipped(skip: Skip, path: str) -> bool:
    """Tell whether a path is among those to skip: names, patterns, or a function."""
    if callable(skip):
        return bool(skip(path))
    patterns = [skip] if isinstance(skip, str) else skip
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def check_skip(skip: Skip, paths: Collection[str]) -> None:
    """Raise ValueError if a name to skip is none of the paths."""
    if callable(skip):
        return
    patterns = [skip] if isinstance(skip, str) else skip
    for pattern in patterns:
        if not any(fnmatchcase(path, pattern) for path in paths):
            raise ValueError(
                f"skip has {pattern!r}, which is no activation of this network: they "
                f"are {', '.join(paths)}"
            )
