"""Accumulators of hardware: so many bits, and what becomes of a sum that needs more."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

OVERFLOWS = ("saturate", "wrap")
MOST_BITS = 32


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["bits"], meta_fields=["overflow"]
)
@dataclasses.dataclass(frozen=True)
class Accumulator:
    """A register that holds a membrane.

    It holds the integers low..high. A sum beyond them becomes

        saturate  the nearer of the two
        wrap      the sum modulo 2**bits, in that range

    Saturation depends on when it is applied, so this package and the referee keep one
    order. Each line is one addition to the register u, which then is limited:

        u = all that the image and nodes of kind "sum" bring
        u += (all spikes of step t) << (T - t), and part t of the bias    for t = 1..T
        u += half

    Hardware that limits u after every single weight gives the same when it wraps. When
    it saturates, the sums inside of a line must fit as well.

    Attributes:
      bits: with the sign, 2 to 32. May be traced, so that one program runs every width.
      overflow: "saturate" or "wrap".

    Raises:
      ValueError: bits out of range, or an unknown overflow.

    >>> sums = jnp.array([-130, -128, 127, 128, 300])
    >>> Accumulator(8).limited(sums).tolist()
    [-128, -128, 127, 127, 127]
    >>> Accumulator(8, "wrap").limited(sums).tolist()
    [126, -128, 127, -128, 44]
    """

    bits: int
    overflow: str = "saturate"

    def __post_init__(self) -> None:
        if isinstance(self.bits, int) and not 2 <= self.bits <= MOST_BITS:
            raise ValueError(
                f"an accumulator has 2 to {MOST_BITS} bits, got {self.bits}"
            )
        if self.overflow not in OVERFLOWS:
            raise ValueError(
                f"overflow must be one of {', '.join(OVERFLOWS)}; got {self.overflow!r}"
            )

    def limited(self, total: jax.Array) -> jax.Array:
        """Return what the register holds of sums below 2**31, in their own type."""
        whole, spare = jnp.asarray(total, jnp.int32), MOST_BITS - self.bits
        if self.overflow == "saturate":
            high = (2 ** (MOST_BITS - 1) - 1) >> spare
            held = jnp.clip(whole, -high - 1, high)
        else:  # the lowest bits, the first of which has the sign
            held = (whole << spare) >> spare
        return held.astype(total.dtype)


def bits_for(low: int, high: int) -> int:
    """Return the bits, with the sign, that hold all integers low..high.

    >>> bits_for(-128, 127), bits_for(0, 128), bits_for(-1_467_972, 1_467_972)
    (8, 9, 22)
    """
    return max((-low - 1).bit_length() if low < 0 else 0, max(high, 0).bit_length()) + 1
