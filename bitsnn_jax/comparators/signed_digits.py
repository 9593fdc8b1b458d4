"""Signed digits in the non-adjacent form, where bits would do: fewer spikes, one more.

    k = sum_t 2**(T-t) d(t),   d(t) in {-1, 0, 1},   no two neighbours both not 0

See `numerics.codings`, and `numerics.neurons.fire_digits` for the neuron. The first
digit may be one above the first bit: T digits hold codes up to L = 2**(T-1) - 1, so one
step more than bits. The codes are those of QCFS with L levels, so nothing but the
spikes differs from `bit_serial`. After our own question, not a paper's.
"""

import jax.numpy as jnp
from jaxtyping import Array

from bitsnn_jax.comparators import bit_serial
from bitsnn_jax.comparators.bit_serial import over_time
from bitsnn_jax.comparators.layer import Layer, Sent, TrainNeuron
from bitsnn_jax.comparators.method import Method
from bitsnn_jax.numerics.neurons import fire_digits, integrate
from bitsnn_jax.numerics.qcfs import step_size
from bitsnn_jax.numerics.spikes import weights


def neuron(steps: int) -> TrainNeuron:
    """Build neurons that integrate T steps, then send the digits of the rounded sum."""
    levels = 2 ** (steps - 1) - 1

    def fire(layer: Layer, currents: Array) -> Sent:
        delta = step_size(layer.theta * steps, levels)
        charge = integrate(currents, layer.full(delta / 2))
        sent, _ = fire_digits(charge, delta, steps=steps - 1)
        return Sent(sent * (delta * over_time(weights(steps), charge)), jnp.abs(sent))

    return TrainNeuron(fire, maximum=largest_code, by_sum=True)


def largest_code(largest, train: Array) -> Array:
    """Pick the train of the largest code, most significant digit first."""
    steps, signs = len(train), jnp.sign(train)
    code = jnp.tensordot(jnp.array(weights(steps), train.dtype), signs, 1)
    one = jnp.ones((), train.dtype)
    found, _ = fire_digits(largest(code), one, steps=steps - 1)
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
