"""Eq. (2): the quantised clip-floor-shift activation, its codes and its gradient.

`qcfs` binds a JAX primitive of its own, so that every activation stays visible in the
jaxpr of a model. The spiking reading, the conversion and the certificate look for it.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jaxtyping import Array, Float, Int

from bitsnn_jax.numerics.stored import stored

qcfs_p = Primitive("qcfs")
Floats = Float[Array | np.ndarray, "..."]


def codes(z: Floats, theta: Floats | float, *, levels: int = 15) -> Int[Array, "..."]:
    """Compute the integer codes of Eq. (2).

        k = clip(floor(z / delta + 1/2), 0, levels),   delta = theta / levels

    Halves round up, because the neuron of Eq. (10) fires at equality.

    Args:
      z: [...] pre-activation.
      theta: [] or broadcastable to z, e.g. [C]; clip value in the units of z; positive.
      levels: highest code, at least 1.

    Returns:
      int32 [...] in 0..levels.

    Raises:
      ValueError: levels < 1, z that is not floating, or theta that does not broadcast
        to the shape of z.

    >>> codes(jnp.array([-1.0, 0.3, 0.5, 9.0]), jnp.array(1.0), levels=4)
    Array([0, 1, 2, 4], dtype=int32)
    """
    z, theta = _checked(z, theta, levels)
    return _grid(z, theta, levels).astype(jnp.int32)


def qcfs(z: Floats, theta: Floats | float, *, levels: int = 15) -> Float[Array, "..."]:
    """Apply the quantised clip-floor-shift activation, Eq. (2).

        a = delta * clip(floor(z / delta + 1/2), 0, levels),   delta = theta / levels

    Differs from the paper: `levels` is 2**T - 1 where the text has Q = 2**T, so that
    the top code fits T bits.

    Gradient: straight through the floor, then the clip. da/dz is 1 for 0 < z < theta
    and 0 elsewhere, both edges included; da/dtheta is (a - z) / theta inside, 1 at and
    above theta, 0 at and below 0. Reverse mode only.

    Args:
      z: [..., C] pre-activation.
      theta: [] or broadcastable to z, e.g. [C]; clip value in the units of z; positive.
      levels: highest code, at least 1.

    Returns:
      [..., C] values on the grid {0, delta, ..., theta}, in the type of z.

    Raises:
      ValueError: levels < 1, z that is not floating, or theta that does not broadcast
        to the shape of z.

    >>> qcfs(jnp.array([-1.0, 0.3, 0.5, 9.0]), jnp.array(1.0), levels=4)
    Array([0.  , 0.25, 0.5 , 1.  ], dtype=float32)
    """
    z, theta = _checked(z, theta, levels)
    return _qcfs(levels, z, theta)


def signed_qcfs(
    z: Floats, theta: Floats | float, *, levels: int = 15
) -> Float[Array, "..."]:
    """Apply QCFS to values of both signs, as a pair of neurons on one current.

        a = qcfs(z, theta) - qcfs(-z, theta)

    One neuron is ON, the other OFF, as in the retina; at most one of the two fires. The
    codes run from -levels to levels.

    Gradient: da/dz is 1 for 0 < |z| < theta and 0 elsewhere, da/dtheta is (a - z) /
    theta inside, and the sign of z at and beyond theta.

    Args:
      z: [..., C] pre-activation.
      theta: [] or broadcastable to z, e.g. [C]; largest |a|, in the units of z;
        positive.
      levels: highest code, at least 1.

    Returns:
      [..., C] values on the grid {-theta, ..., -delta, 0, delta, ..., theta}, in the
      type of z.

    Raises:
      ValueError: as `qcfs`.

    >>> signed_qcfs(jnp.array([-9.0, -0.3, 0.1, 0.5]), jnp.array(1.0), levels=4)
    Array([-1.  , -0.25,  0.  ,  0.5 ], dtype=float32)
    """
    z = jnp.asarray(z)
    return qcfs(z, theta, levels=levels) - qcfs(-z, theta, levels=levels)


def _checked(z, theta, levels) -> tuple[Array, Array]:
    if levels < 1:
        raise ValueError(f"levels must be at least 1, got {levels}")
    z = jnp.asarray(z)
    if not jnp.issubdtype(z.dtype, jnp.floating):
        raise ValueError(f"z must be of a floating type, got {z.dtype}")
    return z, aligned(jnp.asarray(theta, z.dtype), z.shape)


def aligned(theta: Array, shape: tuple[Any, ...]) -> Array:
    """Give theta as many axes as the neurons it is for; leave a scalar as it is.

    Raises:
      ValueError: theta does not broadcast to `shape`.
    """
    try:
        fits = jnp.broadcast_shapes(shape, theta.shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"theta of shape {theta.shape} does not broadcast to neurons of shape "
            f"{shape}: give one threshold, or one for each channel (last axis)"
        )
    missing = len(shape) - theta.ndim if theta.ndim else 0
    return theta.reshape(*(1,) * missing, *theta.shape)


def step_size(theta: Array, levels: int) -> Array:
    """Compute delta = theta / levels, rounded the same in every program.

    Multiplies by 1 / levels, because XLA turns the quotient into this product in some
    programs and not in others. levels * (1 / levels) is 1 for 2**T - 1: ties stay ties.
    """
    return theta * (1 / levels)


def grid_codes(a: Array, delta: Array) -> Array:
    """Convert values that are on the grid already to int32 codes."""
    return (a / delta + 0.5).astype(jnp.int32)


def _grid(z, theta, levels) -> Array:
    return jnp.clip(jnp.floor(z * (levels / theta) + 0.5), 0, levels)


def qcfs_forward(z: Array, theta: Array, *, levels: int) -> Array:
    """Compute the values of `qcfs` by operations that every program has."""
    return step_size(theta, levels) * _grid(z, theta, levels)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _qcfs(levels, z, theta) -> Array:
    return qcfs_p.bind(z, theta, levels=levels)


def _qcfs_fwd(levels, z, theta):
    return stored(_qcfs(levels, z, theta)), (z, theta)


def _qcfs_bwd(levels, residuals, g):
    z, theta = residuals
    inside = (z > 0) & (z < theta)
    a = qcfs_forward(z, theta, levels=levels)
    to_theta = jnp.where(inside, (a - z) / theta, z >= theta)
    return jnp.where(inside, g, 0), sum_to_shape(g * to_theta, theta.shape)


_qcfs.defvjp(_qcfs_fwd, _qcfs_bwd)


def sum_to_shape(x, shape) -> Array:
    """Transpose the broadcasting of a scalar, or an `aligned` shape, to that of x."""
    if not shape:
        return x.sum()
    return x.sum([i for i, n in enumerate(shape) if n == 1], keepdims=True)


def _batch(args, dims, *, levels):
    z, theta = args
    z_dim, theta_dim = dims
    size = z.shape[z_dim] if z_dim is not None else theta.shape[theta_dim]
    z = batching.bdim_at_front(z, z_dim, size)
    if theta_dim is not None:
        theta = jnp.moveaxis(theta, theta_dim, 0)
        theta = theta.reshape(theta.shape + (1,) * (z.ndim - theta.ndim))
    elif theta.ndim:
        theta = theta[None]
    return qcfs_p.bind(z, theta, levels=levels), 0


qcfs_p.def_impl(jax.jit(qcfs_forward, static_argnames="levels"))
qcfs_p.def_abstract_eval(lambda z, theta, *, levels: z.update(weak_type=False))
mlir.register_lowering(qcfs_p, mlir.lower_fun(qcfs_forward, multiple_results=False))
batching.primitive_batchers[qcfs_p] = _batch
