"""The bit-serial network of this project, as the other methods are measured.

    u(1)   = sum_t I(t) + delta / 2,   delta = theta / (2**T - 1)
    s(t)   = H(u(t) - delta 2**(T-t));   u(t+1) = u(t) - s(t) delta 2**(T-t),   H(0) = 1

After "When SNN meets ANN: error-free ANN-to-SNN conversion for extreme edge
efficiency", Eq. (9) and (10), with the corrections of `neurons.bit_serial_if`.

Everything is T times as large here, since the value of a train is its mean and not its
sum: a spike sends T delta 2**(T-t), and the neuron that has collected the sum of T
steps compares it with T delta 2**(T-t). Biases are whole at each step, which is what
Proposition I does to their sum. A layer fires while the next one integrates, so each
takes T steps.
"""

import jax.numpy as jnp
from jaxtyping import Array

from bitsnn_jax.comparators.layer import Layer, Sent, TrainNeuron
from bitsnn_jax.comparators.method import Method
from bitsnn_jax.conversion.readings import snn_levels
from bitsnn_jax.numerics.neurons import fire_bits, integrate
from bitsnn_jax.numerics.qcfs import step_size
from bitsnn_jax.numerics.spikes import check_steps, pack, spike_planes, weights


def send_weighted(spikes: Array, weights: Array) -> Sent:
    """Send spikes [T, ...] that are worth `weights`, which broadcast to theirs."""
    return Sent(jnp.where(spikes, weights, jnp.zeros((), weights.dtype)), spikes)


def send_bits(charge: Array, delta: Array, steps: int) -> Sent:
    """Send the bits of a charge in steps of delta, rounded down."""
    spikes = fire_bits(charge, delta, steps=steps)
    return send_weighted(spikes, delta * over_time(weights(steps), charge))


def over_time(values, like: Array) -> Array:
    """Give [T] values as many axes as `like` has behind its first, and its type."""
    return jnp.array(values, like.dtype).reshape(-1, *(1,) * like.ndim)


def largest_code(largest, train: Array) -> Array:
    """Pick the train of the largest code, most significant bit first.

    Not the maximum of each step: that would be an "or" of the bits, 4 | 3 = 7.
    """
    steps = train.shape[0]
    bits = spike_planes(largest(pack(train > 0)).astype(jnp.int32), steps=steps)
    # Thresholds are equal in a window, so whoever sends this bit knows its worth.
    worth = jnp.stack([largest(step) for step in train])
    return jnp.where(bits, worth, jnp.zeros((), train.dtype))


def can(steps: int) -> str:
    """Tell why codes of T bits have no place in float32, or ""."""
    try:
        check_steps(steps, jnp.float32)
    except ValueError as error:
        return str(error)
    return ""


def neuron(steps: int) -> TrainNeuron:
    """Build neurons that integrate T steps, then send the bits of the rounded sum."""

    def fire(layer: Layer, currents: Array) -> Sent:
        theta = layer.theta * steps
        levels = snn_levels(layer.site.levels, steps)
        delta = step_size(theta, levels)
        return send_bits(integrate(currents, layer.full(delta / 2)), delta, steps)

    return TrainNeuron(fire, maximum=largest_code, by_sum=True)


METHOD = Method(
    name="bit_serial",
    title="Bit-serial SNN",
    source="When SNN meets ANN: error-free ANN-to-SNN conversion for extreme edge "
    "efficiency; corrected as in this project",
    neuron=neuron,
    can=can,
)
