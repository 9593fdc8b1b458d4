"""Signed digits in the non-adjacent form, where bits would do: fewer spikes, one more.

    k = sum_t 2**(T-t) d(t),   d(t) in {-1, 0, 1},   no two neighbours both not 0

Reitwiesner 1960: of all ways to write a whole number with such digits this has the
fewest that are not 0, a third of them on the average where bits have a half. The first
digit may be one above the first bit: T digits hold codes up to L = 2**(T-1) - 1, so one
step more than bits. ON and OFF neurons can send a digit, whichever its sign.

A neuron finds the digits with the most significant one first, as `bit_serial` finds
bits, from the same charge u(1), but its membrane saturates at both ends of the codes:

    u(1) = clip(sum_t I(t) + delta / 2, 0, (L + 1/2) delta),   delta = theta / L
    d(t) = 1 if u(t) >= (m + 1) delta,   -1 if u(t) < -m delta,   0 otherwise
    u(t+1) = u(t) - d(t) delta 2**(T-t),   m = floor(2**(T-t+1) / 3)

m is the largest number that later digits can make up for. What is left behind a digit
is never above the m of the next step, so that no two neighbours are sent. The codes are
those of QCFS with L levels, so nothing but the spikes differs from `bit_serial`. After
our own question, not a paper\'s.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from bitsnn_jax.comparators import bit_serial
from bitsnn_jax.comparators.bit_serial import over_time
from bitsnn_jax.comparators.layer import Layer, Sent, TrainNeuron
from bitsnn_jax.comparators.method import Method
from bitsnn_jax.numerics.neurons import integrate
from bitsnn_jax.numerics.qcfs import step_size
from bitsnn_jax.numerics.spikes import weights


def digits(charge: Array, delta: Array, *, steps: int) -> Array:
    """Fire the digits [T, ...] of a charge from 0 to (2**(T-1) - 1/2) delta.

    >>> digits(jnp.array([7.5, 11.5]), jnp.array(1.0), steps=5).T
    Array([[ 0,  1,  0,  0, -1],
           [ 1,  0, -1,  0, -1]], dtype=int32)
    """

    def step(u, weight):
        rest = (2 * weight) // 3
        up, down = u >= (rest + 1) * delta, u < -rest * delta
        digit = up.astype(jnp.int32) - down
        return u - digit * weight * delta, digit

    each = jnp.array(weights(steps), jnp.int32)
    return lax.scan(step, charge, each)[1]


def neuron(steps: int) -> TrainNeuron:
    """Build neurons that integrate T steps, then send the digits of the rounded sum."""
    levels = 2 ** (steps - 1) - 1

    def fire(layer: Layer, currents: Array) -> Sent:
        delta = step_size(layer.theta * steps, levels)
        charge = integrate(currents, layer.full(delta / 2))
        charge = jnp.clip(charge, 0, (levels + 0.5) * delta)
        sent = digits(charge, delta, steps=steps)
        return Sent(sent * (delta * over_time(weights(steps), charge)), jnp.abs(sent))

    return TrainNeuron(fire, maximum=largest_code, by_sum=True)


def largest_code(largest, train: Array) -> Array:
    """Pick the train of the largest code, most significant digit first."""
    steps, signs = len(train), jnp.sign(train)
    code = jnp.tensordot(jnp.array(weights(steps), train.dtype), signs, 1)
    found = digits(largest(code), jnp.ones((), train.dtype), steps=steps)
    # Thresholds are equal in a window, so whoever sends this digit knows its worth.
    worth = jnp.stack([largest(jnp.abs(step)) for step in train])
    return found * worth


def can(steps: int) -> str:
    """Tell why codes of T digits are none, or have no place in float32, or ""."""
    return "a single digit holds no code" if steps < 2 else bit_serial.can(steps)


METHOD = Method(
    name="signed_digits",
    title="Signed digits",
    source="The non-adjacent form of Reitwiesner, Binary arithmetic, Advances in "
    "Computers 1, 1960, in the place of this project's bits",
    neuron=neuron,
    can=can,
)
