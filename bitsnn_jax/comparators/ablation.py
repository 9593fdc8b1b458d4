"""What each part of the method gives: the cells of the paper's Table 4.

The paper (Datta et al., When SNN meets ANN) turns three things on and off
and leaves open what the network is when only some are on. The cells here are ours, but
for the corners. A layer has a unit and a weight for each step t = 1..T,

    left shift off:  w_t = 1,          L = T            (a rate)
    left shift on:   w_t = 2**(T-t),   L = 2**T - 1     (bits)
    U = T theta / L

A spike of step t is sent as U w_t, so that the mean over time of what is sent is
(theta / L) sum_t w_t s_t. That is also the threshold of the step, and what a spike
takes from the membrane, which starts at U / 2. A current I_t = J_t + b is what spikes
bring at step t, and the bias of all that lies between two layers, b = g(0).

**Left shift**: the weights above. In a rate code the image is a current at each step,
as in QCFS; in bits the first layers see it once, whole, at their first step, so that
they send the bits of their code with either neuron.

**BN shift** (Proposition I). Where trains are summed, as in the paper, a bias is to
enter as b / T at each step. Where they are averaged, as here, that is b at each step.
Without the shift the paper's bias enters whole into the sum T times: here as T b at
each step, in all layers but the first. The output has no neurons, and in the paper no
norm; its bias is right in all cells. A rate is a mean, and b is right as it is: the
paper has no row with BN shift alone, and here it is an error.

**Norm first** is another reading of "no BN shift", and not one of the paper's switches.
Its Section 6.3 shifts what a convolution puts out; if the shifter stands behind the
norm, the bias is shifted with the spikes and enters as T b w_t / L. It sums up to the
same as b at each step, but most of it comes early.

**Modified IF** (Eq. 9 and 10): integrate the whole train, then fire. H(0) = 1,

    u_1 = U / 2 + sum_t I_t;   s_t = H(u_t - U w_t);   u_(t+1) = u_t - U w_t s_t

Without it, fire while integrating:

    v_0 = U / 2;   v_t = v_(t-1) + I_t;   s_t = H(v_t - U w_t);   v_t -= U w_t s_t

None on is the rate network of QCFS (Bu et al., ICLR 2022). Modified IF alone is the
parallel neuron (Hao et al., ICML 2025): the same train. All on is this paper's network,
with the codes of `bitsnn_jax.spiking`. Norm first with modified IF has all of the bias
before it fires, and is all on again.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from bitsnn_jax.comparators.bit_serial import largest_code
from bitsnn_jax.comparators.layer import Layer, Neuron, Sent, StepNeuron, TrainNeuron
from bitsnn_jax.comparators.method import Method, Network, as_it_is
from bitsnn_jax.comparators.simulation import Found
from bitsnn_jax.conversion.readings import TimedReading, snn_levels
from bitsnn_jax.numerics.neurons import integrate
from bitsnn_jax.numerics.qcfs import step_size
from bitsnn_jax.numerics.spikes import weights
from bitsnn_jax.tracing.program import ApplyFn, read, trace
from bitsnn_jax.tracing.sites import Site
from bitsnn_jax.tracing.values import Analog, Current


class Cell(NamedTuple):
    """Which parts are on."""

    left_shift: bool = False
    bn_shift: bool = False
    modified_if: bool = False
    norm_first: bool = False

    def weights(self, steps: int) -> list[int]:
        """List what a spike of each step is worth, in steps of the code."""
        return weights(steps) if self.left_shift else [1] * steps

    def levels(self, site: Site, steps: int) -> int:
        """Return the highest code, theta / delta."""
        return snn_levels(site.levels, steps) if self.left_shift else steps


# The paper's rows in its order, then what it leaves out.
CELLS = {
    "none": Cell(),
    "modified_if": Cell(modified_if=True),
    "left_shift": Cell(left_shift=True),
    "left_shift_bn": Cell(left_shift=True, bn_shift=True),
    "all": Cell(left_shift=True, bn_shift=True, modified_if=True),
    "left_shift_modified_if": Cell(left_shift=True, modified_if=True),
    "norm_first": Cell(left_shift=True, norm_first=True),
    "norm_first_modified_if": Cell(left_shift=True, modified_if=True, norm_first=True),
}


def ablated(cell: Cell) -> Method:
    """Build the method of a cell.

    Raises:
      ValueError: a bias shift, or a norm first, that has no left shift to go with; or
        both together.

    >>> ablated(CELLS["all"]).name
    'all'
    >>> ablated(Cell(bn_shift=True))
    Traceback (most recent call last):
    ...
    ValueError: bn_shift and norm_first need left_shift: a rate's bias is right as it is
    """
    if not cell.left_shift and (cell.bn_shift or cell.norm_first):
        raise ValueError(
            "bn_shift and norm_first need left_shift: a rate's bias is right as it is"
        )
    if cell.bn_shift and cell.norm_first:
        raise ValueError("bn_shift and norm_first are two ways to treat the same bias")
    [name] = [name for name, other in CELLS.items() if other == cell]
    return Method(
        name=name,
        title=" + ".join(k.replace("_", " ") for k, on in cell._asdict().items() if on)
        or "none",
        source="Datta et al., When SNN meets ANN: error-free ANN-to-SNN conversion for "
        "extreme edge efficiency, Table 4; mixed cells are ours",
        neuron=lambda steps: neuron(cell, steps),
        prepare=_prepare if cell.left_shift else as_it_is,
    )


def neuron(cell: Cell, steps: int) -> Neuron:
    """Build the neurons of a cell at T steps; left shift needs `first_and_biases`.

    With modified IF they see whole trains, otherwise they only look back. Those with
    left shift are right at the last step only, when all weights have been sent.
    """
    return _integrate_first(cell, steps) if cell.modified_if else _at_once(cell, steps)


def taken(cell: Cell, layer: Layer, current: Array, t: Any, *, steps: int) -> Array:
    """Return what the membranes take of the current of step t = 0, 1, ..., T-1."""
    if not cell.left_shift:
        return current
    share = steps  # of b, whole in each step of the sum
    if cell.bn_shift:
        share = 1
    elif cell.norm_first:
        worth = jnp.array(cell.weights(steps), current.dtype)
        share = steps * worth[t] / worth.sum()
    once = jnp.where(t == 0, steps * current, 0)
    later = current + (share - 1) * layer.found["bias"]
    return jnp.where(layer.found["first"], once, later)


def _unit(cell: Cell, layer: Layer, steps: int) -> Array:
    # Of a rate T theta / T, which is not always theta when it is computed.
    if not cell.left_shift:
        return layer.theta
    return steps * step_size(layer.theta, cell.levels(layer.site, steps))


def _at_once(cell: Cell, steps: int) -> StepNeuron:
    def start(layer):
        return layer.full(_unit(cell, layer, steps) / 2)

    def step(layer, v, current, t):
        worth = jnp.array(cell.weights(steps), layer.theta.dtype)[t]
        threshold = _unit(cell, layer, steps) * worth
        v = v + taken(cell, layer, current, t, steps=steps)
        return _fire(v, threshold)

    return StepNeuron(start, step)


def _integrate_first(cell: Cell, steps: int) -> TrainNeuron:
    def fire(layer, currents):
        unit = _unit(cell, layer, steps)
        u = integrate(currents, layer.full(unit / 2))
        if cell.left_shift and not (cell.bn_shift or cell.norm_first):
            # Of b, whole in each step of the sum, a T-th is in the currents.
            u += steps * (steps - 1) * layer.found["bias"]
        worth = jnp.array(cell.weights(steps), layer.theta.dtype)
        return lax.scan(lambda u, w: _fire(u, unit * w), u, worth)[1]

    maximum = largest_code if cell.left_shift else lax.map
    return TrainNeuron(fire, maximum=maximum, by_sum=True)


def _fire(v, threshold) -> tuple[Array, Sent]:
    spikes = v >= threshold
    sent = jnp.where(spikes, threshold, jnp.zeros((), threshold.dtype))
    return v - sent, Sent(sent, spikes)


def _prepare(network: Network, images: Iterable[Any], steps: int) -> Network:
    example = next(iter(images))[:1]
    found = first_and_biases(network.apply_fn, network.variables, example)
    return network._replace(found=found)


def first_and_biases(apply_fn: ApplyFn, variables: Any, example: Any) -> Found:
    """Find for each layer whether it comes first, and the bias b = g(0) before it.

    Nothing of the image is in a bias: what is carried past the first neurons is left
    out. A first layer, which sees only the image, has 0.

    Args:
      apply_fn: pure, (variables, x) -> one array; its activations are `qcfs`.
      variables: of the network.
      example: an input of batch 1; its values do not matter.

    Returns:
      path -> {"first": [] bool, "bias": [1, ...]}.
    """
    program, _ = trace(apply_fn, variables, example)

    def walk(variables, example):
        reading = _Silence(steps=1)
        read(reading, program, jax.tree.leaves(variables), jax.tree.leaves(example))
        return reading.found

    return jax.jit(walk)(variables, example)


class _Silence(TimedReading):
    """A current is what flows when no neuron fires and the image is 0."""

    def __init__(self, **options):
        super().__init__(**options)
        self.found: dict[str, dict[str, Any]] = {}

    def neuron(self, site, z, theta):
        first = not isinstance(z, Current)
        bias = jnp.zeros_like(z.value) if first else z.value
        self.found[site.path] = {"first": jnp.array(first), "bias": bias}
        return Current(jnp.zeros_like(bias))

    def linear(self, eqn, values, operands, path):
        arrays = [
            jnp.zeros_like(v.value)
            if i in operands and isinstance(v, Analog)
            else v.value
            for i, v in enumerate(values)
        ]
        return [Current(y) for y in self.bind(eqn, arrays)]

    def maximum(self, eqn, spikes, sizes):
        [largest] = self.bind(eqn, [spikes.value])
        return Current(largest)

    def decode(self, current, path):
        return Analog(current.value)


__all__ = ["CELLS", "Cell", "ablated", "first_and_biases", "neuron", "taken"]
