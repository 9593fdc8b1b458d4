"""The hybrid: our converted network, trained on through time.

A QCFS network, converted, is the network of Eq. (9) and (10), spike by spike. Training
begins there, with the outputs and the codes of the QCFS network, and goes on with
gradients through the spikes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from bitsnn_jax.direct.method import Method
from bitsnn_jax.direct.neurons import Fired, Scalars, Train, relative
from bitsnn_jax.direct.starting import thresholds_kept
from bitsnn_jax.direct.surrogates import SURROGATES, Spike
from bitsnn_jax.numerics.qcfs import step_size
from bitsnn_jax.numerics.spikes import weights


@dataclass(frozen=True)
class BitSerial:
    """Neurons that integrate T steps, and then fire T bits, the largest first.

        u(1)   = mean_t x_t + delta / 2,   delta = theta / (2**T - 1)
        s(t)   = H(u(t) - w_t),            w_t = delta 2**(T-t)
        u(t+1) = u(t) - w_t s(t);          values = T w_t s(t)

    These are Eq. (9) and (10) with all charge times T. Proposition I gives each step
    g_c(x) = g(x) - (1 - 1/T) g(0) of an affine layer g, which is g(T x) / T: with
    values and currents T times as large, the shifted network is the network itself. So
    biases and norms stay those of the QCFS network, also where an image comes in at
    each step, and what was trained can be converted again as a QCFS network.

    Gradient: H has the surrogate of u / w_t - 1. With a rectangle of width 1, and a
    loss whose gradient is the same at each step, the sum over time telescopes into the
    gradient of `qcfs`: straight through where 0 <= z <= theta, for z and for theta.
    With a detached reset it does not, and each bit that is near its threshold adds to
    the gradient.

    Attributes:
      spike: H with a surrogate.
      detached: the reset passes no gradient on to the spike.
      start: where theta starts in a network that was not trained before.

    >>> neuron = BitSerial()
    >>> fired = neuron(jnp.full((4, 1), 5.4), {"theta": jnp.array(15.0)})
    >>> fired.spikes.ravel(), fired.values.mean()
    (Array([0., 1., 0., 1.], dtype=float32), Array(5., dtype=float32))
    """

    spike: Spike = SURROGATES["rectangle"]
    detached: bool = False
    start: float = 8.0

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
        steps, dtype = len(currents), currents.dtype
        theta = jnp.asarray(scalars["theta"], dtype)
        delta = step_size(theta, 2**steps - 1)

        def step(u, power):
            threshold = delta * power
            s = self.spike(relative(u, threshold))
            r = lax.stop_gradient(s) if self.detached else s
            return u - threshold * r, (steps * threshold * s, s, u)

        body = jax.checkpoint(step) if remat else step
        _, (values, spikes, membranes) = lax.scan(
            body,
            currents.mean(0) + delta / 2,
            jnp.asarray(weights(steps), dtype),
            unroll=steps if unroll else 1,
        )
        return Fired(values, spikes, membranes, theta)


def _method(name: str, title: str, neuron: BitSerial) -> Method:
    return Method(
        name=name,
        title=title,
        source="ours: the network of Eq. (9) and (10), trained through time",
        neuron=lambda progress: neuron,
        frozen_norms=True,
        start=thresholds_kept,
        starts_from=("qcfs", "clipped_relu"),
        needs_start=True,
        pools=("average",),
        waits=True,
    )


METHODS = (
    _method("bit_serial", "Bit-serial, trained on", BitSerial()),
    _method(
        "bit_serial_detached",
        "Bit-serial, trained on with detached resets",
        BitSerial(SURROGATES["triangle"], detached=True),
    ),
)
