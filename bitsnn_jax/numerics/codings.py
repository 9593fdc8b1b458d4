"""How a layer sends its codes: as bits, or as signed digits.

    k = sum_t 2**(T - t) d(t)

Bits are 0 or 1, for t = 1..T. Signed digits are -1, 0 or 1 in the non-adjacent form of
Reitwiesner 1960: no two neighbours are both not 0, and of all ways to write a whole
number with such digits this has the fewest that are not 0, a third of them on the
average where bits have a half. They may begin one step before the first bit, t = 0..T.
A neuron sends them over two outputs, ON for 1 and OFF for -1; what follows adds its
weight, or takes it away. The codes are the same, so both networks are.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt

from bitsnn_jax.numerics.neurons import fire_bits, fire_codes, fire_digits
from bitsnn_jax.numerics.spikes import code_type, pack, plane_counts


class Coding(NamedTuple):
    """A way to send codes.

    Attributes:
      before: steps that it takes before those of the bits.
      least: digit, 0 or -1.
      digit: (codes, T - t) -> what each neuron sends at step t, bool or int8.
      spikes: codes -> words, a bit for each step, set where it is not 0.
      fired: (membrane, delta, steps=, unroll=) -> the codes that a neuron sends.
    """

    before: int
    least: int
    digit: Callable[[Array, Any], Array]
    spikes: Callable[[Array], Array]
    fired: Callable[..., Array]

    def times(self, steps: int) -> int:
        """Count the steps that codes of `steps` bits take."""
        return steps + self.before

    def counts(self, codes: UInt[Array, "..."], *, steps: int) -> Int[Array, " time"]:
        """Count the spikes of all neurons at each step.

        >>> CODINGS["signed_digits"].counts(jnp.array([7, 5], jnp.uint32), steps=3)
        Array([1, 1, 0, 2], dtype=int32)
        """
        return plane_counts(self.spikes(codes), steps=self.times(steps))

    def fire(
        self, membrane: Array, delta: Array, *, steps: int, unroll: bool = True
    ) -> UInt[Array, "..."]:
        """Fire a charged membrane, with T steps of bits; return the codes it sends.

        Args:
          membrane: u(1) = sum of currents + delta / 2, [...].
          delta: worth of the last digit, broadcastable to the membrane.
          steps: T.
          unroll: as in `spiking`.

        >>> u = jnp.array([-3.0, 7.5, 11.5, 99.0])
        >>> [CODINGS[c].fire(u, jnp.ones(()), steps=4).tolist() for c in CODINGS]
        [[0, 7, 11, 15], [0, 7, 11, 15]]
        """
        return self.fired(membrane, delta, steps=steps, unroll=unroll)


def _bit(codes, place) -> Bool[Array, "..."]:
    return (codes >> jnp.asarray(place, codes.dtype)) & 1 == 1


def _signed_digit(codes, place) -> Int[Array, "..."]:
    place = jnp.asarray(place, jnp.uint32)
    sent, minus = (word >> place & 1 for word in _signed_words(codes))
    return sent.astype(jnp.int8) - 2 * minus.astype(jnp.int8)


def _signed_words(codes) -> tuple[Array, Array]:
    """Return where digits are not 0, and where they are -1 (Prodinger 2000).

    The digits of k are the bits of 3 k less those of k, one place lower.
    """
    half = codes.astype(jnp.uint32) >> 1
    whole = codes.astype(jnp.uint32) + half  # 3 k, one place lower
    sent = half ^ whole
    return sent, half & sent


def _fired_bits(membrane, delta, *, steps, unroll) -> Array:
    if unroll:
        return pack(fire_bits(membrane, delta, steps=steps))
    return fire_codes(membrane, delta, steps=steps)


def _fired_digits(membrane, delta, *, steps, unroll) -> Array:
    codes = fire_digits(membrane, delta, steps=steps, unroll=unroll)[1]
    return codes.astype(code_type(steps if unroll else max(steps, 16)))


CODINGS = {
    "bits": Coding(0, 0, _bit, lambda codes: codes, _fired_bits),
    "signed_digits": Coding(
        1, -1, _signed_digit, lambda codes: _signed_words(codes)[0], _fired_digits
    ),
}


def coding_of(name: str) -> Coding:
    """Return a coding by its name.

    Raises:
      ValueError: there is none of that name.
    """
    if name not in CODINGS:
        raise ValueError(f"coding must be one of {', '.join(CODINGS)}, got {name!r}")
    return CODINGS[name]
