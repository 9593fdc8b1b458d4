"""Spikes that can be trained through: H(z) forward, a smooth derivative backward.

z is the membrane less the threshold, or over it less 1: the neuron decides. All fire at
and above 0, as every neuron of this package does, also where public code has z > 0.
`SURROGATES` has them by name with the width that their authors use.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Potential = Float[Array, "..."]
Spike = Callable[[Potential], Potential]


def surrogate(derivative: Callable[[Potential], Potential]) -> Spike:
    """Make the spike function of a derivative.

        s = H(z),  H(0) = 1;   ds/dz := derivative(z)

    Gradient convention: nothing but z gets one, also if the derivative depends on
    numbers that are traced, as the sharpness of an evolving surrogate is.

    >>> spike = surrogate(lambda z: jnp.exp(-abs(z)))
    >>> float(spike(jnp.array(-0.5))), float(jax.grad(spike)(jnp.array(0.0)))
    (0.0, 1.0)
    """

    def spike(z):
        # An argument of its own, so that the derivative may close over traced values.
        slope = jax.lax.stop_gradient(derivative(z))
        return _fire(z, slope)

    return spike


@jax.custom_vjp
def _fire(z, slope):
    del slope
    return (z >= 0).astype(z.dtype)


def _fire_forward(z, slope):
    return _fire(z, slope), slope


def _fire_backward(slope, g):
    return g * slope, jnp.zeros_like(slope)


_fire.defvjp(_fire_forward, _fire_backward)


def triangle(z: Potential, width: float | Array = 1.0) -> Potential:
    """Return max(0, width - |z|) / width^2, of TET and TEBN (width 1)."""
    return jnp.maximum(0, width - jnp.abs(z)) / width**2


def linear(z: Potential, height: float | Array = 0.3) -> Potential:
    """Return height max(0, 1 - |z|), of DIET-SNN (0.3; z relative to the threshold)."""
    return height * jnp.maximum(0, 1 - jnp.abs(z))


def arctan(z: Potential, alpha: float | Array = 2.0) -> Potential:
    """Return (alpha / 2) / (1 + (pi alpha z / 2)^2), of PLIF and SEW (alpha 2)."""
    return alpha / 2 / (1 + (jnp.pi / 2 * alpha * z) ** 2)


def sigmoid(z: Potential, alpha: float | Array = 4.0) -> Potential:
    """Return alpha sigma(alpha z) (1 - sigma(alpha z)), SpikingJelly's default (4)."""
    s = jax.nn.sigmoid(alpha * z)
    return alpha * s * (1 - s)


def rectangle(z: Potential, width: float | Array = 1.0) -> Potential:
    """Return 1 / width for |z| <= width / 2, 0 elsewhere, of STBP (Wu 2018; 1)."""
    return jnp.where(jnp.abs(z) <= width / 2, 1 / width, 0.0).astype(z.dtype)


def dspike(z: Potential, b: float | Array = 3.0, reach: float = 0.5) -> Potential:
    """Return the derivative of Dspike, tanh(b z) on [-reach, reach] made 0 to 1.

        b (1 - tanh(b z)^2) / (2 tanh(b reach))   for |z| <= reach,   0 elsewhere

    Li et al. 2021, with reach 1/2. SML has it centred with reach 1 and b = 2.5.
    """
    inside = b * (1 - jnp.tanh(b * z) ** 2) / (2 * jnp.tanh(b * reach))
    return jnp.where(jnp.abs(z) <= reach, inside, 0.0).astype(z.dtype)


def evolving(z: Potential, k: float | Array = 1.0) -> Potential:
    """Return (k / 2) sech(k z)^2, of IM-Loss, whose k grows from 1 to 10."""
    return k / 2 * (1 - jnp.tanh(k * z) ** 2)


DERIVATIVES: Mapping[str, Callable[[Potential], Potential]] = MappingProxyType(
    {
        "triangle": triangle,
        "linear": linear,
        "arctan": arctan,
        "sigmoid": sigmoid,
        "rectangle": rectangle,
        "dspike": dspike,
        "dspike_centred": partial(dspike, b=2.5, reach=1.0),
        "evolving": evolving,
    }
)
SURROGATES: Mapping[str, Spike] = MappingProxyType(
    {name: surrogate(derivative) for name, derivative in DERIVATIVES.items()}
)
