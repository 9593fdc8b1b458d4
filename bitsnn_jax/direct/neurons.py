"""Neurons that are trained through time: charge, fire, reset, in a scan over T.

For step t of each neuron, u = 0 before the first:

    u <- charge(u, x_t);   s_t = H(drive(u));   u <- reset(u, s_t)

Time is axis 0. A neuron fires at and above its threshold.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from bitsnn_jax.direct.over_time import over_time
from bitsnn_jax.direct.surrogates import SURROGATES, Spike

Train = Float[Array, "time ..."]
Membrane = Float[Array, "..."]
Scalars = Mapping[str, Array]
Charge = Callable[[Scalars, Membrane, Membrane], Membrane]


class Fired(NamedTuple):
    """What a layer of neurons did in T steps; time is axis 0.

    Attributes:
      values: what the next layer gets.
      spikes: 0 or 1, with a gradient.
      membranes: before firing, which losses look at.
      theta: the threshold, [].
    """

    values: Train
    spikes: Train
    membranes: Train
    theta: Array


class Neuron(Protocol):
    """What a layer of neurons makes of its currents.

    Attributes:
      trained: numbers that are trained, one of each a layer, and where they start.

    One that has an attribute `spike`, a `Spike`, takes other surrogates there.
    """

    @property
    def trained(self) -> Mapping[str, float]: ...

    def __call__(
        self,
        currents: Train,
        scalars: Scalars,
        *,
        unroll: bool = False,
        remat: bool = False,
    ) -> Fired:
        """Run currents [T, ...] with the trained numbers as they are.

        Args:
          currents: of each step.
          scalars: by the names of `trained`, each [].
          unroll: write the T steps out in the program.
          remat: keep nothing of a step but its membrane; the backward pass computes
            the rest again.
        """
        ...


def integrate(scalars: Scalars, u: Membrane, x: Membrane) -> Membrane:
    """Charge an IF neuron: u + x."""
    del scalars
    return u + x


def decay(factor: float) -> Charge:
    """Charge a LIF neuron that keeps a share of its membrane: factor u + x."""
    return lambda scalars, u, x: factor * u + x


def leak(tau: float) -> Charge:
    """Charge a LIF neuron with a time constant, in steps: u + (x - u) / tau."""
    return lambda scalars, u, x: u + (x - u) / tau


def parametric_leak(scalars: Scalars, u: Membrane, x: Membrane) -> Membrane:
    """Charge a PLIF neuron: u + (x - u) sigma(w), with w trained (Fang 2021)."""
    return u + (x - u) * jax.nn.sigmoid(scalars["w"]).astype(x.dtype)


def above(u: Membrane, theta: Array) -> Membrane:
    """Return how far a membrane is above its threshold: u - theta."""
    return u - theta


def relative(u: Membrane, theta: Array) -> Membrane:
    """Return that in thresholds: u / theta - 1."""
    return u / theta - 1


@dataclass(frozen=True)
class IntegrateAndFire:
    """IF, LIF and PLIF neurons, which differ in how they charge.

        hard reset   u <- u (1 - s)          soft reset   u <- u - s theta

    Attributes:
      charge: (trained numbers, u, x) -> u.
      spike: H with a surrogate, of `drive`.
      reset: to 0, or by subtraction.
      detached: the reset passes no gradient on to the spike.
      theta: the threshold; where `trained` has a "theta", that one.
      drive: (u, theta) -> z.
      trained: numbers that are trained, and where they start.

    >>> neuron = IntegrateAndFire(decay(0.5))
    >>> neuron(jnp.array([[0.6], [0.8], [0.2]]), {}).spikes.ravel()
    Array([0., 1., 0.], dtype=float32)
    """

    charge: Charge = integrate
    spike: Spike = SURROGATES["triangle"]
    reset: Literal["hard", "soft"] = "hard"
    detached: bool = False
    theta: float = 1.0
    drive: Callable[[Membrane, Array], Membrane] = above
    trained: Mapping[str, float] = field(default_factory=dict)

    def __call__(
        self,
        currents: Train,
        scalars: Scalars,
        *,
        unroll: bool = False,
        remat: bool = False,
    ) -> Fired:
        theta = jnp.asarray(scalars.get("theta", self.theta), currents.dtype)

        def charge(numbers, v, x):
            return self.charge(numbers[0], v, x)

        def fire(numbers, u):
            theta = numbers[1]
            s = self.spike(self.drive(u, theta))
            r = lax.stop_gradient(s) if self.detached else s
            return u * (1 - r) if self.reset == "hard" else u - r * theta, s

        spikes, membranes = over_time(
            charge, fire, (scalars, theta), currents, unroll=unroll, remat=remat
        )
        return Fired(spikes, spikes, membranes, theta)
