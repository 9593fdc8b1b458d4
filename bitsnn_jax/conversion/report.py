"""What `quantise` did with each activation of a network, as data and as a table."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bitsnn_jax.runtime.columns import table
from bitsnn_jax.tracing.reading import Nonspiking


class ActivationReport(NamedTuple):
    """What became of one activation.

    Attributes:
      path: its name.
      function: what it was recognised as, or the names of its operations.
      sites: the paths of its neurons: none, one, or a pair for its two signs.
      levels: highest code; None without neurons.
      thetas: of those neurons, [] or [C].
      note: why it has none, or what else is to say.
    """

    path: str
    function: str
    sites: tuple[str, ...] = ()
    levels: int | None = None
    thetas: tuple[Any, ...] = ()
    note: str = ""


class QuantisationReport(NamedTuple):
    """What `quantise` found in a network; print it as a table.

    Attributes:
      activations: what became of each, in order.
      left: operations that are not affine and stayed as they were, activations that
        were left among them.
    """

    activations: tuple[ActivationReport, ...]
    left: tuple[Nonspiking, ...]

    def __str__(self) -> str:
        rows = [("activation", "function", "levels", "theta", "note")]
        rows += [
            (
                each.path,
                each.function,
                "" if each.levels is None else f"{each.levels}",
                " / ".join(map(_range, each.thetas)),
                each.note if each.sites else f"left: {each.note}",
            )
            for each in self.activations
        ]
        lines = [table(rows, names=len(rows[0]))]
        if self.left:
            counts: dict[Nonspiking, int] = {}
            for each in self.left:
                counts[each] = counts.get(each, 0) + 1
            lines += ["", "not affine, and left as they are:"]
            lines += [
                f"  {operation} in {path or 'the program'}"
                + (f", {count} times" if count > 1 else "")
                for (operation, path), count in counts.items()
            ]
        return "\n".join(lines)


def _range(theta: Any) -> str:
    values = np.asarray(theta)
    least, most = f"{values.min():.4g}", f"{values.max():.4g}"
    return least if least == most else f"{least} to {most}"


def with_thetas(
    activations: Sequence[ActivationReport], thetas: Mapping[str, Any]
) -> tuple[ActivationReport, ...]:
    """Fill in the thresholds."""
    return tuple(
        each._replace(thetas=tuple(thetas[path] for path in each.sites))
        for each in activations
    )
