"""DSR: spikes forward, and backward the derivative of the rate, without time."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from bitsnn_jax.direct.method import Method
from bitsnn_jax.direct.neurons import Fired, Membrane, Scalars, Train


@dataclass(frozen=True)
class DifferentiatedRate:
    """Neurons whose gradient is that of the rate that they code for.

        u <- charge(u, x_t);   s_t = H(u - alpha V);   u <- u - V s_t
        values = height V s_t

    With the weighted means over time x = sum_t w_t x_t / sum_t w_t, and g in the same
    way of the gradients of the values, backward

        IF:    dx_t = g [0 <= x <= V],                 dV = sum T g [x > V]
        LIF:   dx_t = g [0 < x < V tau / dt] / tau,    dV = sum T g dt [x > V / dt]

    where the sums are over neurons and examples. For IF, w_t = 1 and height is 1; for
    LIF with tau set, w_t = exp(-(T - t) dt / tau) and height is 1 / dt. Neither sees
    single steps, so memory does not grow with T, but for the currents themselves.

    Gradient of `spikes`: that of the clipped rate x / V. `membranes` have none.

    Attributes:
      alpha: share of V at which a neuron fires.
      tau: time constant of LIF neurons; None for IF.
      dt: length of a step, in the units of tau.
      start: where V starts. It is trained, as theta. The authors' IF neurons start at
        6, for T = 20. At T = 4 a rate then has steps of 3/2, and most neurons of a
        network with batch norm are silent.

    >>> neuron = DifferentiatedRate()
    >>> fired = neuron(jnp.array([[0.6], [0.6], [0.6]]), {"theta": jnp.array(1.0)})
    >>> fired.values.ravel()
    Array([1., 0., 1.], dtype=float32)
    """

    alpha: float = 0.5
    tau: float | None = None
    dt: float = 1.0
    start: float = 2.0

    @property
    def trained(self) -> Mapping[str, float]:
        """Return the numbers that are trained, and where they start."""
        return {"theta": self.start}

    def __call__(
        self,
        currents: Train,
        scalars: Scalars,
        *,
        unroll: bool = False,
        remat: bool = False,
    ) -> Fired:
        del remat  # a step keeps nothing
        theta = jnp.asarray(scalars["theta"], currents.dtype)
        values, spikes, membranes = _fire(self, unroll, currents, theta)
        return Fired(values, spikes, membranes, theta)

    @property
    def height(self) -> float:
        """Return what a spike is worth, in V."""
        return 1.0 if self.tau is None else 1 / self.dt

    def charge(self, u: Membrane, x: Membrane) -> Membrane:
        """Return the membrane with a current in it."""
        if self.tau is None:
            return u + x
        beta = jnp.exp(jnp.asarray(-self.dt / self.tau, x.dtype))
        return beta * u + (1 - beta) * x

    def mean(self, train: Train) -> Membrane:
        """Average over time, as the membrane does."""
        if self.tau is None:
            return train.mean(0)
        steps = len(train)
        left = jnp.arange(steps - 1, -1, -1, dtype=train.dtype)
        w = jnp.exp(-left * (self.dt / self.tau))
        return jnp.tensordot(w / w.sum(), train, axes=1)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _fire(neuron, unroll, currents, theta):
    def step(u, x):
        u = neuron.charge(u, x)
        s = u >= neuron.alpha * theta
        return jnp.where(s, u - theta, u), (s.astype(u.dtype), u)

    # Zeros of the currents, so that the carry varies over devices as they do.
    rest = jnp.zeros_like(currents[0])
    steps = len(currents)
    _, (spikes, u) = lax.scan(step, rest, currents, unroll=steps if unroll else 1)
    return spikes * (theta * neuron.height), spikes, u


def _forward(neuron, unroll, currents, theta):
    mean = neuron.mean(currents)
    return _fire(neuron, unroll, currents, theta), (mean, theta)


def _backward(neuron, unroll, residuals, gradients):
    del unroll
    x, theta = residuals
    of_values, of_spikes, _ = gradients
    steps = len(of_values)
    g = neuron.mean(of_values)
    scale = 1.0 if neuron.tau is None else neuron.tau
    top = theta * neuron.height
    if neuron.tau is None:
        inside, over = (x >= 0) & (x <= top), x > top
    else:
        inside, over = (x > 0) & (x < top * scale), x > top
    to_x = jnp.where(inside, g, 0) / scale
    to_theta = jnp.where(over, g, 0).sum() * steps / neuron.height
    # Each step's share of the rate's own gradient.
    rate = jnp.where(inside, of_spikes.mean(0), 0) / top
    to_x += rate
    to_theta -= (rate * x).sum() * steps / theta
    return jnp.broadcast_to(to_x, of_values.shape), to_theta


_fire.defvjp(_forward, _backward)


def _method(name: str, title: str, neuron: DifferentiatedRate) -> Method:
    return Method(
        name=name,
        title=title,
        source="Meng et al., Training high-performance low-latency spiking neural "
        "networks by differentiation on spike representation, CVPR 2022",
        neuron=lambda progress: neuron,
    )


METHODS = (
    _method("dsr", "DSR", DifferentiatedRate()),
    _method(
        "dsr_lif",
        "DSR, leaky",
        DifferentiatedRate(alpha=0.3, tau=1.0, dt=0.05, start=0.3),
    ),
)
