"""A method of binary networks: what is published, as a network of the size of small."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax


class Sizes(NamedTuple):
    """What every network of the family is made of.

    Attributes:
      widths: channels of the three convolutions of `models.Small`.
      num_classes: how many logits.
      pools: 2x2 poolings, at most two.
      pool: `nn.avg_pool` or `nn.max_pool`.
      norm: makes a batch norm, as of `ConvNorm`.
    """

    widths: tuple[int, int, int]
    num_classes: int
    pools: int
    pool: Callable[..., jax.Array]
    norm: Callable[..., Any]

    def pooled(self, x: jax.Array, index: int) -> jax.Array:
        """Pool once more, if the image allows it: index 0 is the first pooling."""
        return self.pool(x, (2, 2), strides=(2, 2)) if index < self.pools else x


class Makes(Protocol):
    """A class of networks, called as `network(sizes)`.

    It is applied to images [n, h, w, c] with `train` and `progress`, the share of the
    training that is done, and gives logits. What it sows as ("penalties", ...), numbers
    [], is added to the loss.
    """

    def __call__(self, sizes: Sizes) -> nn.Module: ...


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
      name: for configs and tables.
      title: for readers.
      source: authors, title, venue, year; or what it was reconstructed from.
      network: makes its network.
    """

    name: str
    title: str
    source: str
    network: Makes
