"""Values of an ONNX program: known ones in NumPy, what depends on variables in JAX.

Sizes and indices are computed in NumPy while JAX traces the program. So whatever fixes
a shape must be a NumPy array.
"""

from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np


class UnknownValueError(ValueError):
    """A value that must be known when the program is traced, and is not."""


def is_known(*values: Any) -> bool:
    """Tell whether none of the values depends on variables or inputs."""
    return all(isinstance(v, (np.ndarray, np.generic, type(None))) for v in values)


def library(*values: Any) -> ModuleType:
    """Return NumPy for known values, else `jax.numpy`."""
    return np if is_known(*values) else jnp


def known(value: Any, what: str) -> np.ndarray:
    """Return a known value.

    Raises:
      UnknownValueError: it depends on variables or inputs.
    """
    if not is_known(value):
        raise UnknownValueError(
            f"its {what} must be known when the network is traced, and depends on the "
            "values of the input"
        )
    return np.asarray(value)


def whole(value: Any, what: str) -> list[int]:
    """Return known whole numbers as a list; attributes are such lists already."""
    if isinstance(value, (list, tuple)):
        return list(value)
    return [int(n) for n in known(value, what).reshape(-1)]


def number(value: Any, beside: Any) -> Any:
    """Return a known number as Python's, which takes the type of what it meets.

    Arrays stay as they are, also those that would give `beside` another shape.
    """
    if is_known(value) and value.size == 1 and value.ndim <= np.ndim(beside):
        return value.item()
    return value
