"""MPR, of InfLoR: membranes pushed towards 0 and 1 before they are quantised.

From the authors' code, which trains with SGD 0.01, momentum 0.9, weight decay 1e-4,
cosine, 400 epochs. Norms in residual blocks are tdBN there and here.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from bitsnn_jax.direct.method import Method
from bitsnn_jax.direct.neurons import IntegrateAndFire, integrate
from bitsnn_jax.direct.norms import Norm, threshold_dependent
from bitsnn_jax.direct.surrogates import SURROGATES
from bitsnn_jax.direct.tdbn import THETA, summand
from bitsnn_jax.models.resnet import BasicBlock

FIRES_AT = 0.5


def rectified(u: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return the membrane that is quantised.

        u^(1/3)                                        for u > 1
        1 - (1 - u)^(1/3)                              for u < 0
        1/2 + tanh(3 (u - 1/2)) / (2 tanh(3/2))        between

    Gradient convention: at 0 and 1 it is that of the piece between.

    >>> rectified(jnp.array([-7.0, 0.25, 0.5, 8.0])).round(3)
    Array([-1.   ,  0.149,  0.5  ,  2.   ], dtype=float32)
    """
    # The roots' slopes are infinite at 0, where other pieces are meant.
    above = jnp.cbrt(jnp.where(u > 1, u, 1))
    below = 1 - jnp.cbrt(jnp.where(u < 0, 1 - u, 1))
    between = 0.5 + jnp.tanh(3 * (u - 0.5)) / (2 * jnp.tanh(1.5))
    return jnp.where(u > 1, above, jnp.where(u < 0, below, between))


# The membrane itself is what is charged, and what the soft reset takes 1 from.
NEURON = IntegrateAndFire(
    integrate,
    SURROGATES["rectangle"],
    reset="soft",
    drive=lambda u, theta: rectified(u) - FIRES_AT,
)


def block(features: int, *, norm: Norm, **options: Any) -> BasicBlock:
    """Return a residual block whose norms start at 1/2, see `tdbn`."""
    scaled = threshold_dependent(norm, 1, theta=THETA)
    return BasicBlock(features, norm=scaled, summand=summand, **options)


METHOD = Method(
    name="mpr",
    title="MPR (InfLoR)",
    source="Guo et al., Reducing information loss for SNNs, ECCV 2022",
    neuron=lambda progress: NEURON,
    block=block,
)
