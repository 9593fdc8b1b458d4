"""Integrate-and-fire neurons as scans over time: Eq. (9) and (10), and the rate IF.

Conventions, here and nowhere else: time is axis 0; a neuron fires when its membrane is
at or above its threshold; reset is by subtraction. The membrane is the scan's carry.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Num, UInt

from bitsnn_jax.numerics.qcfs import Floats, aligned, step_size
from bitsnn_jax.numerics.spikes import check_steps, code_type, weights

Membrane = Float[Array, "..."]
Charges = TypeVar("Charges")


def integrate(currents: Float[Array, "time ..."], membrane: Membrane) -> Membrane:
    """Integrate currents before the first spike, Eq. (9): u(1) = u0 + sum_t I(t)."""

    def step(u, current):
        return u + current, None

    # The first step outside, so that the carry varies over devices as currents do.
    first = membrane + currents[0]
    return lax.scan(step, first, currents[1:], unroll=True)[0]


def fire_bits(
    membrane: Num[Array, "..."], delta: Num[Array, "..."], *, steps: int
) -> Bool[Array, "time ..."]:
    """Fire a charged membrane for T steps, Eq. (10), most significant bit first.

    s(t) = H(u(t) - delta 2**(T-t)),   u(t+1) = u(t) - s(t) delta 2**(T-t),  H(0) = 1
    """

    def step(u, weight):
        return _fire(u, delta * weight)

    thresholds = jnp.array(weights(steps), membrane.dtype)
    return lax.scan(step, membrane, thresholds, unroll=True)[1]


def _fire(u, threshold):
    spike = u >= threshold
    return jnp.where(spike, u - threshold, u), spike


def collect(charge: Callable[[Any], Charges], start: Charges, *, steps: int) -> Charges:
    """Integrate currents that are made step by step, Eq. (9), in a loop at run time.

        u(1) = u0 + sum_t I(t)

    Neither the program nor what it keeps grows with T.

    Args:
      charge: T - t -> the currents of step t, a pytree of arrays.
      start: u0, a pytree of arrays or numbers.
      steps: T.
    """

    def step(total, place):
        return jax.tree.map(jnp.add, total, charge(place)), None

    # The first step outside, as in `integrate`; XLA also would allot every layer's
    # start when the program begins.
    first = jax.tree.map(jnp.add, start, charge(steps - 1))
    return lax.scan(step, first, _places(steps - 1))[0]


def fire_codes(
    membrane: Num[Array, "..."], delta: Array, *, steps: int
) -> UInt[Array, "..."]:
    """Fire as `fire_bits` does, in a loop at run time that packs spikes on the way.

    k(0) = 0,   k(t) = 2 k(t-1) + s(t)
    """

    def step(u, place):
        u, spike = _fire(u, delta * jnp.asarray(1 << place, u.dtype))
        return u, spike.astype(code_type(max(steps, 16)))

    def next_step(carry, place):
        u, code = carry
        u, bit = step(u, place)
        return (u, code << 1 | bit), None

    first = step(membrane, steps - 1)
    return lax.scan(next_step, first, _places(steps - 1))[0][1]


def fire_digits(
    membrane: Num[Array, "..."], delta: Array, *, steps: int, unroll: bool = True
) -> tuple[Int[Array, "time ..."], Int[Array, "..."]]:
    """Fire a charged membrane as signed digits, most significant first, t = 0..T.

        d(t)   = 1 if u(t) >= (m + 1) delta,   -1 if u(t) < -m delta,   0 otherwise
        u(t+1) = u(t) - d(t) delta 2**(T-t),   m = floor(2**(T-t+1) / 3)

    m is the largest number that later digits can make up for. What is left behind a
    digit is never above the m of the next step, so that no two neighbours are sent.
    Ours, in the place of Eq. (10); the digits are those of the non-adjacent form. The
    membrane saturates at both ends of the codes,

        u(0) = clip(u, 0, (2**T - 1/2) delta).

    Args:
      membrane: u = sum of currents + delta / 2, [...], in floats or integers.
      delta: worth of the last digit, broadcastable to it.
      steps: T; there are T + 1 digits.
      unroll: write the steps into the program one after the other.

    Returns:
      digits int32 [T + 1, ...] in -1, 0, 1; their codes, int32 [...].

    >>> fire_digits(jnp.array([7.5, 11.5]), jnp.array(1.0), steps=4)[0].T
    Array([[ 0,  1,  0,  0, -1],
           [ 1,  0, -1,  0, -1]], dtype=int32)
    """

    def step(carry, place):
        (u, code), (weight, rest) = carry, place
        far = rest.astype(u.dtype) * delta
        digit = (u >= far + delta).astype(jnp.int32) - (u < -far)
        u = u - digit.astype(u.dtype) * (weight.astype(u.dtype) * delta)
        return (u, code + digit * weight), digit

    top = delta * 2**steps
    top = top - (1 if jnp.issubdtype(membrane.dtype, jnp.integer) else delta / 2)
    u = jnp.clip(membrane, 0, top)
    worth = weights(steps + 1)
    places = (jnp.array(w, jnp.int32) for w in (worth, [2 * w // 3 for w in worth]))
    start = u, 0 * u.astype(jnp.int32)
    (_, codes), digits = lax.scan(step, start, tuple(places), unroll=unroll)
    return digits, codes


def _places(steps):
    """Return T - t for the last so many steps."""
    return jnp.arange(steps - 1, -1, -1)


def bit_serial_if(
    currents: Float[Array, "time ..."],
    theta: Floats | float,
    *,
    steps: int,
    levels: int | None = None,
) -> Bool[Array, "time ..."]:
    """Integrate for T steps, then fire for T: the paper's neuron, Eq. (9) and (10).

        u(1)   = sum_t I(t) + delta / 2,   delta = theta / (2**T - 1)
        s(t)   = H(u(t) - delta 2**(T-t)),   H(0) = 1
        u(t+1) = u(t) - s(t) delta 2**(T-t)

    The spikes are the bits of the QCFS code of sum_t I(t). Differs from the paper's
    text, which omits the half step delta / 2 that makes the floor round, weights an
    MSB-first train by 2**(t-1), and has theta / 2 for theta / 2**t in Algorithm 1.

    Args:
      currents: [T, ...] in the units of theta; a spike of step t upstream has brought
        delta_upstream 2**(T-t) times its synapse.
      theta: [] or broadcastable to a step of currents, e.g. [C]; positive.
      steps: T.
      levels: theta / delta when it is not 2**T - 1.

    Returns:
      bool [T, ...], most significant first.

    Raises:
      ValueError: steps out of range, currents not of `steps` steps, or theta that does
        not broadcast to a step of them.

    >>> charge = jnp.array([[4.0, 9.0], [0.0, 1.0], [0.0, 1.0], [1.4, 40.0]])
    >>> bit_serial_if(charge, 15.0, steps=4).astype(int).T
    Array([[0, 1, 0, 1],
           [1, 1, 1, 1]], dtype=int32)
    """
    check_steps(steps, currents.dtype)
    if currents.shape[0] != steps:
        raise ValueError(
            f"currents must have time as axis 0: {steps} steps expected, "
            f"got shape {currents.shape}"
        )
    theta = aligned(jnp.asarray(theta, currents.dtype), currents.shape[1:])
    delta = step_size(theta, levels or 2**steps - 1)
    half = jnp.broadcast_to(delta / 2, currents.shape[1:])
    return fire_bits(integrate(currents, half), delta, steps=steps)


def rate_if(
    currents: Float[Array, "time ..."],
    theta: Floats | float,
    *,
    v_init: Floats | float,
) -> Bool[Array, "time ..."]:
    """Fire while integrating: the rate-coded IF neuron with reset by subtraction.

        v(t) = v(t-1) + I(t);   s(t) = H(v(t) - theta);   v(t) -= theta s(t),  H(0) = 1

    Under constant input and v_init = theta / 2 its count is the QCFS code with T levels
    (Bu et al., 2022).

    Args:
      currents: [T, ...]; T is taken from axis 0.
      theta: [] or broadcastable to a step of currents; positive.
      v_init: membrane before the first step, broadcastable to a step of currents.

    Returns:
      bool [T, ...].

    >>> rate_if(jnp.full((4, 1), 0.5), 1.0, v_init=0.5)[:, 0]
    Array([ True, False,  True, False], dtype=bool)
    """
    theta = aligned(jnp.asarray(theta, currents.dtype), currents.shape[1:])

    def step(v, current):
        v = v + current
        spike = v >= theta
        return jnp.where(spike, v - theta, v), spike

    v_init = jnp.asarray(v_init, currents.dtype)
    start = jnp.broadcast_to(v_init, currents.shape[1:])
    return lax.scan(step, start, currents)[1]


__all__ = [
    "bit_serial_if",
    "collect",
    "fire_bits",
    "fire_codes",
    "fire_digits",
    "integrate",
    "rate_if",
]
