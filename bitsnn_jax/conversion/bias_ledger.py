"""Which biases get which values, and whether the places that use them agree.

A leaf of the variables may be used in several places, in parts, and moved: reshaped,
broadcast, sliced. Each use asks for values of some of its entries, new ones or those it
has. The ledger writes down what is asked and refuses what contradicts.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from bitsnn_jax.tracing.equations import apply_equation
from bitsnn_jax.tracing.linearity import MOVES
from bitsnn_jax.tracing.reading import SpikingError
from bitsnn_jax.tracing.values import Constant


class Origin(NamedTuple):
    """A leaf, and the moves (equation, indices) that its values have made since."""

    leaf: int
    moves: tuple = ()


def moved(eqn: JaxprEqn, values: Sequence[Constant]) -> Origin | None:
    """Return where the result of `eqn` comes from; None unless it only moves a leaf."""
    origin = values[0].origin if values else None
    if origin is None or any(v.origin for v in values[1:]):
        return None
    if eqn.primitive.name == "convert_element_type":
        return origin
    if eqn.primitive.name not in MOVES or len(eqn.outvars) > 1:
        return None
    indices = tuple(v.value for v in values[1:])
    return Origin(origin.leaf, (*origin.moves, (eqn, indices)))


class DifferentPlaces(ValueError):
    """One entry of a bias is asked to have several values at once."""


class BiasLedger:
    """What the leaves of the variables are asked to be.

    Attributes:
      leaves: their values, in the order of `jax.tree.leaves`.
      paths: their names, for messages.
    """

    def __init__(self, leaves: Sequence[Any], paths: Sequence[str]):
        self.leaves = leaves
        self.paths = paths
        self._new: dict[int, np.ndarray] = {}  # by leaf, flat; NaN where none is asked
        self._kept: list[tuple[Origin, str]] = []

    def keep(self, origin: Origin, path: str) -> None:
        """Ask in `path` for the values that the leaf has."""
        self._kept.append((origin, path))

    def change(self, origin: Origin, values: np.ndarray, path: str) -> None:
        """Ask in `path` for these values of a leaf that has been moved.

        Args:
          origin: of the moved leaf.
          values: finite, of the shape of the moved leaf or one that it broadcasts to.
          path: the module that asks.

        Raises:
          SpikingError: another place asked for other values.
          DifferentPlaces: one entry stands for several of `values`, which differ.
        """
        leaf = origin.leaf
        size = np.size(self.leaves[leaf])
        old = self._new.get(leaf, np.full(size, np.nan))
        entries = np.broadcast_to(self._entries(origin), values.shape)
        new = old.copy()
        new[entries] = values
        # One bias stands for several places, and may be met in several calls. A few
        # roundings of the largest value are what sums in another order can differ by.
        eps = float(jnp.finfo(values.dtype).eps)
        slack = 8 * eps * np.max(np.abs(values), initial=0)
        if np.any(np.abs(new[entries] - values) > slack):
            raise DifferentPlaces(
                f"{self.paths[leaf]} would differ from place to place"
            )
        if np.any(np.abs(new - old) > slack):
            raise self._conflict(leaf, path)
        self._new[leaf] = new

    def changed(self) -> dict[int, np.ndarray]:
        """Return the leaves that change, with all their values, by index.

        Raises:
          SpikingError: a value is asked to stay that changes.
        """
        for origin, path in self._kept:
            new = self._new.get(origin.leaf)
            if new is not None and not np.isnan(new[self._entries(origin)]).all():
                raise self._conflict(origin.leaf, path)
        changed = {}
        for leaf, new in sorted(self._new.items()):
            old = np.asarray(self.leaves[leaf])
            new = new.reshape(old.shape)
            changed[leaf] = np.where(np.isnan(new), old, new)
        return changed

    def _entries(self, origin: Origin) -> np.ndarray:
        """Find the entry of the leaf that each entry of the moved one is."""
        leaf = self.leaves[origin.leaf]
        entries = jnp.arange(leaf.size).reshape(leaf.shape)
        for eqn, indices in origin.moves:
            [entries] = apply_equation(eqn, [entries, *indices])
        return np.asarray(entries)

    def _conflict(self, leaf: int, path: str) -> SpikingError:
        return SpikingError(
            f"{self.paths[leaf]} is used in {path or 'the program'} and elsewhere, "
            "once fed by spikes and once not, so that no single value is right: use "
            'two modules, or pass bias_shift="auto" to `spiking` and leave the '
            "variables alone"
        )
