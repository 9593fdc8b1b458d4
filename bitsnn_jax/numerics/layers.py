"""Linen layers: activations that own their threshold, and convolution + norm."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bitsnn_jax.numerics.qcfs import qcfs


class QCFS(nn.Module):
    """QCFS activation (Eq. 2) that owns its threshold `theta`, a trained parameter.

    The activation is sown as ("activations", "a") beside its theta, so that a loss can
    count its bits: `model.apply(..., mutable=["activations"])` returns a tuple
    `(a, theta)` for each call. Nothing is stored when the collection is not mutable.

    An `offset` among the parameters, one number a channel, is added to z. Calibration
    with bias correction puts it there.

    Computes in float32 at least and returns the type of the input: bfloat16 cannot hold
    codes above 2**8.

    Attributes:
      levels: highest code; 2**T - 1 converts without loss at T steps.
      theta_init: where theta starts (the paper: 8), in the units of the pre-activation.
      per_channel: one theta for each channel (last axis) in place of one for the layer.

    >>> act = QCFS(levels=3, theta_init=1.0)
    >>> variables = act.init(jax.random.key(0), jnp.zeros((1, 2)))
    >>> act.apply(variables, jnp.array([[0.2, 0.9]]))
    Array([[0.33333334, 1.        ]], dtype=float32)
    """

    levels: int = 15
    theta_init: float = 8.0
    per_channel: bool = False

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        theta = _theta(self, z)
        if self.has_variable("params", "offset"):  # calibration may have put it there
            z = z + self.get_variable("params", "offset").astype(z.dtype)
        wide = jnp.promote_types(z.dtype, jnp.float32)
        a = qcfs(z.astype(wide), theta.astype(wide), levels=self.levels)
        if not self.is_initializing():
            self.sow("activations", "a", (a, theta))
        return a.astype(z.dtype)


class SignedQCFS(nn.Module):
    """QCFS for values of both signs: a pair of neurons that own one threshold.

        a = qcfs(z, theta) - qcfs(-z, theta)

    Use it where no ReLU was: behind a linear layer, a tanh, for queries and keys. Both
    activations are sown as those of `QCFS` are.

    Attributes:
      levels: highest code of either sign; 2**T - 1 converts without loss at T steps.
      theta_init: where theta starts, in the units of the pre-activation.
      per_channel: one theta for each channel (last axis) in place of one for the layer.

    >>> act = SignedQCFS(levels=3, theta_init=1.0)
    >>> variables = act.init(jax.random.key(0), jnp.zeros((1, 2)))
    >>> act.apply(variables, jnp.array([[0.2, -0.9]]))
    Array([[ 0.33333334, -1.        ]], dtype=float32)
    """

    levels: int = 15
    theta_init: float = 8.0
    per_channel: bool = False

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        theta = _theta(self, z)
        wide = jnp.promote_types(z.dtype, jnp.float32)
        signs = []
        for sign in (1, -1):
            a = qcfs(sign * z.astype(wide), theta.astype(wide), levels=self.levels)
            if not self.is_initializing():
                self.sow("activations", "a", (a, theta))
            signs.append(a)
        on, off = signs
        return (on - off).astype(z.dtype)


class ClippedReLU(nn.Module):
    """ReLU with a trained ceiling: what QCFS is before it is quantised.

        a = clip(z, 0, theta)

    Its `theta` has the same name, shape and start as that of `QCFS`, so that variables
    fit the same network with either.

    Gradient: that of `qcfs` without its rounding. da/dz is 1 for 0 < z < theta and 0
    elsewhere, both edges included; da/dtheta is 1 at and above theta, 0 below.

    Attributes:
      theta_init: where theta starts, in the units of the pre-activation.
      per_channel: one theta for each channel (last axis) in place of one for the layer.

    >>> act = ClippedReLU(theta_init=1.0)
    >>> variables = act.init(jax.random.key(0), jnp.zeros((1, 3)))
    >>> act.apply(variables, jnp.array([[-0.5, 0.25, 1.5]]))
    Array([[0.  , 0.25, 1.  ]], dtype=float32)
    """

    theta_init: float = 8.0
    per_channel: bool = False

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        return self.activate(z, _theta(self, z).astype(z.dtype))

    def activate(self, z: jax.Array, theta: jax.Array) -> jax.Array:
        """Apply the function, with a theta of the type of z."""
        # Not jnp.clip, whose gradient is halved at the edges.
        return jnp.where(z >= theta, theta, jnp.where(z <= 0, 0, z))


def batch_norm(**options: Any) -> Callable[..., Any]:
    """Return what makes the batch norm of all networks, as `ConvNorm` calls it."""
    return partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5, **options)


def _theta(act, z) -> jax.Array:
    """Make an activation's threshold, with the name and shape it must have."""
    shape = z.shape[-1:] if act.per_channel else ()
    return act.param("theta", nn.initializers.constant(act.theta_init), shape)


class ConvNorm(nn.Module):
    """Convolution and normalisation, `norm(W * x)`; or `W * x + b` without a norm.

    Pads by half the kernel on both sides, as PyTorch does, so that imported weights
    fit. "SAME" pads an even image on one side only when the stride is 2.

    Attributes:
      features: output channels.
      norm: makes the normalisation, e.g. `partial(nn.BatchNorm, momentum=0.9)`; called
        with `use_running_average` and `name`. None for a bias in its place.
      kernel_size: side of the square kernel; odd.
      strides: in both directions.
      groups: of channels that do not see each other; `features` for a depthwise
        convolution.
      dtype: of the convolution; None for that of the input. The norm always computes
        and returns float32 at least.

    >>> layer = ConvNorm(8, norm=nn.BatchNorm, strides=2)
    >>> x = jnp.zeros((1, 6, 6, 3))
    >>> variables = layer.init(jax.random.key(0), x, train=False)
    >>> layer.apply(variables, x, train=False).shape
    (1, 3, 3, 8)
    """

    features: int
    norm: Callable[..., Any] | None
    kernel_size: int = 3
    strides: int = 1
    groups: int = 1
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = nn.Conv(
            self.features,
            (self.kernel_size, self.kernel_size),
            strides=self.strides,
            padding=self.kernel_size // 2,
            feature_group_count=self.groups,
            use_bias=self.norm is None,
            dtype=self.dtype,
            kernel_init=nn.initializers.he_normal(),
            name="conv",
        )(x)
        if self.norm is None:
            return x
        return self.norm(use_running_average=not train, name="norm")(x)
