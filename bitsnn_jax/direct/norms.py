"""Batch norms of directly trained networks. Rows are [T n, ...], time first.

Statistics are over all T steps and all examples. A kind of norm is a function of the
network's own norm and T, which returns what a layer calls with `use_running_average`
and `name`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax

from bitsnn_jax.direct.spiking import by_step

Norm = Callable[..., Any]


def over_time_and_batch(norm: Norm, steps: int) -> Norm:
    """Return the network's own batch norm, which takes time for more examples."""
    del steps
    return norm


def threshold_dependent(norm: Norm, steps: int, *, theta: float = 1.0) -> Norm:
    """Scale batch norm to the threshold, tdBN (Zheng et al. 2021).

        y = gamma (x - mean) / sqrt(var + epsilon) + beta

    where gamma starts at theta. `tdbn` says how that differs from the paper, and what
    becomes of residual blocks.
    """
    del steps
    scaled = nn.initializers.constant(theta)
    return partial(norm, scale_init=scaled)


def temporal_effective(norm: Norm, steps: int) -> Norm:
    """Weight each step of batch norm, TEBN (Duan et al. 2022): y_t = p_t BN(x)_t.

    p starts at 1. Differs from the published code, where p has four entries whatever T.
    """
    return partial(TemporalEffectiveNorm, norm=norm, steps=steps)


class TemporalEffectiveNorm(nn.Module):
    """Batch norm with one trained weight for each step, `steps`.

    Attributes:
      norm: makes the batch norm.
      steps: T.
      use_running_average: whether statistics are those of training.
    """

    norm: Norm
    steps: int
    use_running_average: bool | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        inner = self.norm(use_running_average=self.use_running_average, name="norm")
        y = inner(x)
        p = self.param("steps", nn.initializers.ones, (self.steps,))
        weights = p.reshape(-1, *(1,) * y.ndim).astype(y.dtype)
        return (weights * by_step(y, self.steps)).reshape(y.shape)
