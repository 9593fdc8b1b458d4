"""Linen layers that other methods train their networks with, in the place of QCFS.

They own a `theta` under the name and in the shape of that of `QCFS`, so that variables
fit the same network. That of `RateNorm` is a statistic and no parameter.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from bitsnn_jax.numerics.layers import ClippedReLU
from bitsnn_jax.numerics.qcfs import qcfs, step_size


class SlipReLU(ClippedReLU):
    """A mean of the clipped ReLU and its steps (Jiang et al., ICML 2023).

        a = slope clip(z, 0, theta) + (1 - slope) qcfs(z, theta)

    Jiang et al., A unified optimization framework of ANN-SNN conversion: towards
    optimal mapping from activation values to firing rates, 2023. The steps lose little
    when neurons replace them, the clipped ReLU learns better; the slope trades one for
    the other. 0.5 is the default of the authors' public code.

    Differs from that code: steps outside of 0..theta have no gradient, where theirs
    have one for half a step more.

    Gradient: the same mean, of the gradients of `ClippedReLU` and `qcfs`.

    Attributes:
      levels: highest code of the steps.
      slope: share of the clipped ReLU, in 0..1.

    >>> act = SlipReLU(levels=1, theta_init=1.0)
    >>> variables = act.init(jax.random.key(0), jnp.zeros((1, 3)))
    >>> act.apply(variables, jnp.array([[-0.5, 0.25, 0.75]]))
    Array([[0.   , 0.125, 0.875]], dtype=float32)
    """

    levels: int = 15
    slope: float = 0.5

    def activate(self, z: jax.Array, theta: jax.Array) -> jax.Array:
        steps = qcfs(z, theta, levels=self.levels)
        return self.slope * super().activate(z, theta) + (1 - self.slope) * steps


class StepReLU(ClippedReLU):
    """Steps that round down, as neurons do that start empty (Wang et al., IJCAI 2023).

        a = delta clip(floor(z / delta), 0, levels),   delta = theta / levels

    Wang et al., A new ANN-SNN conversion method with high accuracy, low latency and
    good robustness, 2023; after the public code, which has the training only.

    Differs from that code: there delta is 0.05 with 20 steps, and the values above go
    on as those of a ReLU, though neurons send no more than one spike a step. Here they
    stay at theta, which is trained. At a multiple of delta the step is taken, because
    neurons fire at equality; there it is taken just above.

    Gradient: that of `ClippedReLU`, straight through the floor.

    Attributes:
      levels: highest code.

    >>> act = StepReLU(levels=2, theta_init=1.0)
    >>> variables = act.init(jax.random.key(0), jnp.zeros((1, 4)))
    >>> act.apply(variables, jnp.array([[-0.5, 0.45, 0.5, 3.0]]))
    Array([[0. , 0. , 0.5, 1. ]], dtype=float32)
    """

    levels: int = 15

    def activate(self, z: jax.Array, theta: jax.Array) -> jax.Array:
        clipped = super().activate(z, theta)
        codes = jnp.clip(jnp.floor(z * (self.levels / theta)), 0, self.levels)
        # The difference is 0, and has the gradient.
        nothing = clipped - lax.stop_gradient(clipped)
        return lax.stop_gradient(step_size(theta, self.levels) * codes) + nothing


class RateNorm(nn.Module):
    """A ReLU that is clipped at its largest activation (Ding et al., IJCAI 2021).

        theta <- (1 - momentum) theta + momentum max(z of the batch, 0)   in training
        a     =  clip(z, 0, theta)

    Ding et al., Optimal ANN-SNN conversion for fast and accurate inference in deep
    spiking neural networks, 2021: their rate norm layer in its first stage. `theta` is
    among the batch statistics. It moves while these are mutable, and then clips with
    the new value.

    Differs from the authors' public code: a is in the units of z, where theirs is a /
    theta; weights behind it take up the factor. Theirs clips at theta sigmoid(10) =
    0.99995 theta. theta starts at `theta_init`, theirs at 1.

    Gradient: da/dz is 1 for 0 < z < theta and 0 elsewhere; theta has none.

    Attributes:
      theta_init: where theta starts, in the units of the pre-activation.
      momentum: share of a batch in the running average.
      axis_name: of the `pmap` whose replicas share a batch; None for one.

    >>> act = RateNorm(theta_init=1.0, momentum=0.5)
    >>> variables = act.init(jax.random.key(0), jnp.zeros((1, 2)))
    >>> act.apply(variables, jnp.array([[0.5, 2.0]]))
    Array([[0.5, 1. ]], dtype=float32)
    >>> a, _ = act.apply(variables, jnp.array([[0.5, 2.0]]), mutable=["batch_stats"])
    >>> a
    Array([[0.5, 1.5]], dtype=float32)
    """

    theta_init: float = 8.0
    momentum: float = 0.1
    axis_name: str | None = None

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        own = self.variable(
            "batch_stats", "theta", lambda: jnp.asarray(self.theta_init, jnp.float32)
        )
        if self.is_mutable_collection("batch_stats") and not self.is_initializing():
            largest = jnp.maximum(lax.stop_gradient(z).max(), 0)
            if self.axis_name is not None:
                largest = lax.pmax(largest, self.axis_name)
            moved = (1 - self.momentum) * own.value + self.momentum * largest
            own.value = moved.astype(own.value.dtype)
        theta = own.value.astype(z.dtype)
        return jnp.where(z >= theta, theta, jnp.where(z <= 0, 0, z))
