"""What the programs of imported networks take: shared by PyTorch's and ONNX's."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from msgspec import Struct


class Input(Struct, frozen=True):
    """An input of a program.

    Attributes:
      name: of its value.
      shape: None where any size goes, such as that of the batch.
      dtype: by its name in NumPy.
    """

    name: str
    shape: list[int | None]
    dtype: str


def check_inputs(expected: Sequence[Input], given: Sequence[Any], *, said: str) -> None:
    """Check that arrays are as many and of the shapes that a program takes.

    Args:
      expected: its inputs.
      given: the arrays.
      said: whose shapes these are, for messages.

    Raises:
      ValueError: they are not.
    """
    if len(given) != len(expected):
        names = ", ".join(each.name for each in expected)
        raise ValueError(
            f"this network takes {len(expected)} inputs ({names}), got {len(given)}"
        )
    for each, array in zip(expected, given, strict=True):
        shape = np.shape(array)
        if len(shape) != len(each.shape) or any(
            n not in (None, m) for n, m in zip(each.shape, shape, strict=True)
        ):
            sizes = ", ".join("N" if n is None else str(n) for n in each.shape)
            raise ValueError(
                f"input {each.name} must have the shape [{sizes}] {said}; got "
                f"{list(shape)}"
            )


def floating_type(arrays: Sequence[Any]) -> Any:
    """Find the floating type of arrays all together; float32 at least."""
    types = [jnp.result_type(a) for a in arrays]
    types = [t for t in types if jnp.issubdtype(t, jnp.floating)]
    return functools.reduce(jnp.promote_types, types, jnp.dtype(jnp.float32))


def traced(fn: Callable[[Any, Any], Any], variables: Any, x: Any) -> Any:
    """Return the shapes of a network's results; None if these inputs do not fit."""
    try:
        return jax.eval_shape(fn, variables, x)
    except Exception:  # whatever JAX says of sizes that do not fit
        return None
